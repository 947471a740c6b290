package cache

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// Interest is a part of a table that a watcher wants to hear of: all of it, a
// namespace, one object, or the objects whose indexed field has a value (before
// or after the change). It is what dispatch can tell apart at no cost; finer
// selections are the watcher's own work.
type Interest struct {
	Table     *Table
	Namespace string // "": all
	Name      string // "": all; with a Namespace, if the resource has namespaces
	Indexed   bool   // Value counts
	Value     string // of the table's indexed field
}

// Watcher receives the events of some interests, in order, without gap or
// duplicate. It costs the cache something only when one of them has an event. A
// watcher that falls behind reads from the history, and ends with ErrTooOld when
// the history has forgotten what it needs. One goroutine reads it.
type Watcher struct {
	cache     *Cache
	interests []Interest
	wake      chan struct{} // holds one; there may be something to take

	after int64 // what was asked for

	mu     sync.Mutex
	queue  []*Event
	last   int64 // everything of interest up to here was put into queue
	behind bool  // events after last are in the history only
	err    error // why the watch has ended
}

// Wake has something to receive when Take may return more than the last time.
func (w *Watcher) Wake() <-chan struct{} { return w.wake }

// Taken is what a watcher was told at a time.
type Taken struct {
	Events []*Event
	// Revision up to which there is nothing more to tell.
	Revision int64
	// state is that at Revision; nil: there are more events, up to a later one.
	state *state
}

// Complete tells that there was nothing more at the time of Take. Then Snapshot
// returns what the events led to.
func (t Taken) Complete() bool { return t.state != nil }

// Snapshot returns a table's state at Revision. Only if Complete.
func (t Taken) Snapshot(of *Table) Snapshot {
	return Snapshot{Revision: t.Revision, table: of, version: t.state.of(of)}
}

// Take returns the events since the last call. ErrTooOld ends the watch.
func (w *Watcher) Take() (Taken, error) {
	told := w.cache.told.Load() // before the queue: what was told is in there
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return Taken{}, w.err
	}
	events := w.queue
	if w.behind {
		if len(events) == 0 {
			return w.takeFromHistory()
		}
		w.queue = nil
		w.signal() // come back for what is in the history
		return Taken{Events: events, Revision: events[len(events)-1].Revision}, nil
	}
	// What is being told just now waits for the next call.
	n := len(events)
	for n > 0 && events[n-1].Revision > told.revision {
		n--
	}
	events, w.queue = events[:n:n], events[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	return Taken{Events: events, Revision: max(w.after, told.revision), state: told}, nil
}

// takeFromHistory is called with w.mu held, and gives it up for a moment, since
// Cache.mu comes first. Only dispatch, which holds Cache.mu, could come between,
// and it leaves alone who is behind.
func (w *Watcher) takeFromHistory() (Taken, error) {
	w.mu.Unlock()
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	w.mu.Lock()
	if w.err != nil {
		return Taken{}, w.err
	}
	events, complete, err := w.cache.pastLocked(w.interests, w.last, w.cache.config.Queue)
	if err != nil {
		w.err = err
		return Taken{}, err
	}
	if !complete {
		w.last = events[len(events)-1].Revision
		w.signal()
		return Taken{Events: events, Revision: w.last}, nil
	}
	told := w.cache.told.Load()
	w.behind, w.last = false, max(w.last, told.revision)
	return Taken{Events: events, Revision: w.last, state: told}, nil
}

// push is called by dispatch, with Cache.mu held. It returns whether the watcher
// has to be woken, which dispatch does when all is told.
func (w *Watcher) push(e *Event) (wake bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Revision <= w.last || w.behind || w.err != nil {
		return false // told already (two interests met in one event), or to be read from the history
	}
	if len(w.queue) >= w.cache.config.Queue {
		w.behind = true
		return true
	}
	w.queue = append(w.queue, e)
	w.last = e.Revision
	return true
}

// end ends the watch with an error, which Take will return.
func (w *Watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err, w.queue = err, nil
	}
	w.signal()
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Stop ends the watch. It may be called more than once.
func (w *Watcher) Stop() {
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	for _, in := range w.interests {
		in.Table.watchers.remove(in, w)
	}
}

// Watch starts a watcher that is told all events with a revision greater than
// after, which may lie in the future. ErrTooOld: the history does not reach
// back that far.
func (c *Cache) Watch(after int64, in ...Interest) (*Watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range in {
		if start := i.Table.history.start; after < start {
			return nil, tooOld(after, start)
		}
	}
	w := c.registerLocked(after, in)
	w.behind = after < c.told.Load().revision
	w.signal()
	return w, nil
}

// WatchFromNow returns the state of each interest's table, all of one revision,
// and a watcher that is told every event after it.
func (c *Cache) WatchFromNow(in ...Interest) (*Watcher, []Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told.Load()
	states := make([]Snapshot, len(in))
	for i := range in {
		states[i] = Snapshot{Revision: told.revision, table: in[i].Table, version: told.of(in[i].Table)}
	}
	return c.registerLocked(told.revision, in), states
}

func (c *Cache) registerLocked(after int64, in []Interest) *Watcher {
	w := &Watcher{cache: c, interests: in, wake: make(chan struct{}, 1), after: after, last: after}
	for _, i := range in {
		i.Table.watchers.add(i, w)
	}
	return w
}

// pastLocked returns the events of the interests after a revision, at most limit
// of them, and whether these are all.
func (c *Cache) pastLocked(in []Interest, after int64, limit int) (events []*Event, complete bool, err error) {
	complete = true
	var done []*Table
	for _, i := range in {
		if start := i.Table.history.start; after < start {
			return nil, false, tooOld(after, start)
		}
		if slices.Contains(done, i.Table) {
			continue
		}
		done = append(done, i.Table)
		n := 0
		for _, e := range i.Table.history.after(after) {
			if !anyMatches(in, e) {
				continue
			}
			if n++; n > limit {
				complete = false
				break
			}
			events = append(events, e)
		}
	}
	if len(done) > 1 {
		slices.SortFunc(events, func(a, b *Event) int { return cmp.Compare(a.Revision, b.Revision) })
	}
	if len(events) > limit {
		events, complete = events[:limit], false
	}
	return events, complete, nil
}

func anyMatches(in []Interest, e *Event) bool {
	return slices.ContainsFunc(in, func(i Interest) bool { return i.matches(e) })
}

// matches tells whether the interest hears of the event.
func (i Interest) matches(e *Event) bool {
	if i.Table != e.table {
		return false
	}
	entry := e.New
	if entry == nil {
		entry = e.Old
	}
	if i.Namespace != "" && entry.namespace != i.Namespace || i.Name != "" && entry.name != i.Name {
		return false
	}
	if !i.Indexed {
		return true
	}
	for _, entry := range []*Entry{e.Old, e.New} {
		if entry == nil {
			continue
		}
		if v, ok := i.Table.value(entry); ok && v == i.Value {
			return true
		}
	}
	return false
}

// interests finds the watchers of an event.
type interests map[interest]map[*Watcher]struct{}

// interest is an Interest without its table, and with only that part of it by
// which it is found: the value if it has one, else the name, else the namespace.
type interest struct {
	by   byte // 'a'll, 'n'amespace, 'o'bject, 'v'alue
	a, b string
}

func newInterests() interests { return interests{} }

func (i Interest) key() interest {
	switch {
	case i.Indexed:
		return interest{by: 'v', a: i.Value}
	case i.Name != "":
		return interest{by: 'o', a: i.Namespace, b: i.Name}
	case i.Namespace != "":
		return interest{by: 'n', a: i.Namespace}
	}
	return interest{by: 'a'}
}

func (s interests) add(i Interest, w *Watcher) {
	key := i.key()
	if s[key] == nil {
		s[key] = map[*Watcher]struct{}{}
	}
	s[key][w] = struct{}{}
}

func (s interests) remove(i Interest, w *Watcher) {
	key := i.key()
	delete(s[key], w)
	if len(s[key]) == 0 {
		delete(s, key)
	}
}

// tell pushes the event to all who are interested, and notes who has to be woken.
func (s interests) tell(e *Event, woken map[*Watcher]struct{}) {
	entry := e.New
	if entry == nil {
		entry = e.Old
	}
	s.push(interest{by: 'a'}, e, woken)
	if entry.namespace != "" {
		s.push(interest{by: 'n', a: entry.namespace}, e, woken)
	}
	s.push(interest{by: 'o', a: entry.namespace, b: entry.name}, e, woken)
	if entry.namespace != "" {
		s.push(interest{by: 'o', b: entry.name}, e, woken)
	}
	if e.table.field == "" {
		return
	}
	before, had := "", false
	if e.Old != nil {
		if before, had = e.table.value(e.Old); had {
			s.push(interest{by: 'v', a: before}, e, woken)
		}
	}
	if e.New != nil {
		if now, has := e.table.value(e.New); has && (!had || now != before) {
			s.push(interest{by: 'v', a: now}, e, woken)
		}
	}
}

func (s interests) push(key interest, e *Event, woken map[*Watcher]struct{}) {
	for w := range s[key] {
		if key.by == 'v' && !anyMatches(w.interests, e) {
			continue
		}
		if w.push(e) {
			woken[w] = struct{}{}
		}
	}
}

// TooOldError is an ErrTooOld that says how old is too old.
type TooOldError struct {
	Revision int64 // that was asked for
	Oldest   int64 // that the history reaches back to
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("revision %d is %v: it reaches back to %d", e.Revision, ErrTooOld, e.Oldest)
}

// Is tells that the error is an ErrTooOld.
func (e *TooOldError) Is(target error) bool { return target == ErrTooOld }

func tooOld(revision, oldest int64) error { return &TooOldError{revision, oldest} }
