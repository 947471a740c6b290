package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/rehearsal"
	"skiff/controllers/workload"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// stage is a world in which pods end when the test says so.
type stage struct {
	*rehearsal.World
	t *testing.T
}

func play(t *testing.T, change func(*batchv1.JobSpec)) *stage {
	s := &stage{rehearsal.New(t, start, Controller()), t}
	one, limit := int32(1), int32(6)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "sum"}, Spec: batchv1.JobSpec{
		Completions: &one, Parallelism: new(int32(1)), BackoffLimit: &limit,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "sum"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": "sum"}}, Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c"}},
		}},
	}}
	if change != nil {
		change(&job.Spec)
	}
	s.Put(job)
	s.Settle()
	return s
}

func (s *stage) job() *batchv1.Job {
	j, ok := client.Find[*batchv1.Job](s.View, "a", "sum")
	if !ok {
		s.t.Fatal("the job is gone")
	}
	return j
}

func (s *stage) change(f func(*batchv1.JobSpec)) {
	j := s.job().DeepCopy()
	f(&j.Spec)
	s.Put(j)
	s.Settle()
}

func (s *stage) active() (out []*corev1.Pod) {
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		if workload.Active(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// end lets a pod end with a code.
func (s *stage) end(pod *corev1.Pod, code int32) {
	next := pod.DeepCopy()
	next.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		next.Status.Phase = corev1.PodFailed
	}
	next.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(s.Now)},
	}}}
	s.Put(next)
	s.Settle()
}

// says sums up the status: counters, indexes and the conditions that are true.
func (s *stage) says() string {
	j := s.job()
	out := fmt.Sprintf("%d active, %d succeeded, %d failed", j.Status.Active, j.Status.Succeeded, j.Status.Failed)
	if j.Status.CompletedIndexes != "" {
		out += ", done " + j.Status.CompletedIndexes
	}
	if j.Status.FailedIndexes != nil {
		out += ", lost " + *j.Status.FailedIndexes
	}
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out += ", " + string(c.Type) + " " + c.Reason
		}
	}
	return out
}

func (s *stage) expect(want string) {
	s.t.Helper()
	if got := s.says(); got != want {
		s.t.Errorf("status is\n%s, want\n%s", got, want)
	}
	if u := s.job().Status.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		s.t.Errorf("uncounted pods are left: %v", u)
	}
	for pod := range client.All[*corev1.Pod](s.View, "a") {
		if tracked(pod) && (workload.Finished(pod) || finished(s.job())) && s.job().Spec.BackoffLimitPerIndex == nil {
			s.t.Errorf("the finalizer still holds %s", pod.Name)
		}
	}
}

func TestAJobRunsToCompletion(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = new(int32(5)), new(int32(2)) })
	for n := range int32(5) {
		if got, want := len(s.active()), min(2, 5-int(n)); got != want {
			t.Fatalf("%d pods are active after %d successes, want %d", got, n, want)
		}
		s.end(s.active()[0], 0)
	}
	s.expect("0 active, 5 succeeded, 0 failed, SuccessCriteriaMet CompletionsReached, Complete CompletionsReached")
	if j := s.job(); j.Status.StartTime == nil || j.Status.CompletionTime == nil {
		t.Errorf("times: %v, %v", j.Status.StartTime, j.Status.CompletionTime)
	}
	if !slices.Contains(s.Events, "Completed Job completed") {
		t.Errorf("events %q", s.Events)
	}
}

func TestAQueueEndsWhenAWorkerSucceeds(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = nil, new(int32(3)) })
	s.end(s.active()[0], 0)
	s.expect("2 active, 1 succeeded, 0 failed")
	s.end(s.active()[0], 1)
	s.end(s.active()[0], 0)
	s.expect("0 active, 2 succeeded, 1 failed, SuccessCriteriaMet CompletionsReached, Complete CompletionsReached")
}

// "… recreated by the Job controller with an exponential back-off delay (10s, 20s, 40s ...)"
func TestFailuresBackOffUntilTheLimit(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.BackoffLimit = new(int32(2)) })
	for n, wait := range []time.Duration{10 * time.Second, 20 * time.Second} {
		s.end(s.active()[0], 1)
		s.Advance(wait - time.Second)
		if len(s.active()) != 0 {
			t.Fatalf("failure %d: replaced before %s", n+1, wait)
		}
		s.Advance(time.Second)
		if len(s.active()) != 1 {
			t.Fatalf("failure %d: not replaced after %s", n+1, wait)
		}
	}
	s.end(s.active()[0], 1)
	s.expect("0 active, 0 succeeded, 3 failed, FailureTarget BackoffLimitExceeded, Failed BackoffLimitExceeded")
	if !slices.Contains(s.Events, "BackoffLimitExceeded Job has reached the specified backoff limit") {
		t.Errorf("events %q", s.Events)
	}
}

func TestASuccessEndsTheBackOff(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = new(int32(3)), new(int32(2)) })
	s.end(s.active()[0], 1)
	if len(s.active()) != 1 {
		t.Fatal("the failed pod was replaced at once")
	}
	s.Now = s.Now.Add(time.Second)
	s.end(s.active()[0], 0)
	if len(s.active()) != 2 {
		t.Errorf("%d pods are active after a success, want 2", len(s.active()))
	}
}

func TestTheBackOffSurvivesTheLossOfMemory(t *testing.T) {
	s := play(t, nil)
	s.end(s.active()[0], 1)
	s.Advance(10 * time.Second)
	s.end(s.active()[0], 1)
	plan, _ := Decide(s.View, loop.KeyOf(s.job()), s.Now, nil)
	if want := s.Now.Add(20 * time.Second); !plan.WakeAt.Equal(want) {
		t.Errorf("wakes at %s, want %s", plan.WakeAt, want)
	}
}

func TestTheDeadlineEndsAJob(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) {
		j.ActiveDeadlineSeconds, j.Parallelism, j.Completions = new(int64(60)), new(int32(2)), new(int32(2))
	})
	s.end(s.active()[0], 0)
	s.Advance(59 * time.Second)
	s.expect("1 active, 1 succeeded, 0 failed")
	s.Advance(time.Second)
	s.expect("0 active, 1 succeeded, 1 failed, FailureTarget DeadlineExceeded, Failed DeadlineExceeded")
}

func TestSuspending(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.ActiveDeadlineSeconds = new(int64(60)) })
	s.Advance(50 * time.Second)
	s.change(func(j *batchv1.JobSpec) { j.Suspend = new(true) })
	s.expect("0 active, 0 succeeded, 0 failed, Suspended JobSuspended")
	if s.job().Status.StartTime != nil {
		t.Error("a suspended job has a start time")
	}
	s.Advance(time.Hour)
	s.change(func(j *batchv1.JobSpec) { j.Suspend = new(false) })
	s.expect("1 active, 0 succeeded, 0 failed")
	s.Advance(59 * time.Second)
	s.expect("1 active, 0 succeeded, 0 failed")
	s.Advance(time.Second)
	s.expect("0 active, 0 succeeded, 1 failed, FailureTarget DeadlineExceeded, Failed DeadlineExceeded")
	if got := strings.Join(s.Events, "; "); !strings.Contains(got, "Suspended Job suspended") || !strings.Contains(got, "Resumed Job resumed") {
		t.Errorf("events %q", got)
	}
}

func onIndexes(n int32) func(*batchv1.JobSpec) {
	return func(j *batchv1.JobSpec) {
		mode := batchv1.IndexedCompletion
		j.CompletionMode, j.Completions, j.Parallelism = &mode, &n, &n
	}
}

func (s *stage) at(index string) *corev1.Pod {
	s.t.Helper()
	for _, pod := range s.active() {
		if pod.Annotations[batchv1.JobCompletionIndexAnnotation] == index {
			return pod
		}
	}
	s.t.Fatalf("no pod is active at index %s", index)
	return nil
}

func TestIndexes(t *testing.T) {
	s := play(t, onIndexes(4))
	pod := s.at("2")
	if pod.Spec.Hostname != "sum-2" || pod.Labels[batchv1.JobCompletionIndexAnnotation] != "2" || !strings.HasPrefix(pod.Name, "sum-2-") ||
		pod.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
		t.Errorf("the pod does not know its index: %v %v", pod.ObjectMeta, pod.Spec)
	}
	for _, i := range []string{"0", "2", "3"} {
		s.end(s.at(i), 0)
	}
	s.expect("1 active, 3 succeeded, 0 failed, done 0,2,3")
	s.end(s.at("1"), 1)
	s.Advance(10 * time.Second)
	s.end(s.at("1"), 0)
	s.expect("0 active, 4 succeeded, 1 failed, done 0-3, SuccessCriteriaMet CompletionsReached, Complete CompletionsReached")
}

func TestAnIndexCanBeLost(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) {
		onIndexes(2)(j)
		j.BackoffLimitPerIndex, j.BackoffLimit = new(int32(1)), new(int32(1<<31-1))
	})
	s.end(s.at("0"), 1)
	s.Advance(10 * time.Second)
	if got := failuresOf(s.at("0")); got != 1 {
		t.Errorf("the second pod says that %d failed before it, want 1", got)
	}
	s.end(s.at("0"), 1)
	s.expect("1 active, 0 succeeded, 2 failed, lost 0")
	s.end(s.at("1"), 0)
	s.expect("0 active, 1 succeeded, 2 failed, done 1, lost 0, FailureTarget FailedIndexes, Failed FailedIndexes")
}

func TestTheFailurePolicy(t *testing.T) {
	in := func(code int32) *batchv1.PodFailurePolicyOnExitCodesRequirement {
		return &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}
	}
	s := play(t, func(j *batchv1.JobSpec) {
		j.BackoffLimit = new(int32(0))
		j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: in(7)},
			{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: in(42)},
		}}
	})
	s.end(s.active()[0], 7)
	s.expect("0 active, 0 succeeded, 0 failed")
	s.Advance(10 * time.Second)
	name := s.active()[0].Name
	s.end(s.active()[0], 42)
	s.expect("0 active, 0 succeeded, 1 failed, FailureTarget PodFailurePolicy, Failed PodFailurePolicy")
	if c := condition(s.job(), batchv1.JobFailed); c.Message != "Container c for pod a/"+name+" failed with exit code 42 matching FailJob rule at index 1" {
		t.Errorf("message %q", c.Message)
	}
}

func TestTheSuccessPolicy(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) {
		onIndexes(3)(j)
		j.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: new("0,2"), SucceededCount: new(int32(1))}}}
	})
	s.end(s.at("1"), 0)
	s.expect("2 active, 1 succeeded, 0 failed, done 1")
	s.end(s.at("2"), 0)
	s.expect("0 active, 2 succeeded, 0 failed, done 1,2, SuccessCriteriaMet SuccessPolicy, Complete SuccessPolicy")
}

func TestADeletedPodCountsAsFailed(t *testing.T) {
	s := play(t, nil)
	pod := s.active()[0].DeepCopy()
	pod.DeletionTimestamp = &metav1.Time{Time: s.Now}
	s.Put(pod)
	s.Settle()
	s.Advance(10 * time.Second)
	s.expect("1 active, 0 succeeded, 1 failed")
}

func TestNobodysPodsAreLetGo(t *testing.T) {
	s := play(t, nil)
	s.Remove(s.job())
	s.Settle()
	for _, pod := range s.active() {
		if tracked(pod) {
			t.Errorf("the finalizer still holds %s", pod.Name)
		}
	}
	lone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "lone", Finalizers: []string{batchv1.JobTrackingFinalizer}}}
	s.Put(lone)
	s.Settle()
	if pod, _ := client.Find[*corev1.Pod](s.View, "a", "lone"); tracked(pod) {
		t.Error("the finalizer still holds a pod of nobody")
	}
}

func TestAdoptionBringsTheFinalizer(t *testing.T) {
	s := play(t, func(j *batchv1.JobSpec) { j.Suspend = new(true) })
	s.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "found", Labels: map[string]string{"job": "sum"}}})
	s.Settle()
	s.change(func(j *batchv1.JobSpec) { j.Suspend = new(false) })
	pod, ok := client.Find[*corev1.Pod](s.View, "a", "found")
	if ok { // it was adopted by the suspended job, and stopped
		t.Fatalf("a suspended job lets run %v", pod.ObjectMeta)
	}
	s.Remove(s.active()[0])
	s.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "found", Labels: map[string]string{"job": "sum"}}})
	s.Settle()
	if pod, _ = client.Find[*corev1.Pod](s.View, "a", "found"); !tracked(pod) || !loop.ControlledBy(pod, s.job().UID) || len(s.active()) != 1 {
		t.Errorf("not adopted: %v", pod.ObjectMeta)
	}
}

func TestIndexesAsText(t *testing.T) {
	for in, want := range map[string]string{"": "", "0": "0", "0,1,2,5": "0-2,5", "3-4": "3,4", "7,x,9-12": "7,9", "1-3,2-5": "1-5"} {
		if got := parseIndexes(in, 10).String(); got != want {
			t.Errorf("%q reads as %q, want %q", in, got, want)
		}
	}
	x := parseIndexes("1,3-5", 10)
	if got := fmt.Sprint(x.free(4, 8), x.has(4), x.has(2), x.total(), x.with(2)); got != "[0 2 6 7] true false 4 1-5" {
		t.Error(got)
	}
}
