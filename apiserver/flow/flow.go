// Package flow shares the server's seats among requests as FlowSchemas and
// PriorityLevelConfigurations say: a schema puts a request into a priority level,
// and there into a flow; a level has seats of its own, lends those that it does
// not use, and queues what finds no seat, so that flows take turns. Only apiserver
// calls it. It never does I/O and starts no goroutine.
//
// Kubernetes moves lent seats every ten seconds by a forecast of demand; here a
// seat is lent at the moment when it is free, and given back with the end of the
// request that sits on it. What a level is guaranteed, and what it may borrow at
// most, is the same.
package flow

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Seats of requests by width: most take one, a large list takes more, up to widest
// or a part of its level's.
const (
	widest     = 10
	widestPart = 0.15
)

// Controller decides which requests may go on.
type Controller struct {
	mu      sync.Mutex
	seats   int       // of the whole server; guarded by mu, as all that follows
	schemas []*schema // in the order in which they are tried
	levels  map[string]*level
	total   int // seats of all limited levels together; rounding makes it a little more than seats
}

// schema is a FlowSchema and its level.
type schema struct {
	*flowcontrolv1.FlowSchema
	level *level
}

// level is a priority level.
type level struct {
	name   string
	uid    types.UID
	exempt bool
	gone   bool // it has no object any more; requests that came before still use it

	nominal, least, most int // seats: its share, what it never lends, what it may have
	widest               int // seats that one request may take

	taken     int // seats on which requests sit
	executing int // requests on them
	queues    []*queue
	hand      int // queues that a flow is dealt
	length    int // requests that may wait in a queue; 0: none waits at all
	waiting   int
	virtual   float64 // the time of the queue that was served last; see queue
	counts    map[countKey]*counts
}

// queue is where flows of a level wait. It has a time of its own, which goes on
// with the seconds of seats that its requests took; the queue whose time is behind
// is next.
type queue struct {
	waiting []*ticket
	virtual float64
	taken   int
}

// ticket is one request that waits, or sits.
type ticket struct {
	class   Class
	seats   int
	queue   *queue        // nil: it never waited
	called  chan struct{} // closed when it may go on
	sitting bool
	since   time.Time
}

// Class is what a request was found to be.
type Class struct {
	Schema    string
	SchemaUID types.UID
	Level     string
	LevelUID  types.UID

	level *level
	flow  string // who shares a fate within the schema
}

// Exempt tells that the request is never held up.
func (c Class) Exempt() bool { return c.level == nil || c.level.exempt }

// Widest is how many seats a request of the class may take at most.
func (c Class) Widest() int {
	if c.level == nil {
		return 1
	}
	return c.level.widest
}

// New returns a controller of so many seats, with Kubernetes' mandatory objects
// only. Set gives it others.
func New(seats int) *Controller {
	c := &Controller{seats: seats, levels: map[string]*level{}}
	c.Set(nil, nil)
	return c
}

// Set makes these the objects that count. Where a mandatory one is missing, it
// counts as it should be. A schema whose level is not there counts for nothing.
func (c *Controller) Set(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	schemas, levels = withMandatory(schemas, levels)
	next := make(map[string]*level, len(levels))
	var shares float64
	for _, object := range levels {
		l := c.levels[object.Name]
		if l == nil {
			l = &level{name: object.Name, counts: map[countKey]*counts{}}
		}
		next[object.Name] = l
		l.configure(object)
		shares += float64(nominalShares(object))
	}
	for _, l := range c.levels {
		l.gone = next[l.name] != l
	}
	c.total = 0
	for _, object := range levels {
		c.share(next[object.Name], object, shares)
	}
	maps.DeleteFunc(c.levels, func(name string, l *level) bool { return l.taken == 0 && l.waiting == 0 })
	for name, l := range c.levels { // those that are gone, and still in use, keep what they have
		if next[name] == nil {
			next[name] = l
			c.total += l.nominal
		}
	}
	c.levels = next
	c.schemas = c.schemas[:0:0]
	for _, object := range schemas {
		if l := next[object.Spec.PriorityLevelConfiguration.Name]; l != nil && !l.gone {
			c.schemas = append(c.schemas, &schema{object, l})
		}
	}
	slices.SortStableFunc(c.schemas, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
	})
	c.callLocked(time.Now())
}

// configure takes over how a level queues.
func (l *level) configure(object *flowcontrolv1.PriorityLevelConfiguration) {
	l.uid, l.exempt, l.gone = object.UID, object.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt, false
	number, hand, length := 0, 0, 0
	if limited := object.Spec.Limited; limited != nil && limited.LimitResponse.Queuing != nil {
		q := limited.LimitResponse.Queuing
		number, hand, length = int(q.Queues), int(q.HandSize), int(q.QueueLengthLimit)
	}
	l.hand, l.length = min(hand, number), length
	if number == len(l.queues) {
		return
	}
	// Who waits in a queue that is no more goes on waiting in another.
	var homeless []*ticket
	for len(l.queues) < number {
		l.queues = append(l.queues, &queue{virtual: l.virtual})
	}
	for _, q := range l.queues[number:] {
		homeless = append(homeless, q.waiting...)
		q.waiting = nil
	}
	if number > 0 {
		l.queues = l.queues[:number]
		for i, t := range homeless {
			t.queue = l.queues[i%number]
			t.queue.waiting = append(t.queue.waiting, t)
		}
		return
	}
	// Nobody waits here any more. Those who do are let go on one by one.
	if len(homeless) == 0 {
		l.queues = nil
		return
	}
	l.queues = []*queue{{waiting: homeless}}
	for _, t := range homeless {
		t.queue = l.queues[0]
	}
}

// share computes a level's seats from its part of all shares.
func (c *Controller) share(l *level, object *flowcontrolv1.PriorityLevelConfiguration, shares float64) {
	var lendable, borrowable *int32
	if limited := object.Spec.Limited; limited != nil {
		lendable, borrowable = limited.LendablePercent, limited.BorrowingLimitPercent
	} else if object.Spec.Exempt != nil {
		lendable = object.Spec.Exempt.LendablePercent
	}
	l.nominal = int(math.Ceil(float64(c.seats) * float64(nominalShares(object)) / max(shares, 1)))
	l.least, l.most = l.nominal, l.nominal+c.seats
	if lendable != nil {
		l.least = l.nominal - int(math.Round(float64(l.nominal)*float64(*lendable)/100))
	}
	if borrowable != nil {
		l.most = l.nominal + int(math.Round(float64(l.nominal)*float64(*borrowable)/100))
	}
	l.widest = int(math.Ceil(float64(l.nominal) * widestPart))
	if l.hand > 0 {
		l.widest = min(l.widest, l.nominal/l.hand)
	}
	l.widest = max(1, min(l.widest, widest))
	c.total += l.nominal
}

// defaultShares are those of a level that does not say.
const defaultShares = 30

func nominalShares(object *flowcontrolv1.PriorityLevelConfiguration) int32 {
	switch {
	case object.Spec.Limited != nil && object.Spec.Limited.NominalConcurrencyShares != nil:
		return *object.Spec.Limited.NominalConcurrencyShares
	case object.Spec.Limited != nil:
		return defaultShares
	case object.Spec.Exempt != nil && object.Spec.Exempt.NominalConcurrencyShares != nil:
		return *object.Spec.Exempt.NominalConcurrencyShares
	}
	return 0
}

// Rejected says why a request may not go on.
type Rejected string

// The reasons, as Kubernetes' metrics call them.
const (
	QueueFull Rejected = "queue-full"
	NoSeat    Rejected = "concurrency-limit"
	TimeOut   Rejected = "time-out"
	Cancelled Rejected = "cancelled"
)

func (r Rejected) Error() string { return "request rejected: " + string(r) }

// Enter waits for seats, for as long as ctx allows, and returns how to give them
// back. Its error is a Rejected.
func (c *Controller) Enter(ctx context.Context, class Class, seats int) (leave func(), err error) {
	l := c.levelOf(class)
	if l == nil {
		return func() {}, nil
	}
	t := &ticket{class: class, seats: min(max(seats, 1), l.widest), since: time.Now()}
	if err := c.ask(ctx, l, t); err != nil {
		return nil, err
	}
	var once sync.Once
	return func() { once.Do(func() { c.leave(l, t) }) }, nil
}

// levelOf is the level of a class: another one by now, if its object was deleted
// and made anew.
func (c *Controller) levelOf(class Class) *level {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.levels[class.Level]; l != nil {
		return l
	}
	return class.level
}

// ask gives the ticket seats, or has it wait for them.
func (c *Controller) ask(ctx context.Context, l *level, t *ticket) error {
	c.mu.Lock()
	if c.levels[l.name] == nil { // it went since the request was classified
		l.gone, c.levels[l.name] = true, l
		c.total += l.nominal
	}
	counts := l.countsOf(t.class)
	switch {
	case l.waiting == 0 && c.roomLocked(l, t.seats):
		l.sit(t, t.since)
		c.mu.Unlock()
		return nil
	case l.length == 0:
		counts.rejected[NoSeat]++
		c.mu.Unlock()
		return NoSeat
	}
	q := l.deal(t.class)
	if len(q.waiting) >= l.length {
		counts.rejected[QueueFull]++
		c.mu.Unlock()
		return QueueFull
	}
	if len(q.waiting) == 0 && q.taken == 0 {
		q.virtual = max(q.virtual, l.virtual) // idleness is not saved up
	}
	t.queue, t.called = q, make(chan struct{})
	q.waiting = append(q.waiting, t)
	l.waiting++
	counts.queued++
	c.callLocked(t.since)
	c.mu.Unlock()
	select {
	case <-t.called:
		return nil
	case <-ctx.Done():
	}
	return c.giveUp(ctx, l, t)
}

// giveUp takes a ticket out of its queue, unless it was called just now.
func (c *Controller) giveUp(ctx context.Context, l *level, t *ticket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.sitting {
		return nil
	}
	t.queue.waiting = slices.DeleteFunc(t.queue.waiting, func(other *ticket) bool { return other == t })
	l.waiting--
	why := TimeOut
	if ctx.Err() == context.Canceled {
		why = Cancelled
	}
	counts := l.countsOf(t.class)
	counts.queued--
	counts.rejected[why]++
	return why
}

// roomLocked tells whether a level may take so many more seats: those that it
// never lends it always may; further ones, where others do not sit on them or keep
// them back. A request that is wider than all that its level has goes alone.
func (c *Controller) roomLocked(l *level, seats int) bool {
	switch {
	case l.exempt, l.taken == 0:
		return true
	case l.taken+seats <= l.least:
		return true
	case l.taken+seats > l.most:
		return false
	}
	kept := 0
	for _, other := range c.levels {
		if other != l && !other.exempt {
			kept += max(other.taken, other.least)
		}
	}
	return kept+l.taken+seats <= c.total
}

// sit gives a ticket its seats.
func (l *level) sit(t *ticket, now time.Time) {
	t.sitting = true
	l.taken += t.seats
	l.executing++
	counts := l.countsOf(t.class)
	counts.executing++
	counts.dispatched++
	if t.queue == nil {
		return
	}
	t.queue.taken += t.seats
	counts.queued--
	counts.waits++
	counts.waited += now.Sub(t.since)
	t.since = now
}

// leave gives seats back and calls whom they let go on.
func (c *Controller) leave(l *level, t *ticket) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	l.taken -= t.seats
	l.executing--
	l.countsOf(t.class).executing--
	if t.queue != nil {
		t.queue.taken -= t.seats
		// What was charged in advance is made what it was.
		t.queue.virtual += float64(t.seats) * (now.Sub(t.since).Seconds() - guess)
	}
	c.callLocked(now)
}

// guess is how many seconds a request is thought to take until it is known.
const guess = 0.003

// callLocked lets requests go on as long as there are seats for them: first those
// of levels that have less than their share, then those of levels that borrow.
func (c *Controller) callLocked(now time.Time) {
	for _, borrow := range []bool{false, true} {
		for _, l := range c.levels {
			for l.waiting > 0 && (borrow || l.taken < l.nominal) {
				q := l.next()
				if t := q.waiting[0]; c.roomLocked(l, t.seats) {
					q.waiting = q.waiting[1:]
					l.waiting--
					l.virtual = max(l.virtual, q.virtual)
					q.virtual += float64(t.seats) * guess
					l.sit(t, now)
					close(t.called)
					continue
				}
				break
			}
		}
	}
}

// next is the queue whose turn it is. Somebody waits.
func (l *level) next() *queue {
	var next *queue
	for _, q := range l.queues {
		if len(q.waiting) > 0 && (next == nil || q.virtual < next.virtual) {
			next = q
		}
	}
	return next
}

// deal chooses a queue for a flow: of the few that it is dealt, always the same,
// the one with the least in it. So a flow that floods fills its own queues, and
// others have all but certainly one that it does not have.
func (l *level) deal(class Class) *queue {
	hash := hashOf(class.Schema, class.flow)
	var best *queue
	load := 0
	dealt := make([]int, 0, 16)
	for i := range max(l.hand, 1) {
		left := uint64(len(l.queues) - i)
		if left == 0 {
			break
		}
		card := int(hash % left)
		hash /= left
		for _, before := range dealt { // sorted: the cards that are gone are stepped over
			if card >= before {
				card++
			}
		}
		at, _ := slices.BinarySearch(dealt, card)
		dealt = slices.Insert(dealt, at, card)
		q := l.queues[card]
		if here := q.load(); best == nil || here < load {
			best, load = q, here
		}
	}
	return best
}

func (q *queue) load() int {
	n := q.taken
	for _, t := range q.waiting {
		n += t.seats
	}
	return n
}

// hashOf is FNV-1a of a schema's and a flow's names.
func hashOf(a, b string) uint64 {
	hash := uint64(14695981039346656037)
	for _, s := range []string{a, "\x00", b} {
		for i := range len(s) {
			hash = (hash ^ uint64(s[i])) * 1099511628211
		}
	}
	return hash
}
