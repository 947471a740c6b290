package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"skiff/store"
)

// Run fills the cache and keeps it up to date until ctx ends. It returns an
// error only if the store is of no use any more.
func (c *Cache) Run(ctx context.Context) error {
	sweep := time.NewTicker(c.config.Sweep)
	defer sweep.Stop()
	pause := firstPause
	for filled := false; ; {
		var err error
		if !filled {
			if err = c.fill(ctx); err == nil {
				filled, pause = true, firstPause
			}
		}
		if filled {
			if err = c.follow(ctx, sweep.C); errors.Is(err, store.ErrCompacted) {
				filled = false
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrClosed):
			return fmt.Errorf("follow the store: %w", err)
		}
		c.log.Warn("cache: the store's watch ended, trying again", "error", err, "revision", c.Revision(), "after", pause)
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, longestPause)
	}
}

// Pauses between attempts to reach the store.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
)

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// page is how many entries are read from the store at a time.
const page = 5000

// reading is a page of the store, or why there is none.
type reading struct {
	page store.Page
	err  error
}

// fill reads all of the store at one revision and makes it the cache's state.
// What the cache held before is compared with it: unchanged entries stay; but
// since the events in between are lost, all histories begin anew and all
// watchers end.
func (c *Cache) fill(ctx context.Context) error {
	before := c.state.Load()
	var works []version // by Table.number
	var at int64
	read := func(from string) <-chan reading {
		next, at := make(chan reading, 1), at
		go func() {
			p, err := c.config.Store.List(ctx, root, from, page, at)
			next <- reading{p, err}
		}()
		return next
	}
	for next := read(""); ; {
		r := <-next
		if r.err != nil {
			return fmt.Errorf("read the whole store: %w", r.err)
		}
		p := r.page
		at = p.Revision
		if p.More { // the store reads while we decode
			next = read(p.Entries[len(p.Entries)-1].Key + "\x00")
		}
		entries := c.readAll(before, p.Entries)
		for _, t := range c.all().list[len(works):] { // reading may have made tables
			works = append(works, t.newVersion())
		}
		for i, entry := range entries {
			if entry != nil {
				t, _, _ := c.tableOf(p.Entries[i].Key)
				works[t.number].put(entry)
			}
		}
		if !p.More {
			break
		}
	}
	if at < before.revision {
		return fmt.Errorf("the store is at revision %d, before the %d that was seen", at, before.revision)
	}
	c.restart(works, at)
	return nil
}

// readAll makes the entries of what the store holds, on all processors; nil for
// keys that the cache does not hold. Those that before has are taken from there.
func (c *Cache) readAll(before *state, stored []store.Entry) []*Entry {
	entries := make([]*Entry, len(stored))
	var reading sync.WaitGroup
	share := max(100, (len(stored)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for start := 0; start < len(stored); start += share {
		reading.Go(func() {
			for i := start; i < min(start+share, len(stored)); i++ {
				e := &stored[i]
				t, namespace, name := c.tableOf(e.Key)
				if t == nil {
					continue
				}
				known, ok := before.of(t).byName.Get(&Entry{namespace: namespace, name: name})
				if ok && known.revision == e.Revision {
					entries[i] = known
					continue
				}
				entries[i] = c.entryOf(t, namespace, name, e.Value, e.Revision)
			}
		})
	}
	reading.Wait()
	return entries
}

// restart makes works the state at a revision, from which histories begin.
func (c *Cache) restart(works []version, at int64) {
	c.mu.Lock()
	tables := c.all().list
	next := &state{revision: at, versions: make([]*version, len(tables))}
	for i, t := range tables {
		if i < len(works) {
			t.work = works[i]
		} else {
			t.work = t.newVersion()
		}
		next.versions[i] = t.work.clone()
	}
	c.began = at
	c.state.Store(next)
	for _, t := range tables {
		t.history = history{start: at}
		for _, watchers := range t.watchers {
			for w := range watchers {
				w.end(tooOld(w.last, at))
			}
		}
	}
	c.history = 0
	c.told.Store(next)
	c.mu.Unlock()
	c.waiters.wake(at)
	c.pending.forget(at)
	for _, t := range tables {
		t.forgetPast()
	}
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}

// follow applies the store's events until its watch ends, and returns why.
func (c *Cache) follow(ctx context.Context, sweep <-chan time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := c.config.Store.Watch(ctx, root, c.Revision())
	for {
		select {
		case batch, ok := <-w.C:
			if !ok {
				return w.Err()
			}
			c.apply(batch)
		case <-sweep:
			c.sweep()
		}
	}
}

// apply makes the batch part of the state and tells the watchers.
func (c *Cache) apply(batch store.Batch) {
	before := c.state.Load()
	events := make([]*Event, 0, len(batch.Events))
	touched := map[*Table]struct{}{}
	for i := range batch.Events {
		e := c.change(&batch.Events[i])
		if e != nil {
			events = append(events, e)
			touched[e.table] = struct{}{}
		}
	}
	next := &state{revision: max(batch.Revision, before.revision), versions: before.versions}
	if len(events) > 0 {
		next.versions = append([]*version(nil), before.versions...)
		for range len(c.all().list) - len(before.versions) {
			next.versions = append(next.versions, nothing)
		}
		for t := range touched {
			next.versions[t.number] = t.work.clone()
		}
	}
	// The state comes first, so that who reads after hearing of an event never
	// sees what was before it.
	c.state.Store(next)
	c.tell(events, next)
	c.waiters.wake(next.revision)
}

// change applies one event to its table's work and returns it as the watchers
// see it; nil: nothing that the cache holds has changed.
func (c *Cache) change(e *store.Event) *Event {
	t, namespace, name := c.tableOf(e.Key)
	if t == nil {
		return nil
	}
	if e.Value == nil {
		old := t.work.remove(&Entry{namespace: namespace, name: name})
		if old == nil {
			return nil
		}
		old.mustBeUnchanged()
		return &Event{table: t, Revision: e.Revision, Old: old}
	}
	entry := c.entryOf(t, namespace, name, e.Value, e.Revision)
	old := t.work.put(entry)
	if old != nil {
		old.mustBeUnchanged()
	}
	return &Event{table: t, Revision: e.Revision, Old: old, New: entry}
}

// entryOf makes an entry, from a deposit if there is one.
func (c *Cache) entryOf(t *Table, namespace, name string, value []byte, revision int64) *Entry {
	if d := c.pending.take(t.codec.row.Key(namespace, name), value); d != nil {
		if entry, err := d.at(revision); err == nil {
			return entry
		}
	}
	entry := t.codec.read(namespace, name, value, revision)
	if entry.broken != nil {
		c.log.Error("cache: a stored object cannot be read; requests for it fail until it is deleted or replaced",
			"key", entry.Key(), "revision", revision, "error", entry.broken)
	}
	return entry
}

// tell appends the events to the histories, pushes them to the watchers, and
// then wakes these.
func (c *Cache) tell(events []*Event, now *state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		c.history += e.table.history.append(e)
		e.table.watchers.tell(e, c.woken)
	}
	c.told.Store(now)
	for w := range c.woken {
		w.signal()
	}
	clear(c.woken)
	c.trimLocked()
}

// trimLocked keeps the histories below their limit: the longest one gives way.
func (c *Cache) trimLocked() {
	for c.history > c.config.History {
		tables := c.all().list
		longest := tables[0]
		for _, t := range tables {
			if t.history.bytes > longest.history.bytes {
				longest = t
			}
		}
		gave := longest.history.forget(longest.history.bytes * 3 / 4)
		if gave == 0 {
			return
		}
		c.history -= gave
	}
}

// sweep lets go of the forms that nobody used since the last sweep, and of
// events that are many sweeps old.
func (c *Cache) sweep() {
	now := c.state.Load()
	c.pending.forget(now.revision)
	tables := c.all().list
	for _, t := range tables {
		now.of(t).byName.Ascend(func(e *Entry) bool { e.age(); return true })
		t.forgetPast()
	}
	c.swept = append(c.swept, now.revision)
	if len(c.swept) <= remembered {
		return
	}
	old := c.swept[0]
	c.swept = append(c.swept[:0], c.swept[1:]...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range tables {
		c.history -= t.history.expire(old)
	}
}

// remembered is for how many sweeps events are kept, if there are more than a few.
const remembered = 10
