package resourcequota

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/api/quota"
	"skiff/client"
)

var start = time.Unix(1_800_000_000, 0)

func quotaOf(version int, used string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", UID: "q", ResourceVersion: fmt.Sprint(version)},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("9")}},
	}
	if used != "" {
		q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: corev1.ResourceList{corev1.ResourcePods: resource.MustParse(used)}}
	}
	return q
}

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
}

func changed(old, now api.Object) client.Change {
	c := client.Change{Old: old, New: now}
	c.Resource = api.Of(c.Object())
	return c
}

// ledgerOf begins with a quota and pods.
func ledgerOf(t *testing.T, q *corev1.ResourceQuota, pods ...*corev1.Pod) *ledger {
	t.Helper()
	l := newLedger([]*api.Resource{api.For[*corev1.Pod]()}, []*corev1.ResourceQuota{q}, 2*time.Second)
	b := client.Batch{Changes: []client.Change{{Resource: quotaRow, New: q}}}
	for _, p := range pods {
		b.Changes = append(b.Changes, client.Change{Resource: api.For[*corev1.Pod](), New: p})
	}
	if !l.apply(b, start) {
		t.Fatal("the ledger is of no use")
	}
	return l
}

// wants says which number of pods the status is to be given; "": it is right.
func (l *ledger) wants(at time.Duration) string {
	l.expire(start.Add(at))
	status, _ := l.accounts["q"].want(start.Add(at))
	if status == nil {
		return ""
	}
	n := status.Used[corev1.ResourcePods]
	return n.String()
}

func TestANewQuotaIsCounted(t *testing.T) {
	if got := ledgerOf(t, quotaOf(1, ""), podNamed("a"), podNamed("b")).wants(0); got != "2" {
		t.Errorf("status of two pods: %q", got)
	}
}

// A charge whose object is not seen yet stays for a while; one whose object went
// is given back at once, if it is older than that.
func TestWhatIsChargedLatelyStays(t *testing.T) {
	l := ledgerOf(t, quotaOf(1, "1"), podNamed("a"))
	step := func(what string, at time.Duration, want string, changes ...client.Change) {
		t.Helper()
		if !l.apply(client.Batch{Changes: changes}, start.Add(at)) {
			t.Fatalf("%s: the ledger is of no use", what)
		}
		if got := l.wants(at); got != want {
			t.Errorf("%s: the status should become %q, want %q", what, got, want)
		}
	}
	step("nothing happened", 10*time.Second, "")
	step("b is charged", 20*time.Second, "", changed(quotaOf(1, "1"), quotaOf(2, "2")))
	step("b is not there after a second", 21*time.Second, "")
	step("a goes meanwhile", 21*time.Second, "1", changed(podNamed("a"), nil))
	l.accounts["q"].note(quotaOf(3, "1"), start.Add(21*time.Second), true)
	step("b never came", 23*time.Second, "0")
	l.accounts["q"].note(quotaOf(4, "0"), start.Add(23*time.Second), true)
	step("c came uncharged", 24*time.Second, "1", changed(nil, podNamed("c")))
}

// A pod that should have ended long ago no longer counts.
func TestPodsThatDoNotEnd(t *testing.T) {
	pod, seconds := podNamed("a"), int64(30)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: start.Add(time.Minute)}, &seconds
	l := ledgerOf(t, quotaOf(1, "1"), pod)
	if got := l.wants(80 * time.Second); got != "" {
		t.Errorf("it counts %q before its time is over", got)
	}
	if next := l.expire(start); next.Before(start.Add(90 * time.Second)) {
		t.Errorf("its time is over at %s", next.Sub(start))
	}
	if got := l.wants(91 * time.Second); got != "0" {
		t.Errorf("it counts %q after its time is over", got)
	}
	l.apply(client.Batch{Changes: []client.Change{changed(pod, nil)}}, start.Add(92*time.Second))
	if n := l.accounts["q"].sum[corev1.ResourcePods]; n.Sign() != 0 {
		t.Errorf("%s pods are left when all are gone", n.String())
	}
}

func TestAnotherSpecBeginsAnew(t *testing.T) {
	l := ledgerOf(t, quotaOf(1, "0"))
	other := quotaOf(2, "0")
	other.Spec.Hard = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("1")}
	if l.apply(client.Batch{Changes: []client.Change{changed(quotaOf(1, "0"), other)}}, start) {
		t.Error("the ledger goes on counting what nobody wants")
	}
}

// The sums that are kept are those that counting all of it would give.
func TestSumsAreExact(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	q := quotaOf(1, "0")
	q.Spec.Hard[corev1.ResourceRequestsCPU] = resource.MustParse("1k")
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
	l := ledgerOf(t, q)
	pods := map[string]*corev1.Pod{}
	now := start
	for range 3000 {
		name := fmt.Sprint(random.IntN(20))
		var next *corev1.Pod
		if random.IntN(4) > 0 {
			next = podNamed(name)
			next.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(random.Int64N(5000), resource.DecimalSI)}}}}
			next.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodPending, corev1.PodFailed}[random.IntN(3)]
			if random.IntN(3) == 0 {
				next.Spec.ActiveDeadlineSeconds = new(int64)
			}
			if random.IntN(3) == 0 {
				next.DeletionTimestamp, next.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(time.Duration(random.IntN(9)) * time.Second)}, new(int64)
			}
		}
		c := client.Change{Resource: api.For[*corev1.Pod]()}
		if old := pods[name]; old != nil {
			c.Old = old
		}
		delete(pods, name)
		if next != nil {
			c.New, pods[name] = next, next
		}
		if c.Old != nil || c.New != nil {
			l.apply(client.Batch{Changes: []client.Change{c}}, now)
		}
		now = now.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
		l.expire(now)
		m, want := quota.Of(api.For[*corev1.Pod]().GroupResource()), corev1.ResourceList{}
		for _, p := range pods {
			if m.Holds(&q.Spec, p) {
				want = quota.Add(want, m.Use(p, now))
			}
		}
		for _, name := range l.accounts["q"].names {
			if have, should := l.accounts["q"].sum[name], want[name]; have.Cmp(should) != 0 {
				t.Fatalf("seed %d: %s is %s, counting all gives %s", seed, name, have.String(), should.String())
			}
		}
	}
}
