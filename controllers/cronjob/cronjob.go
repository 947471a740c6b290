// Package cronjob starts Jobs when their time has come. It owns the Jobs of a
// CronJob: makes them, replaces them, deletes the oldest finished ones; what they
// do is the job controller's matter. A Job's name is made from its time, so that
// no time is served twice. Time zones are read from the system's database.
package cronjob

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const jobsByOwner = "jobs by owner"

// Controller is the row of the table.
func Controller() loop.Controller {
	jobs := api.For[*batchv1.Job]()
	return loop.Controller{
		Name:    "cronjob-controller",
		Reads:   []*api.Resource{api.For[*batchv1.CronJob](), jobs},
		Writes:  []string{"jobs", "cronjobs/status"},
		Indexes: []client.Index{{Name: jobsByOwner, Resource: jobs, Keys: client.Owners}},
		Keys: func(_ *client.View, c client.Change) (keys []loop.Key) {
			if c.Resource != jobs {
				return []loop.Key{loop.KeyOf(c.Object())}
			}
			for _, obj := range []api.Object{c.Old, c.New} {
				if obj == nil {
					continue
				}
				if ref := loop.ControllerOf(obj); ref != nil && ref.Kind == "CronJob" {
					keys = append(keys, loop.Key{Namespace: obj.GetNamespace(), Name: ref.Name})
				}
			}
			return keys
		},
		Decide: Decide,
	}
}

// strangers is the memory: the unfinished Jobs of which users have been told that
// the CronJob did not start them.
type strangers map[types.UID]bool

// decision is what one decision about a CronJob knows, and has decided so far.
type decision struct {
	cron *batchv1.CronJob
	next *batchv1.CronJob // with its new status
	now  time.Time
	jobs []*batchv1.Job
	plan loop.Plan
}

// Decide starts the Job whose time has come, and keeps the list of those that run.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	cron, ok := client.Find[*batchv1.CronJob](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	d := &decision{cron: cron, next: cron.DeepCopy(), now: now, jobs: slices.Collect(client.By[*batchv1.Job](v, jobsByOwner, string(cron.UID)))}
	told, _ := m.(strangers)
	told = d.review(told)
	d.forgetJobs()
	if cron.DeletionTimestamp == nil {
		d.schedule()
	}
	d.writeStatus()
	if len(told) == 0 {
		return d.plan, nil
	}
	return d.plan, told
}

// review brings the status in line with the Jobs that there are.
func (d *decision) review(told strangers) strangers {
	s := &d.next.Status
	there, next := map[types.UID]bool{}, strangers{}
	for _, job := range d.jobs {
		there[job.UID] = true
		end := endOf(job)
		at := slices.IndexFunc(s.Active, func(r corev1.ObjectReference) bool { return r.UID == job.UID })
		scheduled, ours := timeOf(job)
		if ours && (s.LastScheduleTime == nil || scheduled.After(s.LastScheduleTime.Time)) {
			s.LastScheduleTime = &metav1.Time{Time: scheduled} // the status could not be written then
		}
		switch {
		case end == "" && at < 0 && ours:
			s.Active = append(s.Active, referenceTo(job))
		case end == "" && at < 0:
			next[job.UID] = true
			if !told[job.UID] {
				d.tell(loop.Warning(d.cron, "UnexpectedJob", "Saw a job that the controller did not create or forgot: "+job.Name))
			}
		case end != "" && at >= 0:
			s.Active = slices.Delete(s.Active, at, at+1)
			d.tell(loop.Normal(d.cron, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %s", job.Name, end)))
		}
		if done := job.Status.CompletionTime; end == batchv1.JobComplete && done != nil && (s.LastSuccessfulTime == nil || done.After(s.LastSuccessfulTime.Time)) {
			s.LastSuccessfulTime = done
		}
	}
	s.Active = slices.DeleteFunc(s.Active, func(r corev1.ObjectReference) bool {
		if !there[r.UID] {
			d.tell(loop.Normal(d.cron, "MissingJob", "Active job went missing: "+r.Name))
		}
		return !there[r.UID]
	})
	return next
}

func (d *decision) tell(e loop.Event) { d.plan.Events = append(d.plan.Events, e) }

// endOf returns the condition by which the Job has ended, or "".
func endOf(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// timeOf returns for which time the Job was made, if it was made here.
func timeOf(job *batchv1.Job) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return t, err == nil
}

func referenceTo(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// forgetJobs deletes the oldest finished Jobs beyond the history limits.
func (d *decision) forgetJobs() {
	for end, limit := range map[batchv1.JobConditionType]*int32{batchv1.JobComplete: d.cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: d.cron.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		ended := slices.DeleteFunc(slices.Clone(d.jobs), func(j *batchv1.Job) bool { return endOf(j) != end })
		slices.SortStableFunc(ended, func(a, b *batchv1.Job) int { return started(a).Compare(started(b)) })
		for _, job := range ended[:max(0, len(ended)-int(*limit))] {
			d.delete(job)
		}
	}
	slices.SortStableFunc(d.plan.Writes, func(a, b loop.Write) int { // whichever limit came first
		return strings.Compare(a.Object().GetName(), b.Object().GetName())
	})
}

// started returns when the Job started; one that has not comes last.
func started(job *batchv1.Job) time.Time {
	if job.Status.StartTime == nil {
		return time.Unix(1<<40, 0)
	}
	return job.Status.StartTime.Time
}

func (d *decision) delete(job *batchv1.Job) {
	if job.DeletionTimestamp != nil {
		return
	}
	w := loop.DeleteWith(job, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	w.Done = func(api.Object) loop.Event {
		return loop.Normal(d.cron, "SuccessfulDelete", "Deleted job "+job.Name)
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(d.cron, "FailedDelete", fmt.Sprintf("Deleted job: %v", err))
	}
	d.plan.Writes = append(d.plan.Writes, w)
}

// start makes the Job of a time, after those that it replaces are deleted.
func (d *decision) start(at time.Time, zone *time.Location) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: d.cron.Namespace, Name: nameAt(d.cron, at),
		Labels: maps.Clone(d.cron.Spec.JobTemplate.Labels), Annotations: maps.Clone(d.cron.Spec.JobTemplate.Annotations),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d.cron, api.Of(d.cron).GVK())},
	}}
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	d.cron.Spec.JobTemplate.Spec.DeepCopyInto(&job.Spec)
	w := loop.Create(job)
	w.Stage = 1
	w.Optional = true // one of that name serves that time
	w.Done = func(got api.Object) loop.Event {
		return loop.Normal(d.cron, "SuccessfulCreate", "Created job "+got.GetName())
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(d.cron, "FailedCreate", fmt.Sprintf("Error creating job: %v", err))
	}
	d.plan.Writes = append(d.plan.Writes, w)
	d.next.Status.LastScheduleTime = &metav1.Time{Time: at}
}

// nameAt is the name of the Job of a time, in minutes since 1970.
func nameAt(cron *batchv1.CronJob, at time.Time) string {
	return cron.Name + "-" + strconv.FormatInt(at.Unix()/60, 10)
}

// writeStatus plans the status, if it changes: after the Job is made, so that no
// time is passed over.
func (d *decision) writeStatus() {
	if apiequality.Semantic.DeepEqual(d.cron.Status, d.next.Status) {
		return
	}
	w := loop.UpdateStatus(d.next)
	w.Stage = 2
	d.plan.Writes = append(d.plan.Writes, w)
}
