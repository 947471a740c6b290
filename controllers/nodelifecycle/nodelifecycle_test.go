package nodelifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
	"skiff/controllers/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(name, zone string, conditions ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	for _, c := range conditions {
		kind, status, _ := strings.Cut(c, "=")
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeConditionType(kind), Status: corev1.ConditionStatus(status), LastTransitionTime: metav1.NewTime(start)})
	}
	return n
}

func beat(w *rehearsal.World, names ...string) {
	for _, name := range names {
		at := metav1.NewMicroTime(w.Now)
		w.Put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}})
	}
	w.Settle()
}

// taintsOf writes the taints as "not-ready:NoSchedule …".
func taintsOf(w *rehearsal.World, name string) string {
	n, _ := client.Find[*corev1.Node](w.View, "", name)
	var out []string
	for _, t := range n.Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTaintsFollowConditions(t *testing.T) {
	mine := corev1.Taint{Key: "example.com/mine", Effect: corev1.TaintEffectNoSchedule}
	fresh := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for _, c := range []struct {
		node   *corev1.Node
		taints []corev1.Taint
		want   string
	}{
		{node("n", "a", "Ready=True"), []corev1.Taint{fresh}, ""},
		{node("n", "a"), []corev1.Taint{fresh}, "not-ready:NoSchedule"},
		{node("n", "a", "Ready=True"), []corev1.Taint{mine, fresh}, "example.com/mine:NoSchedule"},
		{node("n", "a", "Ready=True", "MemoryPressure=True", "DiskPressure=True", "PIDPressure=True"), nil, "disk-pressure:NoSchedule memory-pressure:NoSchedule pid-pressure:NoSchedule"},
		{node("n", "a", "Ready=True", "NetworkUnavailable=True", "MemoryPressure=Unknown"), nil, "network-unavailable:NoSchedule"},
		{node("n", "a", "Ready=Unknown"), []corev1.Taint{fresh}, "unreachable:NoSchedule"},
		{node("n", "a", "Ready=False"), []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}, "not-ready:NoExecute not-ready:NoSchedule"},
	} {
		w := rehearsal.New(t, start, Controller())
		w.Put(node("other", "b", "Ready=True")) // else nobody would be evicted
		c.node.Spec.Taints = c.taints
		w.Put(c.node)
		w.Step()
		for w.Step() {
			if strings.Contains(taintsOf(w, "n"), "NoExecute") {
				break
			}
		}
		got := strings.ReplaceAll(taintsOf(w, "n"), "unreachable:NoExecute ", "")
		if got != c.want {
			t.Errorf("%v with %v: %q, want %q", c.node.Status.Conditions, c.taints, got, c.want)
		}
	}
	cordoned := node("n", "a", "Ready=True")
	cordoned.Spec.Unschedulable = true
	w := rehearsal.New(t, start, Controller())
	w.Put(cordoned)
	w.Settle()
	if got := taintsOf(w, "n"); got != "unschedulable:NoSchedule" {
		t.Errorf("cordoned: %q", got)
	}
	cordoned.Spec.Unschedulable = false
	w.Put(cordoned)
	w.Settle()
	if got := taintsOf(w, "n"); got != "" {
		t.Errorf("uncordoned: %q", got)
	}
}

func TestASilentNodeIsGivenUpAndComesBack(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	w.Put(node("n1", "a", "Ready=True", "MemoryPressure=False"))
	w.Put(node("n2", "a", "Ready=True"))
	w.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}}})
	for range 6 { // a minute in which both live
		w.Advance(10 * time.Second)
		beat(w, "n1", "n2")
	}
	if got := taintsOf(w, "n1"); got != "" {
		t.Fatalf("alive, but %q", got)
	}
	for range 5 {
		if got := taintsOf(w, "n1"); got != "" {
			t.Fatalf("within the grace period: %q", got)
		}
		w.Advance(10 * time.Second)
		beat(w, "n2")
	}
	if got := taintsOf(w, "n1"); got != "unreachable:NoExecute unreachable:NoSchedule" {
		t.Fatalf("silent for 50 s: %q", got)
	}
	n, _ := client.Find[*corev1.Node](w.View, "", "n1")
	var said []string
	for _, c := range n.Status.Conditions {
		said = append(said, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
	}
	slices.Sort(said)
	if want := []string{"DiskPressure=Unknown/NodeStatusNeverUpdated", "MemoryPressure=Unknown/NodeStatusUnknown", "PIDPressure=Unknown/NodeStatusNeverUpdated", "Ready=Unknown/NodeStatusUnknown"}; !slices.Equal(said, want) {
		t.Errorf("conditions %q", said)
	}
	p, _ := client.Find[*corev1.Pod](w.View, "x", "p")
	if _, ready := workload.ReadySince(p); ready || len(p.Status.Conditions) != 2 {
		t.Errorf("the pod's conditions: %v", p.Status.Conditions)
	}
	if got := taintsOf(w, "n2"); got != "" {
		t.Errorf("the other node: %q", got)
	}
	back := n.DeepCopy()
	for i := range back.Status.Conditions {
		back.Status.Conditions[i].Status = corev1.ConditionFalse
	}
	ready := condition(back, corev1.NodeReady)
	ready.Status, ready.LastHeartbeatTime = corev1.ConditionTrue, metav1.NewTime(w.Now)
	w.Put(back)
	w.Settle()
	if got := taintsOf(w, "n1"); got != "" {
		t.Errorf("it is back, but %q", got)
	}
}

func TestANodeThatNeverReports(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	w.Put(node("n1", "a"))
	w.Advance(59 * time.Second)
	if n, _ := client.Find[*corev1.Node](w.View, "", "n1"); len(n.Status.Conditions) != 0 {
		t.Fatalf("too early: %v", n.Status.Conditions)
	}
	w.Advance(time.Second)
	n, _ := client.Find[*corev1.Node](w.View, "", "n1")
	if len(n.Status.Conditions) != 4 || n.Status.Conditions[0].Reason != "NodeStatusNeverUpdated" {
		t.Errorf("conditions %v", n.Status.Conditions)
	}
}

// evicted counts the nodes with NoExecute taints.
func evicted(w *rehearsal.World) (n int) {
	for node := range client.All[*corev1.Node](w.View, "") {
		if hasEviction(node) {
			n++
		}
	}
	return n
}

func TestPaceOfEviction(t *testing.T) {
	for _, c := range []struct {
		name              string
		ready, not, other int           // nodes of zone a that are ready and are not, and ready ones of zone b
		after             time.Duration // this much time
		want              int           // so many are evicted
	}{
		{"one each ten seconds", 5, 3, 0, 15 * time.Second, 2},
		{"a small zone of which most is away is left alone", 2, 8, 1, time.Hour, 0},
		{"two of three are not many", 1, 2, 0, time.Minute, 2},
		{"a large zone of which most is away goes slowly", 20, 40, 1, 150 * time.Second, 2},
		{"a zone that is away wholly goes at the usual pace", 0, 4, 1, 15 * time.Second, 2},
		{"where nothing works nobody is evicted", 0, 4, 0, time.Hour, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rehearsal.New(t, start, Controller())
			for i := range c.other {
				w.Put(node(fmt.Sprint("other", i), "b", "Ready=True"))
			}
			for i := range c.ready {
				w.Put(node(fmt.Sprint("ready", i), "a", "Ready=True"))
			}
			for i := range c.not {
				w.Put(node(fmt.Sprint("not", i), "a", "Ready=False"))
			}
			w.Settle()
			for end := start.Add(c.after); w.Now.Before(end); {
				w.Now = w.Now.Add(5 * time.Second)
				for n := range client.All[*corev1.Node](w.View, "") {
					beat(w, n.Name)
				}
				if c.after > 10*time.Minute && w.Now.Sub(start) > time.Minute {
					break // nothing changes any more
				}
			}
			if got := evicted(w); got != c.want {
				t.Errorf("%d nodes are evicted, want %d", got, c.want)
			}
		})
	}
}

func TestWhenNothingWorksTheEvictedAreSpared(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	w.Put(node("n1", "a", "Ready=False"))
	w.Put(node("n2", "a", "Ready=True"))
	w.Settle()
	if evicted(w) != 1 {
		t.Fatal("n1 is not evicted")
	}
	w.Put(node("n2", "a", "Ready=False"))
	w.Settle()
	if n := evicted(w); n != 0 {
		t.Errorf("%d are evicted", n)
	}
}
