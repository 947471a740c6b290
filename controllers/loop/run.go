package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"skiff/api"
	"skiff/client"
)

// Config says what a Loop runs and as whom.
type Config struct {
	Controllers []Controller
	// Client follows all that the controllers read (system:kube-controller-manager).
	Client client.Client
	// As returns the client of a controller's own service account.
	As func(controller string) client.Client
	// Record tells users of an event, as the controller. Nil: events are dropped.
	Record func(controller string, e Event)
	// Random makes name suffixes and nothing else. Nil: seeded by the runtime.
	Random *rand.Rand
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// AtOnce is how many plans are carried out at once; 0: 64.
	AtOnce int
}

// Loop runs controllers over one view that they share. All decisions are made on
// one goroutine, which never blocks; plans are carried out on others.
type Loop struct {
	c       Config
	view    *client.View
	readers map[*api.Resource][]*controller
	sources []client.Source
	all     []*controller

	done    chan outcome
	slots   chan struct{}
	running sync.WaitGroup
	wakes   wakes
}

// controller is a row and where its keys stand.
type controller struct {
	Controller
	client client.Client
	keys   map[Key]*state
	queue  []Key // keys whose state is queued, in order
	// waiting are the keys whose own last writes the view has not shown yet.
	waiting map[Key]*state
}

// state of a key. A key without memory, queue place or pending writes has none.
type state struct {
	queued   bool // in controller.queue
	busy     bool // a plan is being carried out
	again    bool // something changed while it was busy or waiting
	pending  []mark
	memory   Memory
	failures int
	wakeAt   time.Time
}

// New checks the table and starts nothing.
func New(c Config) (*Loop, error) {
	if c.Client == nil || c.As == nil {
		return nil, errors.New("loop: Config.Client and Config.As are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.AtOnce == 0 {
		c.AtOnce = 64
	}
	if c.Record == nil {
		c.Record = func(string, Event) {}
	}
	if c.Random == nil {
		c.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	l := &Loop{c: c, readers: map[*api.Resource][]*controller{}, done: make(chan outcome), slots: make(chan struct{}, c.AtOnce)}
	var indexes []client.Index
	have := map[string]bool{}
	for _, row := range c.Controllers {
		if row.Keys == nil {
			row.Keys = func(_ *client.View, ch client.Change) []Key { return []Key{KeyOf(ch.Object())} }
		}
		ctl := &controller{Controller: row, client: c.As(row.Name), keys: map[Key]*state{}, waiting: map[Key]*state{}}
		l.all = append(l.all, ctl)
		for _, r := range row.Reads {
			if l.readers[r] == nil {
				l.sources = append(l.sources, client.Source{Resource: r})
			}
			l.readers[r] = append(l.readers[r], ctl)
		}
		for _, ix := range row.Indexes {
			// Several controllers may ask for the same index by the same name.
			if id := ix.Resource.String() + " " + ix.Name; !have[id] {
				have[id] = true
				indexes = append(indexes, ix)
			}
		}
	}
	l.view = client.NewView(indexes...)
	return l, nil
}

// Run decides and writes until ctx ends; it returns when nothing of it runs.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.running.Wait()
	defer cancel()

	feed := l.c.Client.Follow(ctx, l.sources...)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(l.wakes.until(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-feed.C:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("controllers: the feed ended")
			}
			l.learn(batch)
		case o := <-l.done:
			l.finish(o)
		case <-timer.C:
			for _, w := range l.wakes.due(time.Now()) {
				if st := w.controller.keys[w.key]; st != nil && st.wakeAt.Equal(w.at) {
					st.wakeAt = time.Time{}
					l.enqueue(w.controller, w.key)
				}
			}
		}
		l.decideAll(ctx)
	}
}

// learn takes in changes and queues the keys that they concern.
func (l *Loop) learn(batch client.Batch) {
	l.view.Apply(batch)
	for _, change := range batch.Changes {
		for _, ctl := range l.readers[change.Resource] {
			for _, key := range ctl.Keys(l.view, change) {
				l.enqueue(ctl, key)
			}
		}
	}
	for _, ctl := range l.all {
		for key, st := range ctl.waiting {
			if !l.seen(st) {
				continue
			}
			delete(ctl.waiting, key)
			if st.again {
				l.enqueue(ctl, key)
			}
			ctl.forget(key, st)
		}
	}
}

// seen drops the marks that the view has passed and tells whether none is left.
func (l *Loop) seen(st *state) bool {
	left := st.pending[:0]
	for _, m := range st.pending {
		if !m.seen(l.view) {
			left = append(left, m)
		}
	}
	st.pending = left
	return len(left) == 0
}

// enqueue queues a key, or notes that it must be decided again.
func (l *Loop) enqueue(ctl *controller, key Key) {
	st := ctl.keys[key]
	if st == nil {
		st = &state{}
		ctl.keys[key] = st
	}
	switch {
	case st.queued:
	case st.busy, len(st.pending) > 0:
		st.again = true
	default:
		st.queued = true
		ctl.queue = append(ctl.queue, key)
	}
}

// decideAll decides queued keys, the controllers in turn, as long as there are
// slots for plans.
func (l *Loop) decideAll(ctx context.Context) {
	for more := true; more; {
		more = false
		for _, ctl := range l.all {
			if len(ctl.queue) == 0 {
				continue
			}
			select {
			case l.slots <- struct{}{}:
			default:
				return // a finished plan brings us back
			}
			key := ctl.queue[0]
			ctl.queue = ctl.queue[1:]
			if !l.decide(ctx, ctl, key) {
				<-l.slots
			}
			more = true
		}
	}
}

// decide makes one decision and starts its plan; false: there is nothing to do.
func (l *Loop) decide(ctx context.Context, ctl *controller, key Key) bool {
	st := ctl.keys[key]
	st.queued, st.again = false, false
	var plan Plan
	plan, st.memory = ctl.Decide(l.view, key, time.Now(), st.memory)
	l.wake(ctl, key, st, plan.WakeAt)
	if len(plan.Writes) == 0 {
		for _, e := range plan.Events {
			l.c.Record(ctl.Name, e)
		}
		st.failures = 0
		ctl.forget(key, st)
		return false
	}
	l.name(plan.Writes)
	st.busy = true
	l.running.Add(1)
	go func() {
		defer l.running.Done()
		o := outcome{controller: ctl, key: key, events: plan.Events, result: carryOut(ctx, ctl.client, plan.Writes)}
		select {
		case l.done <- o:
		case <-ctx.Done():
		}
	}()
	return true
}

// outcome of a plan.
type outcome struct {
	controller *controller
	key        Key
	events     []Event // of the plan as a whole
	result     result
}

// finish notes what became of a plan.
func (l *Loop) finish(o outcome) {
	<-l.slots
	ctl, st := o.controller, o.controller.keys[o.key]
	st.busy, st.pending = false, o.result.marks
	for _, e := range o.result.events {
		l.c.Record(ctl.Name, e)
	}
	for _, r := range o.result.refused {
		if ctl.Refused != nil {
			st.memory = ctl.Refused(st.memory, r.write, r.err)
		}
	}
	if o.result.err != nil {
		st.failures++
		retry := backoff(st.failures)
		l.c.Logger.Debug("plan refused", "controller", ctl.Name, "key", o.key, "retry", retry, "error", o.result.err)
		l.wake(ctl, o.key, st, time.Now().Add(retry))
		st.again = false
	} else {
		st.failures = 0
		for _, e := range o.events {
			l.c.Record(ctl.Name, e)
		}
	}
	switch {
	case !l.seen(st):
		ctl.waiting[o.key] = st
	case st.again:
		l.enqueue(ctl, o.key)
	default:
		ctl.forget(o.key, st)
	}
}

// backoff after n failures in a row: 5 ms, doubling, a minute at most.
func backoff(n int) time.Duration {
	return min(5*time.Millisecond<<min(n-1, 20), time.Minute)
}

// wake sees to it that the key is decided at that time, or earlier.
func (l *Loop) wake(ctl *controller, key Key, st *state, at time.Time) {
	if at.IsZero() || !st.wakeAt.IsZero() && !at.Before(st.wakeAt) && st.wakeAt.After(time.Now()) {
		return
	}
	st.wakeAt = at
	l.wakes.add(wake{at: at, controller: ctl, key: key})
}

// forget drops the state of a key about which there is nothing to know.
func (ctl *controller) forget(key Key, st *state) {
	if st.memory == nil && !st.queued && !st.busy && !st.again && len(st.pending) == 0 && st.wakeAt.IsZero() && st.failures == 0 {
		delete(ctl.keys, key)
	}
}

// name turns generated names into names, as the API server would.
func (l *Loop) name(writes []Write) {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	for _, w := range writes {
		if w.verb != "create" || w.object.GetName() != "" || w.object.GetGenerateName() == "" {
			continue
		}
		prefix := w.object.GetGenerateName()
		if most := 63 - 5; len(prefix) > most {
			prefix = prefix[:most]
		}
		suffix := make([]byte, 5)
		for i := range suffix {
			suffix[i] = letters[l.c.Random.IntN(len(letters))]
		}
		w.object.SetName(prefix + string(suffix))
	}
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return fmt.Sprintf("%s/%s", k.Namespace, k.Name)
}
