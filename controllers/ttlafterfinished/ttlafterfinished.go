// Package ttlafterfinished deletes jobs some time after they have finished, as
// they ask by spec.ttlSecondsAfterFinished.
package ttlafterfinished

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "ttl-after-finished-controller",
		Reads:  []*api.Resource{api.For[*batchv1.Job]()},
		Writes: []string{"jobs"},
		Decide: Decide,
	}
}

// Decide deletes the job when its time has come.
func Decide(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	job, ok := client.Find[*batchv1.Job](v, key.Namespace, key.Name)
	if !ok || job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return loop.Plan{}, nil
	}
	at, ok := finished(job)
	if !ok {
		return loop.Plan{}, nil
	}
	if end := at.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second); now.Before(end) {
		return loop.Plan{WakeAt: end}, nil
	}
	// The version too: the time may have been extended meanwhile.
	uid, version, foreground := job.UID, job.ResourceVersion, metav1.DeletePropagationForeground
	return loop.Plan{Writes: []loop.Write{loop.DeleteWith(job, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
	})}}, nil
}

// finished is when the job completed or failed.
func finished(job *batchv1.Job) (time.Time, bool) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, !c.LastTransitionTime.IsZero()
		}
	}
	return time.Time{}, false
}
