package resourcequota

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/api/quota"
	"skiff/client"
)

// ledger is what is known of a namespace's quotas and of what uses them: sums,
// kept up to date by each change. It is pure.
type ledger struct {
	measures map[*api.Resource]*quota.Measure
	accounts map[string]*account // by the quota's name
	settle   time.Duration
	begun    bool // the snapshot is in
	// leaving are the pods that are being deleted: they stop to count when their
	// time is over, though nothing changes.
	leaving map[types.UID]*leavingPod
}

type leavingPod struct {
	pod  *corev1.Pod
	at   time.Time
	gone bool // no longer counted
}

// account is one quota.
type account struct {
	quota *corev1.ResourceQuota // as seen or written last
	names []corev1.ResourceName // of spec.hard that we can count
	sum   corev1.ResourceList   // what the objects that are seen use
	seen  corev1.ResourceList   // status.used, as seen or written last
	// raises are what others added to status.used lately, oldest first. Objects
	// behind them may be on their way to the store.
	raises []raise
	settle time.Duration
}

type raise struct {
	at     time.Time
	amount corev1.ResourceList
}

// newLedger makes a ledger of the quotas over the rows.
func newLedger(rows []*api.Resource, quotas []*corev1.ResourceQuota, settle time.Duration) *ledger {
	l := &ledger{measures: map[*api.Resource]*quota.Measure{}, accounts: map[string]*account{}, settle: settle, leaving: map[types.UID]*leavingPod{}}
	for _, r := range rows {
		l.measures[r] = quota.Of(r.GroupResource())
	}
	for _, q := range quotas {
		a := &account{quota: q, sum: corev1.ResourceList{}, settle: settle}
		for _, m := range l.measures {
			a.names = append(a.names, m.Names(q.Spec.Hard)...)
		}
		slices.Sort(a.names)
		a.names = slices.Compact(a.names)
		l.accounts[q.Name] = a
	}
	return l
}

// apply takes in changes; false: what is to be counted has changed, and the
// ledger is of no use any more.
func (l *ledger) apply(batch client.Batch, now time.Time) bool {
	told := 0
	for _, c := range batch.Changes {
		if q, ok := c.Object().(*corev1.ResourceQuota); ok {
			a := l.accounts[q.Name]
			if c.New == nil || a == nil || !sameSpec(a.quota, q) {
				return false
			}
			told++
			a.note(q, now, l.begun)
		}
		if m := l.measures[c.Resource]; m != nil {
			l.count(m, c)
		}
	}
	if l.begun {
		return true
	}
	if told != len(l.accounts) {
		return false // one is gone since they were listed
	}
	l.begun = true
	for _, a := range l.accounts {
		// Nobody knows when what nothing stands behind was charged: it may be just now.
		a.raises = []raise{{now, positive(quota.Subtract(a.seen, a.sum))}}
	}
	return true
}

// note takes in a newer version of the quota.
func (a *account) note(q *corev1.ResourceQuota, now time.Time, begun bool) {
	if begun {
		if more := positive(quota.Subtract(q.Status.Used, a.seen)); len(more) > 0 {
			a.raises = append(a.raises, raise{now, more})
		}
	}
	a.quota, a.seen = q, q.Status.Used
}

// count moves an object's change into the sums.
func (l *ledger) count(m *quota.Measure, c client.Change) {
	if c.Old != nil {
		l.move(m, c.Old, quota.Subtract)
		delete(l.leaving, c.Old.GetUID())
	}
	if c.New == nil {
		return
	}
	if pod, ok := c.New.(*corev1.Pod); ok {
		if at, ok := quota.GivenUp(pod); ok {
			l.leaving[pod.UID] = &leavingPod{pod: pod, at: at}
		}
	}
	l.move(m, c.New, quota.Add)
}

// always is before each pod's end, and never after it.
var always, never = time.Time{}, time.Unix(1<<40, 0)

// move adds an object's use to the sums of the quotas that hold it, or takes it off.
func (l *ledger) move(m *quota.Measure, obj api.Object, how func(a, b corev1.ResourceList) corev1.ResourceList) {
	at := always
	if p := l.leaving[obj.GetUID()]; p != nil && p.gone {
		at = never
	}
	var use corev1.ResourceList
	for _, a := range l.accounts {
		if !m.Holds(&a.quota.Spec, obj) {
			continue
		}
		if use == nil {
			use = m.Use(obj, at)
		}
		a.sum = how(a.sum, only(use, a.names))
	}
}

func only(list corev1.ResourceList, names []corev1.ResourceName) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range names {
		if amount, ok := list[name]; ok {
			out[name] = amount
		}
	}
	return out
}

// expire takes pods out of the sums whose time is over, and returns when the next
// one's is; zero: there is none.
func (l *ledger) expire(now time.Time) (next time.Time) {
	m := quota.Of(api.For[*corev1.Pod]().GroupResource())
	for _, p := range l.leaving {
		switch {
		case p.gone:
		case now.After(p.at):
			l.move(m, p.pod, quota.Subtract)
			p.gone = true
			l.move(m, p.pod, quota.Add)
		case next.IsZero() || p.at.Before(next):
			next = p.at.Add(time.Millisecond)
		}
	}
	return next
}

// want returns the status that the quota should have; nil: it has it. What was
// charged lately is left standing, since its objects may not be seen yet: at is
// when to look again for that reason.
func (a *account) want(now time.Time) (status *corev1.ResourceQuotaStatus, at time.Time) {
	a.raises = slices.DeleteFunc(a.raises, func(r raise) bool { return !now.Before(r.at.Add(a.settle)) })
	lately := corev1.ResourceList{}
	for _, r := range a.raises {
		lately = quota.Add(lately, r.amount)
	}
	used := corev1.ResourceList{}
	for name, amount := range a.quota.Status.Used {
		if _, limited := a.quota.Spec.Hard[name]; limited {
			used[name] = amount
		}
	}
	for _, name := range a.names {
		total := a.sum[name].DeepCopy()
		if total.IsZero() {
			total = resource.Quantity{Format: resource.DecimalSI}
		}
		have, counted := a.quota.Status.Used[name]
		if !counted || have.Cmp(total) <= 0 {
			used[name] = total
			continue
		}
		left := total.DeepCopy()
		if left.Add(lately[name]); have.Cmp(left) < 0 {
			left = have.DeepCopy()
		}
		if used[name] = left; left.Cmp(total) != 0 {
			at = a.raises[0].at.Add(a.settle) // what is left standing stands for some raise
		}
	}
	have := a.quota.Status
	if have.Used != nil && quota.Equal(used, have.Used) && equality.Semantic.DeepEqual(a.quota.Spec.Hard, have.Hard) {
		return nil, at
	}
	return &corev1.ResourceQuotaStatus{Hard: a.quota.Spec.Hard.DeepCopy(), Used: used}, at
}

func positive(list corev1.ResourceList) corev1.ResourceList {
	for name, amount := range list {
		if amount.Sign() <= 0 {
			delete(list, name)
		}
	}
	return list
}
