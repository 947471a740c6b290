package apiserver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/api/quota"
	"skiff/apiserver/admission"
	"skiff/cache"
)

var quotaRow = api.For[*corev1.ResourceQuota]()

// quotaPatience is how long a write may wait for its turn at its namespace's quotas.
const quotaPatience = 10 * time.Second

// quotas charges writes to the ResourceQuotas of their namespaces, before they
// are stored. What is used stands in the quota's status and is raised by
// compare-and-swap in the store. Writes of one namespace that come at once are
// charged together, so that each quota is written once for all of them; what is
// given back, and by whom, controllers/resourcequota says.
type quotas struct {
	s  *Server
	mu sync.Mutex
	// waiting are the charges of each namespace at whose quotas somebody is at
	// work just now; guarded by mu.
	waiting map[string][]*charge

	// changed is the newest revision at which a client of this server wrote a quota.
	changed atomic.Int64
}

// charge is one write that is to be charged.
type charge struct {
	measure *quota.Measure
	write   quota.Write
	dryRun  bool
	refuse  func(why error) error

	taken map[types.UID]corev1.ResourceList // by the quota's UID
	err   error
	done  chan struct{}
}

// step is the last one of admission: it judges, and counts, what the others have made.
func (q *quotas) step() admission.Step {
	return admission.Step{Name: "ResourceQuota", Validate: q.admit}
}

func (q *quotas) admit(ctx context.Context, w *admission.Write) error {
	m := quota.Of(w.Resource.GroupResource())
	if m == nil || !w.Resource.Namespaced || w.Verb != "create" && w.Verb != "update" {
		return nil
	}
	if any, err := q.any(ctx, w.Namespace); !any || err != nil {
		return err
	}
	c := &charge{measure: m, dryRun: w.DryRun, done: make(chan struct{}), taken: map[types.UID]corev1.ResourceList{},
		write:  quota.Write{Verb: w.Verb, Subresource: w.Subresource, Object: w.Object, Now: time.Now()},
		refuse: w.Forbid}
	if w.Old != nil {
		c.write.Old = w.Old
	}
	if !m.Charged(w.Verb, w.Subresource, c.write.Object, c.write.Old) {
		return nil
	}
	if err := q.pay(ctx, w.Namespace, c); err != nil {
		return err
	}
	if len(c.taken) > 0 {
		w.Undo = func(ctx context.Context) { q.giveBack(ctx, w.Namespace, []*charge{c}) }
	}
	return nil
}

// any tells whether a namespace has quotas; most have none. Who has just written
// one finds it here.
func (q *quotas) any(ctx context.Context, namespace string) (bool, error) {
	if err := q.s.notOlderThan(ctx, q.changed.Load()); err != nil {
		return false, err
	}
	for range q.s.table(quotaRow).Snapshot().All(namespace) {
		return true, nil
	}
	return false, nil
}

// note remembers that a client wrote an object, if it is a quota.
func (q *quotas) note(entry *cache.Entry, row *api.Resource) {
	for row == quotaRow {
		have := q.changed.Load()
		if have >= entry.Revision() || q.changed.CompareAndSwap(have, entry.Revision()) {
			return
		}
	}
}

// pay waits until the charge is settled. Whoever finds nobody at work settles for
// all who come meanwhile.
func (q *quotas) pay(ctx context.Context, namespace string, c *charge) error {
	q.mu.Lock()
	_, busy := q.waiting[namespace]
	q.waiting[namespace] = append(q.waiting[namespace], c)
	q.mu.Unlock()
	if !busy {
		go q.work(context.WithoutCancel(ctx), namespace)
	}
	late := time.NewTimer(quotaPatience)
	defer late.Stop()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	case <-late.C:
	}
	// It may be settled after all: then nobody will use what was taken.
	go func() {
		<-c.done
		ctx, cancel := afterwards(ctx)
		defer cancel()
		q.giveBack(ctx, namespace, []*charge{c})
	}()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return apierrors.NewInternalError(errors.New("resource quota evaluation timed out"))
}

// work settles charges of a namespace until none waits.
func (q *quotas) work(ctx context.Context, namespace string) {
	for {
		q.mu.Lock()
		batch := q.waiting[namespace]
		if len(batch) == 0 {
			delete(q.waiting, namespace)
			q.mu.Unlock()
			return
		}
		q.waiting[namespace] = []*charge{}
		q.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, quotaPatience)
		q.settle(limited, namespace, batch)
		cancel()
		for _, c := range batch {
			close(c.done)
		}
	}
}

// settle charges a batch to each quota of a namespace. What one quota refuses is
// not charged to the others: all are asked before any is written, and where a
// quota changed in between, what was charged is given back.
func (q *quotas) settle(ctx context.Context, namespace string, batch []*charge) {
	var names []string
	for entry := range q.s.table(quotaRow).Snapshot().All(namespace) {
		names = append(names, entry.Name())
	}
	for _, name := range names {
		if have, err := q.read(ctx, namespace, name, false); err == nil {
			chargeTo(have, batch, false)
		}
	}
	for _, name := range names {
		q.swap(ctx, namespace, name, func(have *corev1.ResourceQuota) bool { return chargeTo(have, batch, true) }, batch)
	}
	var refused []*charge
	for _, c := range batch {
		if c.err != nil {
			refused = append(refused, c)
		}
	}
	q.giveBack(ctx, namespace, refused)
}

// read returns a copy of a quota; live: from the store.
func (q *quotas) read(ctx context.Context, namespace, name string, live bool) (*corev1.ResourceQuota, error) {
	read := q.s.current
	if live {
		read = q.s.currentStored
	}
	entry, err := read(ctx, quotaRow, namespace, name)
	if err != nil {
		return nil, err
	}
	return entry.Object().(*corev1.ResourceQuota).DeepCopy(), nil
}

// swap changes a quota's status by compare-and-swap. change tells whether there
// is anything to write; it may be called several times, each time on a newer
// quota. A quota that is gone needs no charge; any other failure is the batch's.
func (q *quotas) swap(ctx context.Context, namespace, name string, change func(*corev1.ResourceQuota) bool, batch []*charge) {
	for live := false; ; live = true {
		have, err := q.read(ctx, namespace, name, live)
		if err == nil {
			if !change(have) {
				return
			}
			revision, parseErr := parseRevision(have.ResourceVersion)
			if err = parseErr; err == nil {
				_, err = q.s.put(ctx, quotaRow, have, q.s.condition(&Request{}, quotaRow, revision))
			}
		}
		switch {
		case err == nil || apierrors.IsNotFound(err):
			return
		case apierrors.IsConflict(err) && ctx.Err() == nil:
			continue
		}
		for _, c := range batch {
			if c.err == nil {
				c.err = err
			}
		}
		return
	}
}

// chargeTo charges those of the batch that nothing has refused yet to a quota,
// and tells whether that changed the quota. Without keep it only asks whether
// each of them would fit, one after the other.
func chargeTo(have *corev1.ResourceQuota, batch []*charge, keep bool) (changed bool) {
	for _, c := range batch {
		delete(c.taken, have.UID)
		if c.err != nil {
			continue
		}
		more, err := c.measure.Charge(have, c.write)
		switch {
		case err != nil:
			c.err = c.refuse(err)
		case more != nil && !c.dryRun:
			have.Status.Used = quota.Add(have.Status.Used, more)
			if changed = true; keep {
				c.taken[have.UID] = more
			}
		}
	}
	return changed
}

// giveBack takes charges back whose writes were not stored.
func (q *quotas) giveBack(ctx context.Context, namespace string, charges []*charge) {
	back := map[types.UID]corev1.ResourceList{}
	for _, c := range charges {
		for uid, amount := range c.taken {
			back[uid] = quota.Add(back[uid], amount)
		}
		clear(c.taken)
	}
	if len(back) == 0 {
		return
	}
	var entries []*cache.Entry
	for entry := range q.s.table(quotaRow).Snapshot().All(namespace) {
		entries = append(entries, entry)
	}
	for _, entry := range entries {
		amount, ok := back[entry.UID()]
		if !ok {
			continue
		}
		q.swap(ctx, namespace, entry.Name(), func(have *corev1.ResourceQuota) bool {
			if have.UID != entry.UID() {
				return false
			}
			have.Status.Used = quota.Without(have.Status.Used, amount)
			return true
		}, nil)
	}
}

// undo takes back what admission has done for a write that was not stored; where
// nobody knows whether it was, it stays, and the controllers find out.
func undo(ctx context.Context, w *admission.Write, err error) {
	if err == nil || w.Undo == nil || outcomeUnknown(err) {
		return
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	w.Undo(ctx)
	w.Undo = nil
}

// outcomeUnknown: the store's answer to a write was lost.
func outcomeUnknown(err error) bool { return apierrors.IsTimeout(err) }
