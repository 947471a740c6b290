package store

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"
)

// maxValue is the largest value that any store takes: etcd's limit of 1.5 MiB
// for a request, in all of its members alike.
const maxValue = 1536 << 10

// MemoryConfig says how an in-memory store is made.
type MemoryConfig struct {
	// Quota limits the bytes of all keys and values, history included; beyond
	// it Put answers ErrNoSpace until something is deleted and compacted.
	// 0 means no limit.
	Quota int64
}

// Memory is a store that forgets everything when it is closed. It behaves as
// etcd does, revisions included: an empty store is at revision 1, its first
// write is revision 2. It starts no goroutine but those of watches, and runs
// inside a testing/synctest bubble.
type Memory struct {
	quota int64
	gate  *gate

	mu        sync.RWMutex
	keys      *btree.BTreeG[*history]
	log       []Event // log[i] is at revision first+i; never written to again
	first     int64
	revision  int64
	compacted int64 // invariant: first >= compacted
	size      int64 // bytes of keys and values in keys
	timers    map[string]*time.Timer
	moved     chan struct{} // closed and replaced at each write
}

// history is what is remembered of one key, oldest first.
type history struct {
	key      string
	versions []version
}

// version is the state of a key from its revision on.
type version struct {
	revision, created int64
	value             []byte // nil: deleted
}

// OpenMemory returns an empty store.
func OpenMemory(c MemoryConfig) *Memory {
	return &Memory{
		quota:    c.Quota,
		gate:     newGate(),
		keys:     btree.NewG(32, func(a, b *history) bool { return a.key < b.key }),
		first:    2,
		revision: 1,
		timers:   map[string]*time.Timer{},
		moved:    make(chan struct{}),
	}
}

// at returns the key's state at a revision, or false if it did not exist then.
func (h *history) at(revision int64) (version, bool) {
	i := len(h.versions)
	if revision < h.versions[i-1].revision {
		i = sort.Search(i, func(i int) bool { return h.versions[i].revision > revision })
	}
	if i == 0 || h.versions[i-1].value == nil {
		return version{}, false
	}
	return h.versions[i-1], true
}

func (h *history) entry(v version) Entry {
	return Entry{Key: h.key, Value: v.value, Revision: v.revision, Created: v.created}
}

// nowLocked returns the key's present state.
func (m *Memory) nowLocked(key string) (version, bool) {
	h, ok := m.keys.Get(&history{key: key})
	if !ok {
		return version{}, false
	}
	return h.at(m.revision)
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := m.gate.enter(ctx); err != nil {
		return Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	defer m.gate.leave()
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.nowLocked(key)
	if !ok {
		return Entry{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return Entry{Key: key, Value: v.value, Revision: v.revision, Created: v.created}, nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix, from string, limit int, at int64) (Page, error) {
	if err := m.gate.enter(ctx); err != nil {
		return Page{}, fmt.Errorf("list %s: %w", prefix, err)
	}
	defer m.gate.leave()
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case at <= 0:
		at = m.revision
	case at > m.revision:
		return Page{}, fmt.Errorf("list %s at revision %d: %w", prefix, at, ErrFuture)
	case at < m.compacted:
		return Page{}, fmt.Errorf("list %s at revision %d: %w", prefix, at, ErrCompacted)
	}
	page := Page{Revision: at}
	m.keys.AscendGreaterOrEqual(&history{key: max(prefix, from)}, func(h *history) bool {
		if !strings.HasPrefix(h.key, prefix) {
			return false
		}
		if v, ok := h.at(at); ok {
			page.Total++
			if limit <= 0 || len(page.Entries) < limit {
				page.Entries = append(page.Entries, h.entry(v))
			}
		}
		return true
	})
	page.More = page.Total > int64(len(page.Entries))
	return page, nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, value []byte, c Condition) (int64, error) {
	if err := m.gate.enter(ctx); err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	defer m.gate.leave()
	if key == "" {
		return 0, errNoKey
	}
	if len(key)+len(value) > maxValue {
		return 0, fmt.Errorf("put %s, %d bytes: %w", key, len(value), ErrTooLarge)
	}
	// A copy, that is not nil: nil stands for deleted, and the caller may use
	// its buffer again.
	value = append(make([]byte, 0, len(value)), value...)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkLocked(key, c); err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	if m.quota > 0 && m.size+int64(len(key)+len(value)) > m.quota {
		return 0, fmt.Errorf("put %s: %w", key, ErrNoSpace)
	}
	revision := m.writeLocked(key, value)
	if c.TTL > 0 {
		m.armLocked(key, revision, c.TTL)
	}
	return revision, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string, c Condition) (int64, error) {
	if err := m.gate.enter(ctx); err != nil {
		return 0, fmt.Errorf("delete %s: %w", key, err)
	}
	defer m.gate.leave()
	if key == "" {
		return 0, errNoKey
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkLocked(key, c); err != nil {
		return 0, fmt.Errorf("delete %s: %w", key, err)
	}
	if _, ok := m.nowLocked(key); !ok {
		return 0, fmt.Errorf("delete %s: %w", key, ErrNotFound)
	}
	return m.writeLocked(key, nil), nil
}

// checkLocked says whether a write may happen. The fence comes first: who is
// deposed learns that, whatever else is wrong.
func (m *Memory) checkLocked(key string, c Condition) error {
	if c.Fence.Key != "" {
		if v, _ := m.nowLocked(c.Fence.Key); v.revision != c.Fence.Revision {
			return ErrFenced
		}
	}
	if c.Revision != Any {
		if v, _ := m.nowLocked(key); v.revision != c.Revision {
			return ErrConflict
		}
	}
	return nil
}

// writeLocked makes value the key's newest version (nil: deletes it) and returns
// its revision.
func (m *Memory) writeLocked(key string, value []byte) int64 {
	if t, ok := m.timers[key]; ok {
		if t.Stop() {
			m.gate.leave()
		}
		delete(m.timers, key)
	}
	before, existed := m.nowLocked(key)
	m.revision++
	v := version{revision: m.revision, created: m.revision, value: value}
	e := Event{Key: key, Value: value, Revision: m.revision, Created: m.revision}
	if existed {
		v.created, e.Created = before.created, before.created
		e.Previous, e.PreviousRevision = before.value, before.revision
	}
	h, ok := m.keys.Get(&history{key: key})
	if !ok {
		h = &history{key: key}
		m.keys.ReplaceOrInsert(h)
	}
	h.versions = append(h.versions, v)
	m.size += int64(len(key) + len(value))
	m.log = append(m.log, e)
	close(m.moved)
	m.moved = make(chan struct{})
	return m.revision
}

// armLocked lets the key written at revision end after ttl. The timer is inside
// the gate from here until it is stopped or its function has returned.
func (m *Memory) armLocked(key string, revision int64, ttl time.Duration) {
	m.gate.calls.Add(1) // Put, which is inside too, holds the gate open
	m.timers[key] = time.AfterFunc(ttl, func() {
		defer m.gate.leave()
		m.mu.Lock()
		defer m.mu.Unlock()
		if v, ok := m.nowLocked(key); ok && v.revision == revision && m.gate.ctx.Err() == nil {
			delete(m.timers, key)
			m.writeLocked(key, nil)
		}
	})
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (int64, error) {
	if err := m.gate.enter(ctx); err != nil {
		return 0, fmt.Errorf("read the revision: %w", err)
	}
	defer m.gate.leave()
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.revision, nil
}

// Compact implements Store. What was compacted before may be compacted again.
func (m *Memory) Compact(ctx context.Context, revision int64) error {
	if err := m.gate.enter(ctx); err != nil {
		return fmt.Errorf("compact to revision %d: %w", revision, err)
	}
	defer m.gate.leave()
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision > m.revision {
		return fmt.Errorf("compact to revision %d: %w", revision, ErrFuture)
	}
	if revision <= m.compacted {
		return nil
	}
	m.compacted = revision
	// Only a key written since the last compaction can have anything to forget.
	done := 0
	for ; done < len(m.log) && m.log[done].Revision <= revision; done++ {
		m.forgetLocked(m.log[done].Key, revision)
	}
	// The event at the compacted revision itself stays: a watch may begin there.
	if drop := revision - m.first; drop > 0 {
		m.log = append([]Event(nil), m.log[drop:]...)
		m.first = revision
	}
	return nil
}

// forgetLocked drops the key's versions that no read at revision or later sees.
func (m *Memory) forgetLocked(key string, revision int64) {
	h, ok := m.keys.Get(&history{key: key})
	if !ok {
		return
	}
	keep := sort.Search(len(h.versions), func(i int) bool { return h.versions[i].revision > revision }) - 1
	if keep >= 0 && h.versions[keep].value == nil {
		keep++
	}
	if keep <= 0 {
		return
	}
	for _, v := range h.versions[:keep] {
		m.size -= int64(len(key) + len(v.value))
	}
	if keep == len(h.versions) {
		m.keys.Delete(h)
		return
	}
	h.versions = append([]version(nil), h.versions[keep:]...)
}

// Close implements Store.
func (m *Memory) Close() error {
	m.gate.close(ErrClosed)
	m.mu.Lock()
	for key, t := range m.timers {
		if t.Stop() {
			m.gate.leave()
		}
		delete(m.timers, key)
	}
	m.mu.Unlock()
	m.gate.loops.Wait()
	m.gate.calls.Wait()
	return nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, after int64) *Watcher {
	return watch(ctx, m.gate, func(ctx context.Context, out chan<- Batch) error {
		return m.follow(ctx, out, prefix, max(after, 0)+1)
	})
}

// follow sends the events from revision next on until ctx ends.
func (m *Memory) follow(ctx context.Context, out chan<- Batch, prefix string, next int64) error {
	for {
		batch, moved, err := m.since(prefix, next)
		if err != nil {
			return err
		}
		if batch.Revision < next {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		select {
		case out <- batch:
			next = batch.Revision + 1
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// maxBatch is how many revisions a batch covers at most.
const maxBatch = 1000

// since returns the events under prefix from revision next on, and a channel that
// is closed when there is more. If there are none yet, the batch's revision is
// less than next.
func (m *Memory) since(prefix string, next int64) (Batch, <-chan struct{}, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if next < m.compacted {
		return Batch{}, nil, fmt.Errorf("watch %s from revision %d: %w", prefix, next, ErrCompacted)
	}
	if next > m.revision {
		return Batch{}, m.moved, nil
	}
	i := int(max(next-m.first, 0))
	j := min(len(m.log), i+maxBatch)
	if i == j {
		// Only before the first write: revision 1 has no event.
		return Batch{Revision: m.revision}, m.moved, nil
	}
	return Batch{Events: under(prefix, m.log[i:j:j]), Revision: m.log[j-1].Revision}, m.moved, nil
}

// under returns the events whose keys begin with prefix: the slice itself, if
// all do.
func under(prefix string, events []Event) []Event {
	for i, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			continue
		}
		some := append([]Event(nil), events[:i]...)
		for _, e := range events[i+1:] {
			if strings.HasPrefix(e.Key, prefix) {
				some = append(some, e)
			}
		}
		return some
	}
	return events
}
