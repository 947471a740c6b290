package disruption

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/rehearsal"
	"skiff/controllers/workload"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	app   = map[string]string{"app": "web"}
)

func budget(change func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}}}
	change(b)
	return b
}

func least(v string) func(*policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) { x := intstr.Parse(v); b.Spec.MinAvailable = &x }
}

func most(v string) func(*policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) { x := intstr.Parse(v); b.Spec.MaxUnavailable = &x }
}

func pod(i int, owner api.Object, ready corev1.ConditionStatus) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: fmt.Sprint("p", i), Labels: app}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, api.Of(owner).GVK())}
	}
	return p
}

func TestHowManyMayBeDisrupted(t *testing.T) {
	four := int32(4)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web", UID: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &four}}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web-1", UID: "rs", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, api.Of(d).GVK())}}, Spec: appsv1.ReplicaSetSpec{Replicas: &four}}
	stranger := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "ds", UID: "ds"}}
	for _, c := range []struct {
		name         string
		budget       *policyv1.PodDisruptionBudget
		owner        api.Object
		ready, not   int
		want, reason string // healthy desired expected allowed
	}{
		{"a number must stay", budget(least("2")), rs, 3, 1, "3 2 4 1", "SufficientPods"},
		{"a number must stay, and no more are there", budget(least("3")), rs, 3, 1, "3 3 4 0", "InsufficientPods"},
		{"a share of what is wanted must stay", budget(least("50%")), rs, 3, 0, "3 2 4 1", "SufficientPods"},
		{"a number may be away", budget(most("1")), rs, 4, 0, "4 3 4 1", "SufficientPods"},
		{"a share may be away, rounded up", budget(most("30%")), rs, 4, 0, "4 2 4 2", "SufficientPods"},
		{"one is away already", budget(most("1")), rs, 3, 1, "3 3 4 0", "InsufficientPods"},
		{"no pods", budget(least("0")), rs, 0, 0, "0 0 0 0", "InsufficientPods"},
		{"pods of nobody count by number", budget(least("1")), nil, 2, 0, "2 1 2 1", "SufficientPods"},
		{"a workload whose scale is not known", budget(most("1")), stranger, 2, 0, "0 0 0 0", "SyncFailed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rehearsal.New(t, start, Controller())
			w.Put(d)
			w.Put(rs)
			for i := range c.ready {
				w.Put(pod(i, c.owner, corev1.ConditionTrue))
			}
			for i := range c.not {
				w.Put(pod(100+i, c.owner, corev1.ConditionFalse))
			}
			w.Put(c.budget)
			w.Settle()
			b, _ := client.Find[*policyv1.PodDisruptionBudget](w.View, "x", "b")
			s := b.Status
			if got := fmt.Sprint(s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsAllowed); got != c.want || s.Conditions[0].Reason != c.reason || s.ObservedGeneration != 1 {
				t.Errorf("%s %s, want %s %s", got, s.Conditions[0].Reason, c.want, c.reason)
			}
		})
	}
}

func TestAnEvictedPodCountsAgainWhenItIsNotDeleted(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	for i := range 3 {
		w.Put(pod(i, nil, corev1.ConditionTrue))
	}
	w.Put(budget(least("1")))
	w.Settle()
	b, _ := client.Find[*policyv1.PodDisruptionBudget](w.View, "x", "b")
	b = b.DeepCopy()
	b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.NewTime(start)}
	w.Put(b)
	allowed := func() int32 {
		b, _ := client.Find[*policyv1.PodDisruptionBudget](w.View, "x", "b")
		return b.Status.DisruptionsAllowed
	}
	w.Advance(119 * time.Second)
	if allowed() != 1 {
		t.Errorf("while it may go, %d may be disrupted", allowed())
	}
	w.Advance(time.Second)
	if allowed() != 2 {
		t.Errorf("when it stays, %d may be disrupted", allowed())
	}
}

func TestATargetThatWasSparedIsToldSo(t *testing.T) {
	w := rehearsal.New(t, start, Targets())
	p := pod(0, nil, corev1.ConditionTrue)
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start)})
	w.Put(p)
	status := func() corev1.ConditionStatus {
		p, _ := client.Find[*corev1.Pod](w.View, "x", "p0")
		return workload.Condition(p, corev1.DisruptionTarget).Status
	}
	w.Advance(119 * time.Second)
	if status() != corev1.ConditionTrue {
		t.Error("too early")
	}
	w.Advance(time.Second)
	if status() != corev1.ConditionFalse {
		t.Error("it stays a target")
	}
}
