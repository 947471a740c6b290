package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"skiff/api"
	"skiff/store"
)

// root is the prefix of all keys; the cache follows all of it.
const root = "/registry/"

// ErrTooOld means that the history does not reach back to a revision.
var ErrTooOld = errors.New("too old for the cache")

// ErrFuture means that the cache has not seen a revision yet.
var ErrFuture = errors.New("the cache has not seen the revision yet")

// Config says what a Cache holds.
type Config struct {
	// Store is what the cache follows. Required.
	Store store.Store
	// Resources are the rows to hold; those that store nothing are left out.
	Resources []*api.Resource
	// History is how many bytes may be in memory for the sake of past events,
	// of all resources together; 0: 32 MiB.
	History int64
	// Queue is how many events may wait for one watcher; further ones it reads from
	// the history. 0: 256.
	Queue int
	// Sweep is how often forms that nobody used are let go; 0: a minute.
	Sweep time.Duration
	// Logger; nil: slog.Default().
	Logger *slog.Logger
}

// Cache holds the state of all resources at one revision.
type Cache struct {
	config Config
	log    *slog.Logger

	tables atomic.Pointer[tableSet] // written with mu held
	byRow  map[*api.Resource]*Table // of built-in rows

	state   atomic.Pointer[state]
	ready   chan struct{} // closed when the first state is there
	pending pending
	waiters waiters

	swept []int64 // revisions of the last sweeps; only Run's goroutine touches it

	// told is the state that all watchers have been told of; it follows state at
	// once. Written with mu held.
	told atomic.Pointer[state]

	// mu guards the histories and watchers of all tables. It is held for moments
	// only, but by dispatch for as long as it takes to push a batch.
	mu      sync.Mutex
	history int64                 // bytes of all histories; guarded by mu
	began   int64                 // where histories begin at the earliest; guarded by mu
	woken   map[*Watcher]struct{} // empty but during dispatch; guarded by mu
}

// state is everything at one revision.
type state struct {
	revision int64
	versions []*version // by Table.number
}

// New checks the configuration and starts nothing.
func New(c Config) (*Cache, error) {
	if c.Store == nil {
		return nil, errors.New("cache: Config.Store is required")
	}
	if c.History == 0 {
		c.History = 32 << 20
	}
	if c.Queue == 0 {
		c.Queue = 256
	}
	if c.Sweep == 0 {
		c.Sweep = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	cache := &Cache{config: c, log: c.Logger, byRow: map[*api.Resource]*Table{},
		ready: make(chan struct{}), woken: map[*Watcher]struct{}{}, pending: pending{byKey: map[string][]*Deposit{}}}
	set := &tableSet{byPrefix: map[string]*Table{}}
	for _, r := range c.Resources {
		if r.Prefix == "" || r.View != nil {
			continue
		}
		if other := set.byPrefix[r.Prefix]; other != nil {
			return nil, fmt.Errorf("cache: %s and %s share the prefix %s", r, other.codec.row, r.Prefix)
		}
		t := newTable(cache, r, len(set.list))
		set.list = append(set.list, t)
		set.byPrefix[r.Prefix], cache.byRow[r] = t, t
	}
	cache.tables.Store(set)
	for _, r := range c.Resources {
		if r.View == nil {
			continue
		}
		for _, t := range set.list {
			if t.codec.row.GVR() == r.View.Of {
				t.codec.views = append(t.codec.views, newCodec(r, t.codec.row))
				cache.byRow[r] = t
			}
		}
		if cache.byRow[r] == nil {
			return nil, fmt.Errorf("cache: %s is a view of %s, which is not there", r, r.View.Of)
		}
	}
	first := &state{versions: make([]*version, len(set.list))}
	for i, t := range set.list {
		first.versions[i] = t.work.clone()
	}
	cache.state.Store(first)
	cache.told.Store(first)
	return cache, nil
}

// Table returns the table of a row, or for a view that of the row that stores its
// objects (Entry.As gives the view's); nil if the row stores nothing. All rows of a
// custom resource have the same table.
func (c *Cache) Table(r *api.Resource) *Table {
	if t := c.byRow[r]; t != nil {
		return t
	}
	if r.View == nil && customPrefix(r.Prefix) {
		return c.customTable(r.Prefix)
	}
	return nil
}

// Revision returns the revision up to which the cache has seen, and told its
// watchers, everything.
func (c *Cache) Revision() int64 { return c.told.Load().revision }

// Ready is closed when the cache has its first state.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// WaitReady waits until the cache has its first state.
func (c *Cache) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitFor waits until the cache has seen revision.
func (c *Cache) WaitFor(ctx context.Context, revision int64) error {
	if c.Revision() >= revision {
		return nil
	}
	seen := c.waiters.add(revision)
	defer c.waiters.remove(seen)
	if c.Revision() >= revision {
		return nil
	}
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tableOf finds the table of a key, and the object's namespace and name.
func (c *Cache) tableOf(key string) (t *Table, namespace, name string) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return nil, "", ""
	}
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return nil, "", ""
	}
	known := c.all().byPrefix
	t, place := known[rest[:first]], rest[first+1:]
	if t == nil {
		second := strings.IndexByte(place, '/')
		if second < 0 {
			return nil, "", ""
		}
		prefix := rest[:first+1+second]
		t, place = known[prefix], place[second+1:]
		if t == nil && place != "" && customPrefix(prefix) {
			t = c.customTable(prefix)
		}
	}
	if t == nil || place == "" {
		return nil, "", ""
	}
	if t.codec.shows != nil && !strings.Contains(place, "/") {
		return t, "", place
	}
	if !t.codec.row.Namespaced {
		return t, "", place
	}
	namespace, name, ok = strings.Cut(place, "/")
	if !ok || namespace == "" || name == "" {
		return nil, "", ""
	}
	return t, namespace, name
}

// Read makes the entry of what the store holds at one of the table's keys,
// without making it part of the cache.
func (t *Table) Read(e store.Entry) *Entry {
	_, namespace, name := t.cache.tableOf(e.Key)
	return t.codec.read(namespace, name, e.Value, e.Revision)
}

func formatRevision(revision int64) string { return strconv.FormatInt(revision, 10) }

// waiters are woken when the cache has seen a revision.
type waiters struct {
	mu sync.Mutex
	at map[chan struct{}]int64
}

func (w *waiters) add(revision int64) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[chan struct{}]int64{}
	}
	seen := make(chan struct{})
	w.at[seen] = revision
	return seen
}

func (w *waiters) remove(seen chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.at, seen)
}

func (w *waiters) wake(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for seen, at := range w.at {
		if at <= revision {
			close(seen)
			delete(w.at, seen)
		}
	}
}
