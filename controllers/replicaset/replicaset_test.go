package replicaset

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func replicaSet(n int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "rs1", Generation: 3, ResourceVersion: "7"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &n,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}},
		},
	}
}

// pod makes a running pod; the owner may be nil.
func pod(name string, owner *appsv1.ReplicaSet, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	ready(now.Add(-time.Hour))(p)
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, api.Of(owner).GVK())}
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func ready(since time.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
	}
}

func notReady(p *corev1.Pod) { p.Status.Conditions = nil }
func pending(p *corev1.Pod) {
	p.Status.Phase, p.Status.Conditions, p.Spec.NodeName = corev1.PodPending, nil, ""
}
func failed(p *corev1.Pod) { p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil }
func ending(p *corev1.Pod) { t := metav1.NewTime(now); p.DeletionTimestamp = &t }
func other(p *corev1.Pod)  { p.Labels = map[string]string{"app": "other"} }

// view shows objects as the loop would have learnt them.
func view(objects ...api.Object) *client.View {
	v := client.NewView(Controller().Indexes...)
	for _, obj := range objects {
		v.Apply(client.Batch{Changes: []client.Change{{Resource: api.Of(obj), New: obj}}})
	}
	return v
}

// summary of a plan: "create", "delete NAME", "patch NAME", in order; status apart.
func summary(plan loop.Plan) (writes []string, status *appsv1.ReplicaSetStatus) {
	for _, w := range plan.Writes {
		switch {
		case w.Sub() == "status":
			status = &w.Object().(*appsv1.ReplicaSet).Status
		case w.Verb() == "create":
			writes = append(writes, "create")
		default:
			writes = append(writes, w.Verb()+" "+w.Object().GetName())
		}
	}
	return writes, status
}

func TestDecide(t *testing.T) {
	rs := replicaSet(2)
	stranger := replicaSet(2)
	stranger.Name, stranger.UID = "stranger", "rs2"
	for _, c := range []struct {
		name    string
		objects []api.Object
		want    []string
	}{
		{"creates what is missing", []api.Object{rs}, []string{"create", "create"}},
		{"does nothing when all is there", []api.Object{rs, pod("p1", rs), pod("p2", rs)}, nil},
		{"replaces a failed pod", []api.Object{rs, pod("p1", rs), pod("p2", rs, failed)}, []string{"create"}},
		{"replaces a pod that is ending", []api.Object{rs, pod("p1", rs), pod("p2", rs, ending)}, []string{"create"}},
		{"does not count a stranger's pods", []api.Object{rs, stranger, pod("p1", rs), pod("p2", stranger)}, []string{"create"}},
		{"adopts before it creates", []api.Object{rs, pod("p1", rs), pod("p2", nil)}, []string{"patch p2"}},
		{"releases what it no longer picks", []api.Object{rs, pod("p1", rs), pod("p2", rs, other)}, []string{"patch p2"}},
		{"deletes an unassigned pod first", []api.Object{rs, pod("p1", rs), pod("p2", rs), pod("p3", rs, pending)}, []string{"delete p3"}},
		{"deletes one that is not ready before one that is", []api.Object{rs, pod("p1", rs), pod("p2", rs, notReady), pod("p3", rs)}, []string{"delete p2"}},
		{"deletes by cost", []api.Object{rs, pod("p1", rs), pod("p2", rs), pod("p3", rs, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.PodDeletionCost: "-10"}
		})}, []string{"delete p3"}},
		{"deletes where most are", []api.Object{rs, pod("p1", rs, func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), pod("p2", rs, ready(now.Add(-time.Second))), pod("p3", rs)}, []string{"delete p2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, _ := Decide(view(c.objects...), loop.KeyOf(rs), now, nil)
			if got, _ := summary(plan); !slices.Equal(got, c.want) {
				t.Errorf("writes %q, want %q", got, c.want)
			}
		})
	}
}

func TestStatusCountsWhatIsSeen(t *testing.T) {
	rs := replicaSet(3)
	rs.Spec.MinReadySeconds = 60
	plan, _ := Decide(view(rs, pod("p1", rs), pod("p2", rs, ready(now.Add(-20*time.Second))), pod("p3", rs, notReady), pod("p4", rs, ending)), loop.KeyOf(rs), now, nil)
	_, s := summary(plan)
	got := fmt.Sprint(s.Replicas, s.ReadyReplicas, s.AvailableReplicas, *s.TerminatingReplicas, s.ObservedGeneration)
	if got != "3 2 1 1 3" {
		t.Errorf("replicas, ready, available, terminating, generation: %s", got)
	}
	if want := now.Add(40 * time.Second); !plan.WakeAt.Equal(want) {
		t.Errorf("wakes at %s, want %s, when p2 becomes available", plan.WakeAt, want)
	}
}

func TestARefusalIsACondition(t *testing.T) {
	rs := replicaSet(1)
	plan, m := Decide(view(rs), loop.KeyOf(rs), now, nil)
	for _, w := range plan.Writes {
		if w.Verb() == "create" {
			m = refused(m, w, errors.New("exceeded quota"))
		}
	}
	plan, m = Decide(view(rs), loop.KeyOf(rs), now, m)
	if plan.Writes[0].Sub() != "status" {
		t.Fatal("the status must be written before the pod that is refused")
	}
	_, s := summary(plan)
	if len(s.Conditions) != 1 || s.Conditions[0].Reason != "FailedCreate" || s.Conditions[0].Message != "exceeded quota" {
		t.Errorf("conditions %v", s.Conditions)
	}
	rs = rs.DeepCopy()
	rs.Status = *s
	plan, m = Decide(view(rs, pod("p1", rs)), loop.KeyOf(rs), now, m)
	if _, s := summary(plan); s == nil || len(s.Conditions) != 0 || m != nil {
		t.Errorf("after the pod could be made: %v, memory %v", s, m)
	}
}

func TestADeletedReplicaSetLeavesItsPodsToTheGarbageCollector(t *testing.T) {
	rs := replicaSet(5)
	end := metav1.NewTime(now)
	rs.DeletionTimestamp = &end
	plan, _ := Decide(view(rs, pod("p1", rs), pod("p2", nil)), loop.KeyOf(rs), now, nil)
	if got, _ := summary(plan); len(got) != 0 {
		t.Errorf("writes %q", got)
	}
}
