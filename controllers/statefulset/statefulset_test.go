package statefulset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
	"skiff/controllers/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type stage struct {
	*rehearsal.World
	t *testing.T
}

// play is a world with a StatefulSet of three replicas of the image v1, with a volume each.
func play(t *testing.T, change func(*appsv1.StatefulSetSpec)) *stage {
	s := &stage{rehearsal.New(t, start, Controller()), t}
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(3)), ServiceName: "dbs", RevisionHistoryLimit: new(int32(10)), PodManagementPolicy: appsv1.OrderedReadyPodManagement,
		Selector:             &metav1.LabelSelector{MatchLabels: labels},
		Template:             corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		UpdateStrategy:       appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(0))}},
	}}
	if change != nil {
		change(&set.Spec)
	}
	s.Put(set)
	s.Settle()
	return s
}

func (s *stage) set() *appsv1.StatefulSet {
	set, _ := client.Find[*appsv1.StatefulSet](s.View, "a", "db")
	return set
}

func (s *stage) change(f func(*appsv1.StatefulSetSpec)) {
	set := s.set().DeepCopy()
	f(&set.Spec)
	s.Put(set)
	s.Settle()
}

func image(name string) func(*appsv1.StatefulSetSpec) {
	return func(set *appsv1.StatefulSetSpec) { set.Template.Spec.Containers[0].Image = name }
}

func replicas(n int32) func(*appsv1.StatefulSetSpec) {
	return func(set *appsv1.StatefulSetSpec) { set.Replicas = &n }
}

// ready lets up to n pods become ready.
func (s *stage) ready(n int) {
	for _, pod := range slices.Collect(client.All[*corev1.Pod](s.View, "a")) {
		if _, ready := workload.ReadySince(pod); ready || n == 0 {
			continue
		}
		n--
		next := pod.DeepCopy()
		next.Status.Phase = corev1.PodRunning
		next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.Now)}}
		s.Put(next)
	}
	s.Settle()
}

func (s *stage) expect(want ...string) {
	s.t.Helper()
	var got []string
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		line := pod.Name + " " + pod.Spec.Containers[0].Image
		if _, ready := workload.ReadySince(pod); !ready {
			line += "…"
		}
		got = append(got, line)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("pods are %q, want %q", got, want)
	}
}

func (s *stage) claims() (out []string) {
	for claim := range client.All[*corev1.PersistentVolumeClaim](s.View, "a") {
		line := claim.Name
		for _, ref := range claim.OwnerReferences {
			line += " of " + ref.Kind
		}
		out = append(out, line)
	}
	return out
}

func TestPodsStartAndStopInOrder(t *testing.T) {
	s := play(t, nil)
	s.expect("db-0 v1…")
	s.ready(1)
	s.expect("db-0 v1", "db-1 v1…")
	s.ready(1)
	s.ready(1)
	s.expect("db-0 v1", "db-1 v1", "db-2 v1")
	pod, _ := client.Find[*corev1.Pod](s.View, "a", "db-1")
	if pod.Spec.Hostname != "db-1" || pod.Spec.Subdomain != "dbs" || pod.Labels[appsv1.PodIndexLabel] != "1" ||
		pod.Labels[appsv1.StatefulSetPodNameLabel] != "db-1" || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-db-1" {
		t.Errorf("identity: %v %v", pod.Labels, pod.Spec)
	}
	st := s.set().Status
	if got := fmt.Sprint(st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas, st.CurrentRevision == st.UpdateRevision); got != "3 3 3 3 3 true" {
		t.Errorf("status %s", got)
	}
	s.change(replicas(1))
	s.expect("db-0 v1")
	if got := s.claims(); !slices.Equal(got, []string{"data-db-0", "data-db-1", "data-db-2"}) {
		t.Errorf("claims %q", got)
	}
	if !slices.Contains(s.Events, "SuccessfulCreate Create Pod db-0 in StatefulSet db successful") ||
		!slices.Contains(s.Events, "SuccessfulCreate Create Claim data-db-0 Pod db-0 in StatefulSet db success") {
		t.Errorf("events %q", s.Events)
	}
}

func TestAPodThatIsNotReadyHoldsUpTheScalingDown(t *testing.T) {
	s := play(t, nil)
	for range 3 {
		s.ready(1)
	}
	pod, _ := client.Find[*corev1.Pod](s.View, "a", "db-0")
	broken := pod.DeepCopy()
	broken.Status.Conditions = nil
	s.Put(broken)
	s.change(replicas(1))
	s.expect("db-0 v1…", "db-1 v1", "db-2 v1")
	s.ready(1)
	s.expect("db-0 v1")
}

func TestInParallelNobodyWaits(t *testing.T) {
	s := play(t, func(set *appsv1.StatefulSetSpec) { set.PodManagementPolicy = appsv1.ParallelPodManagement })
	s.expect("db-0 v1…", "db-1 v1…", "db-2 v1…")
	s.change(replicas(0))
	s.expect()
}

func TestARolloutGoesFromTheLastToThePartition(t *testing.T) {
	s := play(t, nil)
	for range 3 {
		s.ready(1)
	}
	s.change(func(set *appsv1.StatefulSetSpec) { image("v2")(set); *set.UpdateStrategy.RollingUpdate.Partition = 1 })
	s.expect("db-0 v1", "db-1 v1", "db-2 v2…")
	s.ready(1)
	s.expect("db-0 v1", "db-1 v2…", "db-2 v2")
	s.ready(1)
	s.expect("db-0 v1", "db-1 v2", "db-2 v2")
	st := s.set().Status
	if st.CurrentReplicas != 1 || st.UpdatedReplicas != 2 || st.CurrentRevision == st.UpdateRevision {
		t.Errorf("status %+v", st)
	}
	first, _ := client.Find[*corev1.Pod](s.View, "a", "db-0")
	s.Remove(first)
	s.Settle()
	s.expect("db-0 v1…", "db-1 v2", "db-2 v2") // below the partition the old template stays
	s.ready(1)
	s.change(func(set *appsv1.StatefulSetSpec) { *set.UpdateStrategy.RollingUpdate.Partition = 0 })
	s.ready(1)
	s.expect("db-0 v2", "db-1 v2", "db-2 v2")
	if st := s.set().Status; st.CurrentRevision != st.UpdateRevision || st.CurrentReplicas != 3 {
		t.Errorf("status %+v", st)
	}
}

func TestOnDeleteWaits(t *testing.T) {
	s := play(t, func(set *appsv1.StatefulSetSpec) {
		set.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	})
	for range 3 {
		s.ready(1)
	}
	s.change(image("v2"))
	s.expect("db-0 v1", "db-1 v1", "db-2 v1")
	pod, _ := client.Find[*corev1.Pod](s.View, "a", "db-1")
	s.Remove(pod)
	s.Settle()
	s.expect("db-0 v1", "db-1 v2…", "db-2 v1")
}

func TestAFailedPodIsMadeAnew(t *testing.T) {
	s := play(t, nil)
	pod, _ := client.Find[*corev1.Pod](s.View, "a", "db-0")
	failed := pod.DeepCopy()
	failed.Status.Phase = corev1.PodFailed
	s.Put(failed)
	s.Settle()
	if now, ok := client.Find[*corev1.Pod](s.View, "a", "db-0"); !ok || now.UID == pod.UID {
		t.Error("the failed pod was not made anew")
	}
}

func TestClaimsGoAsThePolicySays(t *testing.T) {
	const del, retain = appsv1.DeletePersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	s := play(t, func(set *appsv1.StatefulSetSpec) {
		set.Replicas = new(int32(2))
		set.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: del, WhenScaled: del}
	})
	s.ready(1)
	s.ready(1)
	if got := s.claims(); !slices.Equal(got, []string{"data-db-0 of StatefulSet", "data-db-1 of StatefulSet"}) {
		t.Fatalf("claims %q", got)
	}
	s.change(replicas(1))
	if got := s.claims(); !slices.Equal(got, []string{"data-db-0 of StatefulSet", "data-db-1 of Pod"}) {
		t.Fatalf("claims %q: that of the stopped pod should go with it", got)
	}
	s.change(replicas(2))
	s.expect("db-0 v1") // until the garbage collector has taken the claim
	claim, _ := client.Find[*corev1.PersistentVolumeClaim](s.View, "a", "data-db-1")
	s.Remove(claim)
	s.Settle()
	s.expect("db-0 v1", "db-1 v1…")
	s.ready(1)
	s.change(func(set *appsv1.StatefulSetSpec) {
		set.PersistentVolumeClaimRetentionPolicy.WhenDeleted, set.PersistentVolumeClaimRetentionPolicy.WhenScaled = retain, retain
	})
	if got := s.claims(); !slices.Equal(got, []string{"data-db-0", "data-db-1"}) {
		t.Fatalf("claims %q", got)
	}
}

func TestMinReadySecondsHoldUpTheNext(t *testing.T) {
	s := play(t, func(set *appsv1.StatefulSetSpec) {
		set.MinReadySeconds, set.Ordinals = 10, &appsv1.StatefulSetOrdinals{Start: 5}
	})
	s.ready(1)
	s.expect("db-5 v1")
	s.Advance(9 * time.Second)
	s.expect("db-5 v1")
	s.Advance(time.Second)
	s.expect("db-5 v1", "db-6 v1…")
}

// maxUnavailable is for pods that serve; those that do not are no loss.
func TestInParallelARolloutFirstTakesWhatDoesNotServe(t *testing.T) {
	s := play(t, func(set *appsv1.StatefulSetSpec) { set.PodManagementPolicy = appsv1.ParallelPodManagement })
	s.ready(3)
	pod, _ := client.Find[*corev1.Pod](s.View, "a", "db-0")
	broken := pod.DeepCopy()
	broken.Status.Conditions = nil
	s.Put(broken)
	s.change(image("v2"))
	s.expect("db-0 v2…", "db-1 v1", "db-2 v1")
	s.ready(1)
	s.expect("db-0 v2", "db-1 v1", "db-2 v2…")
}
