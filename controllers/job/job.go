// Package job runs pods until enough of them have succeeded. It owns the pods of
// a Job, and its status: each finished pod is noted in the status while the
// pod's tracking finalizer holds it, and counted once the finalizer is gone, so
// that no pod is missed or counted twice, whoever crashes or deletes when
// (KEP-2307). Finished Jobs are removed by ttlafterfinished.
package job

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// trackedByJob finds pods that a tracking finalizer holds, by the namespace and
// name of their Job; the name of those without a controller is empty.
const trackedByJob = "tracked pods by job"

// Controller is the row of the table.
func Controller() loop.Controller {
	ofJob := workload.KeysOf[*batchv1.Job](func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector })
	return loop.Controller{
		Name:   "job-controller",
		Reads:  []*api.Resource{api.For[*batchv1.Job](), api.For[*corev1.Pod]()},
		Writes: []string{"pods", "jobs/status"},
		Indexes: []client.Index{workload.PodsByOwner(), workload.PodsOrphaned(),
			{Name: trackedByJob, Resource: api.For[*corev1.Pod](), Keys: trackedUnder}},
		Keys: func(v *client.View, c client.Change) []loop.Key {
			keys := ofJob(v, c)
			if pod, ok := c.New.(*corev1.Pod); ok && tracked(pod) && loop.ControllerOf(pod) == nil {
				keys = append(keys, loop.Key{Namespace: pod.Namespace}) // its finalizer holds it for nobody
			}
			return keys
		},
		Decide: Decide,
	}
}

func trackedUnder(obj api.Object) []string {
	if !tracked(obj) {
		return nil
	}
	ref := loop.ControllerOf(obj)
	switch {
	case ref == nil:
		return []string{loop.Key{Namespace: obj.GetNamespace()}.String()}
	case ref.Kind == "Job" && ref.APIVersion == batchv1.SchemeGroupVersion.String():
		return []string{loop.Key{Namespace: obj.GetNamespace(), Name: ref.Name}.String()}
	}
	return nil
}

func tracked(pod api.Object) bool {
	return slices.Contains(pod.GetFinalizers(), batchv1.JobTrackingFinalizer)
}

// decision is what one decision about a Job knows, and what it has decided so far.
type decision struct {
	job  *batchv1.Job // as it is
	next *batchv1.Job // with its new status
	now  time.Time
	plan loop.Plan

	pods        []*corev1.Pod // all that are the Job's
	active      []*corev1.Pod
	terminating int32

	// What has been counted, and what will be: pods of which the status does not
	// say so yet. Of an Indexed Job, succeeded is the number of done indexes.
	succeeded, failed int32
	done              indexes               // Indexed: with a pod that succeeded
	lost              indexes               // backoffLimitPerIndex: given up
	held              map[int]*corev1.Pod   // backoffLimitPerIndex: kept until they are replaced, to hand on their count
	verdict           *batchv1.JobCondition // SuccessCriteriaMet or FailureTarget, once one is reached

	record record
}

// Decide starts and stops the Job's pods and keeps its status.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	job, ok := client.Find[*batchv1.Job](v, key.Namespace, key.Name)
	if ok && job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName {
		return loop.Plan{}, nil
	}
	strays := letStraysGo(v, key, job)
	if !ok || finished(job) {
		return loop.Plan{Writes: strays}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || selector.Empty() {
		return loop.Plan{Writes: strays}, nil // validation does not let it in
	}
	d := &decision{job: job, next: job.DeepCopy(), now: now}
	d.plan.Writes = strays
	if !d.claim(v, selector) {
		return d.plan, m // decided again when the adopted pods are seen
	}
	old, _ := m.(record)
	d.record = old.with(d.pods)
	d.count()
	d.judge()
	if d.verdict != nil {
		d.deletePods(d.active)
	} else if job.DeletionTimestamp == nil {
		d.manage()
		d.judgeCompletions()
	}
	d.account()
	d.writeStatus()
	return d.plan, d.record
}

func finished(j *batchv1.Job) bool {
	return isTrue(j, batchv1.JobComplete) || isTrue(j, batchv1.JobFailed)
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// letStraysGo takes the finalizer from pods that nobody counts any more: those
// of no Job, of one that is gone or of one that is finished.
func letStraysGo(v *client.View, key loop.Key, job *batchv1.Job) (writes []loop.Write) {
	for pod := range client.By[*corev1.Pod](v, trackedByJob, key.String()) {
		if job != nil && !finished(job) && loop.ControlledBy(pod, job.UID) {
			continue
		}
		writes = append(writes, letGo(pod))
	}
	return writes
}

// letGo takes the tracking finalizer from a pod.
func letGo(pod *corev1.Pod) loop.Write {
	return patch(pod, types.StrategicMergePatchType, map[string]any{
		"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
	})
}

func patch(pod *corev1.Pod, kind types.PatchType, metadata map[string]any) loop.Write {
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(fmt.Sprintf("metadata always have a JSON form: %v", err))
	}
	w := loop.Patch(pod, client.Patch{Type: kind, Data: data})
	w.Optional = true // it changed, or it is gone: the next decision sees which
	return w
}

// claim finds the Job's pods; false: some must be adopted or released first.
// An adopted pod gets the finalizer with its owner, so that it is counted.
func (d *decision) claim(v *client.View, selector labels.Selector) bool {
	complete := true
	going := d.job.DeletionTimestamp != nil
	for pod := range workload.PodsOf(v, d.job) {
		if selector.Matches(labels.Set(pod.Labels)) {
			d.pods = append(d.pods, pod)
		} else if !going && pod.DeletionTimestamp == nil {
			refs := slices.DeleteFunc(slices.Clone(pod.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == d.job.UID })
			finalizers := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == batchv1.JobTrackingFinalizer })
			d.plan.Writes = append(d.plan.Writes, repossess(pod, refs, finalizers))
			complete = false
		}
	}
	if going {
		return true
	}
	for pod := range client.By[*corev1.Pod](v, workload.PodsOrphaned().Name, d.job.Namespace) {
		if pod.DeletionTimestamp != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		refs := append(slices.Clone(pod.OwnerReferences), *metav1.NewControllerRef(d.job, api.Of(d.job).GVK()))
		d.plan.Writes = append(d.plan.Writes, repossess(pod, refs, withFinalizer(pod.Finalizers)))
		complete = false
	}
	return complete
}

// repossess replaces owners and finalizers of exactly this pod in exactly this state.
func repossess(pod *corev1.Pod, refs []metav1.OwnerReference, finalizers []string) loop.Write {
	return patch(pod, types.MergePatchType, map[string]any{
		"uid": pod.UID, "resourceVersion": pod.ResourceVersion, "ownerReferences": refs, "finalizers": finalizers,
	})
}

func withFinalizer(have []string) []string {
	if slices.Contains(have, batchv1.JobTrackingFinalizer) {
		return have
	}
	return append(slices.Clone(have), batchv1.JobTrackingFinalizer)
}

// wake asks to decide again at that time, if not earlier.
func (d *decision) wake(at time.Time) {
	if d.plan.WakeAt.IsZero() || at.Before(d.plan.WakeAt) {
		d.plan.WakeAt = at
	}
}

// writeStatus plans the status, if it changes: before all other writes, since no
// finalizer may go before the status knows of its pod.
func (d *decision) writeStatus() {
	if apiequality.Semantic.DeepEqual(d.job.Status, d.next.Status) {
		return
	}
	for i := range d.plan.Writes {
		d.plan.Writes[i].Stage++
	}
	d.plan.Writes = append([]loop.Write{loop.UpdateStatus(d.next)}, d.plan.Writes...)
	if e := d.tells(); e.Reason != "" {
		d.plan.Writes[0].Done = func(api.Object) loop.Event { return e }
	}
}

// tells makes the event of a new condition. The status changes by one of these at a time.
func (d *decision) tells() loop.Event {
	changed := func(kind batchv1.JobConditionType) *batchv1.JobCondition {
		is, was := condition(d.next, kind), condition(d.job, kind)
		if is == nil || was != nil && was.Status == is.Status {
			return nil
		}
		return is
	}
	if changed(batchv1.JobComplete) != nil {
		if n := d.job.Spec.Completions; n != nil && d.next.Status.Succeeded > *n {
			d.plan.Events = append(d.plan.Events, loop.Warning(d.job, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"))
		}
		return loop.Normal(d.job, "Completed", "Job completed")
	}
	if c := changed(batchv1.JobFailed); c != nil {
		return loop.Warning(d.job, c.Reason, c.Message)
	}
	if c := changed(batchv1.JobSuspended); c != nil && c.Status == corev1.ConditionTrue {
		return loop.Normal(d.job, "Suspended", "Job suspended")
	} else if c != nil {
		return loop.Normal(d.job, "Resumed", "Job resumed")
	}
	return loop.Event{}
}

func condition(j *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if j.Status.Conditions[i].Type == kind {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(j *batchv1.Job, kind batchv1.JobConditionType) bool {
	c := condition(j, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// state makes a condition of the present time.
func (d *decision) state(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) *batchv1.JobCondition {
	now := metav1.NewTime(d.now)
	return &batchv1.JobCondition{Type: kind, Status: status, LastProbeTime: now, LastTransitionTime: now, Reason: reason, Message: message}
}

// set puts a condition where none of its type says the same already.
func (d *decision) set(c *batchv1.JobCondition) {
	have := condition(d.next, c.Type)
	switch {
	case have == nil:
		d.next.Status.Conditions = append(d.next.Status.Conditions, *c)
	case have.Status != c.Status || have.Reason != c.Reason || have.Message != c.Message:
		*have = *c
	}
}
