package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/client"
	"skiff/controllers/rehearsal"
	"skiff/controllers/replicaset"
	"skiff/controllers/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// stage is a world with the two controllers, and with pods that become ready
// when the test says so.
type stage struct {
	*rehearsal.World
	t *testing.T
}

func newStage(t *testing.T) *stage {
	return &stage{rehearsal.New(t, start, Controller(), replicaset.Controller()), t}
}

func web(n int32, image string) *appsv1.Deployment {
	surge, unavailable := intstr.FromString("25%"), intstr.FromString("25%")
	deadline, history := int32(600), int32(10)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			ProgressDeadlineSeconds: &deadline,
			RevisionHistoryLimit:    &history,
		},
	}
}

// apply changes the deployment as a user would: status and metadata stay.
func (s *stage) apply(d *appsv1.Deployment) {
	if have, ok := client.Find[*appsv1.Deployment](s.View, "a", "web"); ok {
		next := have.DeepCopy()
		next.Spec = d.Spec
		d = next
	}
	s.Put(d)
}

func (s *stage) deployment() *appsv1.Deployment {
	d, ok := client.Find[*appsv1.Deployment](s.View, "a", "web")
	if !ok {
		s.t.Fatal("the deployment is gone")
	}
	return d
}

// pods counts by image: all active ones, and those that are ready.
func (s *stage) pods() (all, ready map[string]int) {
	all, ready = map[string]int{}, map[string]int{}
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		if !workload.Active(pod) {
			continue
		}
		image := pod.Spec.Containers[0].Image
		all[image]++
		if _, ok := workload.ReadySince(pod); ok {
			ready[image]++
		}
	}
	return all, ready
}

func sum(m map[string]int) (n int) {
	for _, x := range m {
		n += x
	}
	return n
}

// makeReady makes up to n pods of the image ready.
func (s *stage) makeReady(image string, n int) {
	for _, pod := range slices.Collect(client.All[*corev1.Pod](s.View, "a")) {
		if _, ok := workload.ReadySince(pod); ok || n == 0 || pod.Spec.Containers[0].Image != image {
			continue
		}
		next := pod.DeepCopy()
		next.Spec.NodeName = "n1"
		next.Status.Phase = corev1.PodRunning
		next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.Now)}}
		s.Put(next)
		n--
	}
	s.Settle()
}

func (s *stage) condition(kind appsv1.DeploymentConditionType) string {
	c := condition(&s.deployment().Status, kind)
	if c == nil {
		return "none"
	}
	return string(c.Status) + " " + c.Reason
}

// runUntilDone makes pods ready one by one until the rollout is over.
func (s *stage) runUntilDone(image string) {
	s.t.Helper()
	for range 200 {
		if all, ready := s.pods(); all[image] == sum(all) && ready[image] == int(*s.deployment().Spec.Replicas) {
			return
		}
		s.makeReady(image, 1)
	}
	all, ready := s.pods()
	s.t.Fatalf("the rollout to %s does not end: %v, ready %v", image, all, ready)
}

func TestARolloutKeepsWithinItsLimits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		n := int32(random.IntN(12) + 1)
		surge, unavailable := intstr.FromInt(random.IntN(4)), intstr.FromInt(random.IntN(4))
		t.Run(fmt.Sprintf("%d replicas, surge %s, unavailable %s", n, surge.String(), unavailable.String()), func(t *testing.T) {
			s := newStage(t)
			make := func(image string) *appsv1.Deployment {
				d := web(n, image)
				d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
				return d
			}
			s.apply(make("v1"))
			s.Settle()
			s.makeReady("v1", int(n))
			most, fewest := workload.RolloutLimits(s.deployment())
			s.After = func() {
				all, ready := s.pods()
				if sum(all) > int(n+most) || sum(ready) < int(n-fewest) {
					t.Fatalf("pods %v, ready %v: more than %d, or fewer ready than %d", all, ready, n+most, n-fewest)
				}
			}
			s.apply(make("v2"))
			s.Settle()
			s.runUntilDone("v2")
			if got := s.condition(appsv1.DeploymentProgressing); got != "True NewReplicaSetAvailable" {
				t.Errorf("Progressing is %s", got)
			}
			if d := s.deployment(); d.Status.UpdatedReplicas != n || d.Status.AvailableReplicas != n || d.Status.UnavailableReplicas != 0 || d.Annotations[revisionKey] != "2" {
				t.Errorf("status %+v, revision %s", d.Status, d.Annotations[revisionKey])
			}
		})
	}
}

func TestABadImageStopsTheRollout(t *testing.T) {
	s := newStage(t)
	s.apply(web(4, "v1"))
	s.Settle()
	s.makeReady("v1", 4)
	s.apply(web(4, "bad"))
	s.Settle()
	if _, ready := s.pods(); ready["v1"] != 3 {
		t.Errorf("%d of the old pods serve, want 3", ready["v1"])
	}
	s.Advance(599 * time.Second)
	if got := s.condition(appsv1.DeploymentProgressing); !strings.HasPrefix(got, "True") {
		t.Errorf("before the deadline Progressing is %s", got)
	}
	s.Advance(2 * time.Second)
	if got := s.condition(appsv1.DeploymentProgressing); got != "False ProgressDeadlineExceeded" {
		t.Errorf("after the deadline Progressing is %s", got)
	}
	// Undo: the old template is the current one again, with a new revision.
	s.apply(web(4, "v1"))
	s.Settle()
	s.makeReady("v1", 4)
	all, _ := s.pods()
	if all["v1"] != 4 || all["bad"] != 0 || s.deployment().Annotations[revisionKey] != "3" {
		t.Errorf("after the undo: pods %v, revision %s, want 4 of v1 at revision 3", all, s.deployment().Annotations[revisionKey])
	}
	for rs := range client.All[*appsv1.ReplicaSet](s.View, "a") {
		if *rs.Spec.Replicas == 4 && rs.Annotations[historyKey] != "1" {
			t.Errorf("history of %s is %q, want 1", rs.Name, rs.Annotations[historyKey])
		}
	}
}

func TestRecreateHasNeverTwoVersions(t *testing.T) {
	s := newStage(t)
	d := func(image string) *appsv1.Deployment {
		d := web(3, image)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		return d
	}
	s.apply(d("v1"))
	s.Settle()
	s.makeReady("v1", 3)
	s.After = func() {
		if all, _ := s.pods(); all["v1"] > 0 && all["v2"] > 0 {
			t.Fatalf("both at once: %v", all)
		}
	}
	s.apply(d("v2"))
	s.Settle()
	if all, _ := s.pods(); all["v2"] != 3 {
		t.Errorf("pods %v, want 3 of v2", all)
	}
}

func TestPauseAndResume(t *testing.T) {
	s := newStage(t)
	s.apply(web(2, "v1"))
	s.Settle()
	s.makeReady("v1", 2)
	paused := web(2, "v2")
	paused.Spec.Paused = true
	s.apply(paused)
	s.Settle()
	if all, _ := s.pods(); all["v2"] != 0 {
		t.Errorf("a paused deployment rolls: %v", all)
	}
	if got := s.condition(appsv1.DeploymentProgressing); got != "Unknown DeploymentPaused" {
		t.Errorf("Progressing is %s", got)
	}
	bigger := paused.DeepCopy()
	five := int32(5)
	bigger.Spec.Replicas = &five
	s.apply(bigger)
	s.Settle()
	if all, _ := s.pods(); all["v1"] != 5 {
		t.Errorf("a paused deployment can be scaled: %v, want 5 of v1", all)
	}
	s.makeReady("v1", 5)
	s.apply(web(5, "v2"))
	s.Settle()
	s.runUntilDone("v2")
}

func TestScalingAmidARolloutKeepsTheShares(t *testing.T) {
	s := newStage(t)
	s.apply(web(10, "v1"))
	s.Settle()
	s.makeReady("v1", 10)
	s.apply(web(10, "v2"))
	s.Settle() // surge 3, unavailable 2: 8 of v1 and 5 of v2
	if all, _ := s.pods(); all["v1"] != 8 || all["v2"] != 5 {
		t.Fatalf("pods %v, want 8 and 5", all)
	}
	s.apply(web(20, "v2"))
	for s.Step() {
		if s.toBeScaledDone() {
			break
		}
	}
	all, _ := s.pods()
	if sum(all) < 24 || all["v1"] <= 8 || all["v2"] <= 5 {
		t.Errorf("pods %v: both must have grown, to 25 in all", all)
	}
	s.Settle()
	s.runUntilDone("v2")
}

// toBeScaledDone tells whether all sets know the new scale, and have their pods.
func (s *stage) toBeScaledDone() bool {
	asked := int32(0)
	for rs := range client.All[*appsv1.ReplicaSet](s.View, "a") {
		if n, _ := desired(rs); n != 20 {
			return false
		}
		asked += *rs.Spec.Replicas
	}
	all, _ := s.pods()
	return sum(all) == int(asked)
}

func TestHistoryIsBounded(t *testing.T) {
	s := newStage(t)
	for i := range 6 {
		d := web(1, fmt.Sprint("v", i))
		two := int32(2)
		d.Spec.RevisionHistoryLimit = &two
		s.apply(d)
		s.Settle()
		s.runUntilDone(fmt.Sprint("v", i))
		s.Settle()
	}
	if n := len(slices.Collect(client.All[*appsv1.ReplicaSet](s.View, "a"))); n != 3 {
		t.Errorf("%d replica sets, want the current one and two more", n)
	}
}

func TestANameThatIsTakenIsACollision(t *testing.T) {
	s := newStage(t)
	d := web(1, "v1")
	probe := &rollout{d: d}
	taken := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-" + probe.templateHash()}}
	zero := int32(0)
	taken.Spec.Replicas = &zero
	taken.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "stranger"}}
	s.Put(taken)
	s.apply(d)
	s.Settle()
	for range 5 {
		s.Put(s.deployment().DeepCopy()) // the loop tries again after a refusal
		s.Settle()
	}
	if all, _ := s.pods(); all["v1"] != 1 || collisions(s.deployment()) != 1 {
		t.Errorf("pods %v, %d collisions; want a pod, after one", all, collisions(s.deployment()))
	}
}

func TestEventsTellOfScaling(t *testing.T) {
	s := newStage(t)
	s.apply(web(2, "v1"))
	s.Settle()
	if !slices.ContainsFunc(s.Events, func(e string) bool {
		return strings.HasPrefix(e, "ScalingReplicaSet Scaled up replica set web-") && strings.HasSuffix(e, "from 0 to 2")
	}) {
		t.Errorf("events %q", s.Events)
	}
}
