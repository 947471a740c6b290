package controllers_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/node/runtime/simulated"
	"skiff/skifftest"
)

// jobOf runs pods that end after a moment with a code.
func jobOf(name, code string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{simulated.ExitAfter: "10ms", simulated.ExitCode: code}},
			Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "sum:1"}}},
		},
	}}
}

func TestJobs(t *testing.T) {
	s := tell(t, skifftest.Config{Nodes: 3})
	began := time.Now()
	mode := batchv1.IndexedCompletion
	sum := jobOf("sum", "0")
	sum.Spec.Completions, sum.Spec.Parallelism, sum.Spec.CompletionMode = new(int32(6)), new(int32(3)), &mode
	s.ok(s.BatchV1().Jobs("default").Create(s.ctx, sum, metav1.CreateOptions{}))
	done := until(s, "default", "sum", "complete", func(j *batchv1.Job) bool { return j != nil && j.Status.CompletionTime != nil })
	if done.Status.Succeeded != 6 || done.Status.CompletedIndexes != "0-5" {
		t.Errorf("status %+v", done.Status)
	}
	t.Logf("six indexes, three at once: %s", time.Since(began))

	bad := jobOf("bad", "3")
	bad.Spec.BackoffLimit = new(int32(0))
	s.ok(s.BatchV1().Jobs("default").Create(s.ctx, bad, metav1.CreateOptions{}))
	failed := until(s, "default", "bad", "failed", func(j *batchv1.Job) bool {
		return j != nil && len(j.Status.Conditions) > 0 && j.Status.Conditions[len(j.Status.Conditions)-1].Type == batchv1.JobFailed
	})
	if failed.Status.Failed != 1 {
		t.Errorf("status %+v", failed.Status)
	}
	pods, err := s.CoreV1().Pods("default").List(s.ctx, metav1.ListOptions{LabelSelector: "job-name=bad"})
	s.ok(pods, err)
	if len(pods.Items) != 1 || len(pods.Items[0].Finalizers) != 0 {
		t.Errorf("pods of the failed job: %+v", pods.Items)
	}
}
