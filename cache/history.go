package cache

import (
	"sort"
	"sync/atomic"
)

// Event is one change of one object.
type Event struct {
	table    *Table
	Revision int64
	Old, New *Entry // Old is nil when the object was created, New when it was deleted

	gone atomic.Pointer[Entry]
}

// Table returns the table that changed.
func (e *Event) Table() *Table { return e.table }

// Gone returns Old with the revision of the event: what is shown of an object
// that was deleted, or that left a selection. It is made once.
func (e *Event) Gone() *Entry {
	if gone := e.gone.Load(); gone != nil {
		return gone
	}
	e.gone.CompareAndSwap(nil, e.Old.At(e.Revision))
	return e.gone.Load()
}

// history is the recent events of a table, in order.
type history struct {
	events []*Event
	// start: all events with a greater revision are there.
	start int64
	bytes int64 // that are in memory only because of the events
}

// warm is how many of the newest events keep the forms of what they replaced,
// since watchers are about to send them.
const warm = 256

func (h *history) append(e *Event) (bytes int64) {
	h.events = append(h.events, e)
	cost := e.cost()
	h.bytes += cost
	if n := len(h.events) - warm; n > 0 {
		h.events[n-1].cool()
	}
	return cost
}

// cost is what the event keeps in memory: what it replaced.
func (e *Event) cost() int64 {
	cost := int64(128)
	if e.Old != nil {
		cost += 512 + int64(len(e.Old.message))
		if e.New == nil {
			cost += int64(len(e.Old.message)) // Gone's
		}
	}
	return cost
}

// cool lets go of the forms of what the event replaced.
func (e *Event) cool() {
	if e.Old != nil {
		e.Old.drop()
	}
	if gone := e.gone.Load(); gone != nil {
		gone.drop()
	}
}

// after returns the events with a revision greater than revision. The caller
// must not keep the slice longer than the lock.
func (h *history) after(revision int64) []*Event {
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].Revision > revision })
	return h.events[i:]
}

// forget drops the oldest events until at most keep bytes are left, and returns
// how many bytes that gave back.
func (h *history) forget(keep int64) int64 {
	n, bytes := 0, h.bytes
	for n < len(h.events) && bytes > keep {
		bytes -= h.events[n].cost()
		n++
	}
	return h.drop(n)
}

// few events are kept whatever their age: clients of quiet resources come back
// late, and their history costs next to nothing.
const few = 100

// expire drops what happened up to a revision, but for the newest few events,
// and returns how many bytes that gave back.
func (h *history) expire(revision int64) int64 {
	n := sort.Search(len(h.events), func(i int) bool { return h.events[i].Revision > revision })
	return h.drop(min(n, max(0, len(h.events)-few)))
}

// drop drops the oldest n events.
func (h *history) drop(n int) (bytes int64) {
	if n == 0 {
		return 0
	}
	h.start = h.events[n-1].Revision
	for _, e := range h.events[:n] {
		bytes += e.cost()
	}
	h.bytes -= bytes
	h.events = append(make([]*Event, 0, len(h.events)-n+warm), h.events[n:]...)
	return bytes
}
