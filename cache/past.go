package cache

import (
	"fmt"
	"slices"
)

// pastVersion is the state of a table after its event at revision, and before
// the next.
type pastVersion struct {
	revision int64
	version  *version
}

// pasts is how many past states a table keeps at hand: those that lists are
// being read from in parts.
const pasts = 4

// At returns the state at exactly that revision. ErrFuture: it has not been seen
// yet; ErrTooOld: the history does not reach back that far.
func (t *Table) At(revision int64) (Snapshot, error) {
	// pastMu is held throughout: versions are cloned here, and only one may
	// clone at a time; and who wants the same state waits for it to be made.
	t.pastMu.Lock()
	defer t.pastMu.Unlock()
	base, undo, err := t.since(revision)
	if err != nil {
		return Snapshot{}, err
	}
	if len(undo) == 0 {
		return Snapshot{Revision: revision, table: t, version: base}, nil
	}
	// The state is the same from the table's last event before revision on.
	v := t.known(undo[0].Revision)
	if v == nil {
		v = base.clone()
		for _, e := range slices.Backward(undo) {
			if e.Old != nil {
				v.put(e.Old)
			} else {
				v.remove(e.New)
			}
		}
	}
	t.keep(pastVersion{undo[0].Revision, v})
	return Snapshot{Revision: revision, table: t, version: v}, nil
}

// since returns the newest state and the events to undo to get to a revision.
func (t *Table) since(revision int64) (*version, []*Event, error) {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	told := t.cache.told.Load()
	if revision > told.revision {
		return nil, nil, fmt.Errorf("revision %d, the newest is %d: %w", revision, told.revision, ErrFuture)
	}
	if start := t.history.start; revision < start {
		return nil, nil, tooOld(revision, start)
	}
	return told.of(t), slices.Clone(t.history.after(revision)), nil
}

// known returns the state just before the table's event at a revision, if it is
// at hand.
func (t *Table) known(before int64) *version {
	for _, p := range t.past {
		if p.revision == before {
			return p.version
		}
	}
	return nil
}

// keep puts the state first in line.
func (t *Table) keep(p pastVersion) {
	t.past = slices.DeleteFunc(t.past, func(q pastVersion) bool { return q.revision == p.revision })
	t.past = slices.Insert(t.past, 0, p)
	if len(t.past) > pasts {
		t.past = t.past[:pasts]
	}
}

// Forget drops all that happened up to a revision, as if it were long past: after
// a compaction of the store nobody answers for it any more.
func (c *Cache) Forget(revision int64) {
	c.mu.Lock()
	revision = min(revision, c.told.Load().revision)
	tables := c.tables.Load().list
	for _, t := range tables {
		c.history -= t.history.drop(len(t.history.events) - len(t.history.after(revision)))
		t.history.start = max(t.history.start, revision)
	}
	c.began = max(c.began, revision)
	c.mu.Unlock()
	for _, t := range tables {
		t.forgetPast()
	}
}

func (t *Table) forgetPast() {
	t.pastMu.Lock()
	defer t.pastMu.Unlock()
	t.past = nil
}
