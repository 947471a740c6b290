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

	mu     sync.Mutex
	queue  []*Event
	last   int64 // everything of interest up to here was put into queue
	behind bool  // events after last are in the history only
	err    error // why the watch has ended
}

// queued is how many events may wait in a watcher's queue; more wait in the
// history, where they cost nothing.
const queued = 256

// Wake has something to receive when Take may return more than the last time.
func (w *Watcher) Wake() <-chan struct{} { return w.wake }

// Take returns the events since the last call, and the revision up to which
// there is nothing more to tell. ErrTooOld ends the watch.
func (w *Watcher) Take() (events []*Event, revision int64, err error) {
	told := w.cache.told.Load() // before the queue: what was told is in there
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, 0, w.err
	}
	events, w.queue = w.queue, nil
	if !w.behind {
		w.last = max(w.last, told)
		return events, w.last, nil
	}
	if len(events) > 0 {
		w.signal() // come back for what is in the history
		return events, events[len(events)-1].Revision, nil
	}
	return w.takeFromHistory()
}

// takeFromHistory is called with w.mu held, and gives it up for a moment, since
// Cache.mu comes first. Only dispatch, which holds Cache.mu, could come between.
func (w *Watcher) takeFromHistory() ([]*Event, int64, error) {
	w.mu.Unlock()
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	w.mu.Lock()
	if w.err != nil {
		return nil, 0, w.err
	}
	events, complete, err := w.cache.pastLocked(w.interests, w.last, queued)
	if err != nil {
		w.err = err
		return nil, 0, err
	}
	if complete {
		w.behind = false
		w.last = max(w.last, w.cache.told.Load())
		if n := len(events); n > 0 {
			w.last = max(w.last, events[n-1].Revision)
		}
	} else {
		w.last = events[len(events)-1].Revision
		w.signal()
	}
	return events, w.last, nil
}

// push is called by dispatch, with Cache.mu held.
func (w *Watcher) push(e *Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Revision <= w.last || w.behind || w.err != nil {
		return // told already (two interests met in one event), or to be read from the history
	}
	if len(w.queue) >= queued {
		w.behind = true
		return
	}
	w.queue = append(w.queue, e)
	w.last = e.Revision
	w.signal()
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
	w.behind = after < c.told.Load()
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
		states[i] = Snapshot{Revision: told, table: in[i].Table, version: in[i].Table.seen}
	}
	return c.registerLocked(told, in), states
}

func (c *Cache) registerLocked(after int64, in []Interest) *Watcher {
	w := &Watcher{cache: c, interests: in, wake: make(chan struct{}, 1), last: after}
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

// tell pushes the event to all who are interested.
func (s interests) tell(e *Event) {
	entry := e.New
	if entry == nil {
		entry = e.Old
	}
	s.push(interest{by: 'a'}, e)
	if entry.namespace != "" {
		s.push(interest{by: 'n', a: entry.namespace}, e)
	}
	s.push(interest{by: 'o', a: entry.namespace, b: entry.name}, e)
	if entry.namespace != "" {
		s.push(interest{by: 'o', b: entry.name}, e)
	}
	if e.table.field == "" {
		return
	}
	before, had := "", false
	if e.Old != nil {
		if before, had = e.table.value(e.Old); had {
			s.push(interest{by: 'v', a: before}, e)
		}
	}
	if e.New != nil {
		if now, has := e.table.value(e.New); has && (!had || now != before) {
			s.push(interest{by: 'v', a: now}, e)
		}
	}
}

func (s interests) push(key interest, e *Event) {
	for w := range s[key] {
		if key.by != 'v' || anyMatches(w.interests, e) {
			w.push(e)
		}
	}
}

func tooOld(revision, oldest int64) error {
	return fmt.Errorf("revision %d, the oldest known is %d: %w", revision, oldest, ErrTooOld)
}
