package cache

import (
	"sort"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"
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

// Recreated tells that the event replaced an object by another one of the same
// name. The store never does that in one write of ours.
func (e *Event) Recreated() bool {
	return e.Old != nil && e.New != nil && e.Old.uid != e.New.uid && e.Old.uid != types.UID("") && e.New.uid != types.UID("")
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
	before := h.bytes
	n := 0
	for n < len(h.events) && h.bytes > keep {
		h.start = h.events[n].Revision
		h.bytes -= h.events[n].cost()
		n++
	}
	if n > 0 {
		h.events = append(make([]*Event, 0, len(h.events)-n+warm), h.events[n:]...)
	}
	return before - h.bytes
}
