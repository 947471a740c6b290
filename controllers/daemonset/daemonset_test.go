package daemonset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/client"
	"skiff/controllers/rehearsal"
	"skiff/controllers/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type stage struct {
	*rehearsal.World
	t *testing.T
}

// play is a world of nodes n1 … n4 and a DaemonSet of the image v1.
func play(t *testing.T, change func(*appsv1.DaemonSetSpec)) *stage {
	s := &stage{rehearsal.New(t, start, Controller()), t}
	for i := range 4 {
		s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i+1), Labels: map[string]string{"odd": fmt.Sprint(i%2 == 0)}}})
	}
	labels := map[string]string{"app": "agent"}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, RevisionHistoryLimit: new(int32(1)),
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
			MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0)),
		}},
	}}
	if change != nil {
		change(&ds.Spec)
	}
	s.Put(ds)
	s.Settle()
	return s
}

func (s *stage) set() *appsv1.DaemonSet {
	ds, _ := client.Find[*appsv1.DaemonSet](s.View, "a", "agent")
	return ds
}

func (s *stage) change(f func(*appsv1.DaemonSetSpec)) {
	ds := s.set().DeepCopy()
	f(&ds.Spec)
	s.Put(ds)
	s.Settle()
}

func image(name string) func(*appsv1.DaemonSetSpec) {
	return func(ds *appsv1.DaemonSetSpec) { ds.Template.Spec.Containers[0].Image = name }
}

// where lists "node image", with a mark where the pod is not ready.
func (s *stage) where() (out []string) {
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		line := nodeOf(pod) + " " + pod.Spec.Containers[0].Image
		if _, ready := workload.ReadySince(pod); !ready {
			line += "…"
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func (s *stage) expect(want ...string) {
	s.t.Helper()
	if got := s.where(); !slices.Equal(got, want) {
		s.t.Errorf("pods are %q, want %q", got, want)
	}
}

// start lets up to n pods be assigned and become ready.
func (s *stage) ready(n int) {
	for _, pod := range slices.Collect(client.All[*corev1.Pod](s.View, "a")) {
		if _, ready := workload.ReadySince(pod); ready || n == 0 {
			continue
		}
		n--
		next := pod.DeepCopy()
		next.Spec.NodeName, next.Status.Phase = nodeOf(pod), corev1.PodRunning
		next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.Now)}}
		s.Put(next)
	}
	s.Settle()
}

func (s *stage) fail(node string) {
	for _, pod := range slices.Collect(client.All[*corev1.Pod](s.View, "a")) {
		if nodeOf(pod) == node {
			next := pod.DeepCopy()
			next.Status.Phase = corev1.PodFailed
			s.Put(next)
		}
	}
	s.Settle()
}

func TestOnePodOnEachFittingNode(t *testing.T) {
	s := play(t, func(ds *appsv1.DaemonSetSpec) { ds.Template.Spec.NodeSelector = map[string]string{"odd": "true"} })
	s.expect("n1 v1…", "n3 v1…")
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == "" || len(pod.Spec.Tolerations) != 6 {
			t.Errorf("pod %v %v", pod.Labels, pod.Spec.Tolerations)
		}
	}
	s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n5", Labels: map[string]string{"odd": "true"}}})
	s.Settle()
	s.ready(9)
	st := s.set().Status
	if got := fmt.Sprint(st.DesiredNumberScheduled, st.CurrentNumberScheduled, st.NumberReady, st.NumberAvailable, st.UpdatedNumberScheduled, st.NumberUnavailable, st.NumberMisscheduled, st.ObservedGeneration); got != "3 3 3 3 3 0 0 1" {
		t.Errorf("status %s", got)
	}
	s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}})
	s.Settle()
	s.expect("n1 v1", "n5 v1")
}

func TestTaintsKeepPodsAway(t *testing.T) {
	s := play(t, nil)
	s.ready(9)
	taint := func(name, key string, effect corev1.TaintEffect) {
		s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key, Effect: effect}}}})
	}
	taint("n1", "mine", corev1.TaintEffectNoSchedule)                  // stays, though it would not come
	taint("n2", "mine", corev1.TaintEffectNoExecute)                   // goes
	taint("n3", corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute) // daemons tolerate that
	s.Settle()
	s.expect("n1 v1", "n3 v1", "n4 v1")
	if st := s.set().Status; st.DesiredNumberScheduled != 2 || st.NumberMisscheduled != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestARolloutKeepsItsLimit(t *testing.T) {
	s := play(t, nil)
	s.ready(9)
	s.change(image("v2"))
	s.expect("n1 v2…", "n2 v1", "n3 v1", "n4 v1")
	for range 4 {
		s.ready(1)
	}
	s.expect("n1 v2", "n2 v2", "n3 v2", "n4 v2")
	s.change(image("v3"))
	for range 4 {
		s.ready(1)
	}
	s.change(image("v2")) // back: its revision is the newest again
	var revisions []string
	for rev := range client.All[*appsv1.ControllerRevision](s.View, "a") {
		template, err := workload.TemplateOf(rev)
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, fmt.Sprint(rev.Revision, " ", template.Spec.Containers[0].Image))
	}
	slices.Sort(revisions)
	if !slices.Equal(revisions, []string{"3 v3", "4 v2"}) {
		t.Errorf("revisions %q; one of the past and the present one should be left", revisions)
	}
}

func TestARolloutSurges(t *testing.T) {
	s := play(t, func(ds *appsv1.DaemonSetSpec) {
		ds.UpdateStrategy.RollingUpdate.MaxSurge, ds.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(2)), new(intstr.FromInt32(0))
	})
	s.ready(9)
	s.change(image("v2"))
	s.expect("n1 v1", "n1 v2…", "n2 v1", "n2 v2…", "n3 v1", "n4 v1")
	s.ready(1)
	s.expect("n1 v2", "n2 v1", "n2 v2…", "n3 v1", "n3 v2…", "n4 v1")
	for range 3 {
		s.ready(1)
	}
	s.expect("n1 v2", "n2 v2", "n3 v2", "n4 v2")
}

func TestOnDeleteWaits(t *testing.T) {
	s := play(t, func(ds *appsv1.DaemonSetSpec) { ds.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType })
	s.ready(9)
	s.change(image("v2"))
	s.expect("n1 v1", "n2 v1", "n3 v1", "n4 v1")
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		s.Remove(pod)
		break
	}
	s.Settle()
	s.expect("n1 v2…", "n2 v1", "n3 v1", "n4 v1")
}

func TestFailedPodsAreReplacedEverMoreSlowly(t *testing.T) {
	s := play(t, nil)
	failed := func() bool {
		for pod := range client.All[*corev1.Pod](s.View, "a") {
			if pod.Status.Phase == corev1.PodFailed {
				return true
			}
		}
		return false
	}
	s.fail("n2")
	if failed() {
		t.Fatal("the first one was not replaced at once")
	}
	for _, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		s.fail("n2")
		s.Advance(wait - time.Millisecond)
		if !failed() {
			t.Fatalf("replaced before %s", wait)
		}
		s.Advance(time.Millisecond)
		if failed() {
			t.Fatalf("not replaced after %s", wait)
		}
	}
}

func TestMinReadySeconds(t *testing.T) {
	s := play(t, func(ds *appsv1.DaemonSetSpec) { ds.MinReadySeconds = 10 })
	s.ready(9)
	if n := s.set().Status.NumberAvailable; n != 0 {
		t.Errorf("%d are available at once", n)
	}
	s.Advance(10 * time.Second)
	if n := s.set().Status.NumberAvailable; n != 4 {
		t.Errorf("%d are available after ten seconds, want 4", n)
	}
}

func TestATakenNameIsACollision(t *testing.T) {
	s := play(t, nil)
	var name string
	for rev := range client.All[*appsv1.ControllerRevision](s.View, "a") {
		name = rev.Name
		s.Remove(s.set())
		s.Remove(rev)
		break
	}
	s.Put(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}) // a stranger's
	ds := play(t, nil).set().DeepCopy()
	ds.UID, ds.Status = "", appsv1.DaemonSetStatus{}
	s.Put(ds)
	for range 3 { // refused plans are decided again by the loop
		s.Settle()
		s.Put(s.set())
	}
	s.Settle()
	if n := s.set().Status.CollisionCount; n == nil || *n != 1 {
		t.Errorf("collisions %v, want 1", n)
	}
}
