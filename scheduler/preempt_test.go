package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/api"
)

func priority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}

func started(minute int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		at := metav1.NewTime(time.Unix(int64(minute)*60, 0))
		p.Status.StartTime = &at
	}
}

func budget(app string, allowed int32) api.Object {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: app},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
}

// Each line of the rules by which upstream's documentation ("Pod Priority and
// Preemption") and its scheduler choose whom to send away.
func TestWhoHasToGo(t *testing.T) {
	two := []*corev1.Node{node("n1"), node("n2")}
	one := []*corev1.Node{node("n1")}
	for _, c := range []struct {
		name  string
		state *state
		pod   *corev1.Pod
		want  string // node and victims, or why nobody
	}{
		{"no more than needed, the least important",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("1", "1Gi"), priority(1)), "n1/b": pod("b", asks("1", "1Gi"), priority(2))}),
			pod("p", asks("1", "1Gi"), priority(9)), "n1 [a]"},
		{"of equals, who began last",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("1", "1Gi"), started(1)), "n1/b": pod("b", asks("1", "1Gi"), started(5))}),
			pod("p", asks("1", "1Gi"), priority(9)), "n1 [b]"},
		{"not pods of the same priority",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"), priority(9))}),
			pod("p", asks("1", "1Gi"), priority(9)), "0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"a pod that must not send others away",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"))}),
			pod("p", asks("1", "1Gi"), priority(9), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }), never},
		{"a node that is too small even when empty",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("1", "1Gi"))}),
			pod("p", asks("3", "1Gi"), priority(9)), "0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"a cordoned node gains nothing",
			world([]*corev1.Node{node("n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"))}),
			pod("p", asks("1", "1Gi"), priority(9)), "0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"the node where no budget breaks",
			world(two, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"), labelled("db")), "n2/b": pod("b", asks("2", "1Gi"), priority(5))}, budget("db", 0)),
			pod("p", asks("1", "1Gi"), priority(9)), "n2 [b]"},
		{"on one node, those without a budget first",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", asks("1", "1Gi"), labelled("db")), "n1/b": pod("b", asks("1", "1Gi"), priority(5))}, budget("db", 0)),
			pod("p", asks("1", "1Gi"), priority(9)), "n1 [b]"},
		{"a budget that allows it does not count",
			world(two, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"), labelled("db")), "n2/b": pod("b", asks("2", "1Gi"), priority(5))}, budget("db", 1)),
			pod("p", asks("1", "1Gi"), priority(9)), "n1 [a]"},
		{"the node whose highest victim is the lowest",
			world(two, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"), priority(4)), "n2/b": pod("b", asks("1", "1Gi"), priority(3)), "n2/c": pod("c", asks("1", "1Gi"), priority(3))}),
			pod("p", asks("2", "1Gi"), priority(9)), "n2 [b c]"},
		{"fewer victims",
			world(two, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi")), "n2/b": pod("b", asks("1", "1Gi")), "n2/c": pod("c", asks("1", "1Gi"))}),
			pod("p", asks("2", "1Gi"), priority(9)), "n1 [a]"},
		{"victims that began later",
			world(two, map[string]*corev1.Pod{"n1/a": pod("a", asks("2", "1Gi"), started(1)), "n2/b": pod("b", asks("2", "1Gi"), started(9))}),
			pod("p", asks("2", "1Gi"), priority(9)), "n2 [b]"},
		{"a port",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", hostPortOf(80)), "n1/b": pod("b", hostPortOf(81))}),
			pod("p", hostPortOf(80), priority(9)), "n1 [a]"},
		{"who keeps it out by anti-affinity",
			world(one, map[string]*corev1.Pod{"n1/a": pod("a", apart(corev1.LabelHostname)), "n1/b": pod("b", labelled("other"))}),
			pod("p", priority(9)), "n1 [a]"},
		{"who is in the way of spreading",
			world([]*corev1.Node{node("n1"), node("n2", taint("k", corev1.TaintEffectNoSchedule))}, map[string]*corev1.Pod{"n1/a": pod("a")}),
			pod("p", spread(1, corev1.LabelHostname), priority(9)), "n1 [a]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, refused := c.state.choose(c.pod, first)
			if refused == nil {
				t.Fatal("it fits without")
			}
			before := c.state.occupancy(t)
			best, got := c.state.preempt(c.pod, refused, first)
			if best != nil {
				got = fmt.Sprint(best.node.name, " ", names(best.victims))
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if after := c.state.occupancy(t); before != after {
				t.Errorf("looking changed the state from %s to %s", before, after)
			}
			if _, again := c.state.choose(c.pod, first); again == nil || again.String() != refused.String() {
				t.Errorf("afterwards it is refused with %v, before with %v", again, refused)
			}
		})
	}
}

func names(pods []*placedPod) (out []string) {
	for _, p := range pods {
		out = append(out, p.pod.Name)
	}
	slices.Sort(out)
	return out
}

// occupancy prints what is taken on the nodes.
func (s *state) occupancy(t *testing.T) (out string) {
	t.Helper()
	for _, n := range s.order {
		out += fmt.Sprintf("%s %+v %d pods %d ports; ", n.name, n.free, len(n.here), len(n.ports))
	}
	return fmt.Sprint(out, len(s.placed), " placed, serial ", s.serial)
}

// A nominated pod's room is kept from pods of no higher priority, not from higher ones.
func TestNominatedPodsKeepTheirRoom(t *testing.T) {
	s := world([]*corev1.Node{node("n1")}, nil)
	s.nominate(pod("first", asks("2", "1Gi"), priority(5)), "n1")
	for prio, want := range map[int32]string{4: "", 5: "", 6: "n1"} {
		if got, _ := s.choose(pod("p", asks("1", "1Gi"), priority(prio)), first); got != want {
			t.Errorf("priority %d: node %q, want %q", prio, got, want)
		}
	}
	if got, _ := s.choose(pod("first", asks("2", "1Gi"), priority(5)), first); got != "n1" {
		t.Errorf("the nominated pod itself: node %q", got)
	}
	s.nominate(pod("first"), "")
	if got, refused := s.choose(pod("p", asks("1", "1Gi"), priority(4)), first); got != "n1" {
		t.Errorf("after the nomination ended: %v", refused)
	}
}
