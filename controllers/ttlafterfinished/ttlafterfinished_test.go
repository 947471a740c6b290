package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func TestAFinishedJobGoesInTime(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := rehearsal.New(t, start, Controller())
	minute := int32(60)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "j"}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: &minute}}
	w.Put(job)
	w.Put(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "kept"}, Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start)}}}})
	there := func(name string) bool { _, ok := client.Find[*batchv1.Job](w.View, "x", name); return ok }
	w.Advance(time.Hour)
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)}}
	w.Put(job)
	w.Advance(59 * time.Second)
	if !there("j") {
		t.Fatal("too early")
	}
	w.Advance(time.Second)
	if there("j") || !there("kept") {
		t.Errorf("the job is there: %v, the one without a time: %v", there("j"), there("kept"))
	}
}
