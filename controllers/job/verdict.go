package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// judge finds out whether the Job is decided, in the order that the
// documentation of Jobs gives: what was said before, the failure policy, the
// back-off limit, the deadline, lost indexes, the success policy.
func (d *decision) judge() {
	s := &d.job.Spec
	if d.job.Status.StartTime == nil && !suspended(d.job) {
		d.next.Status.StartTime = &metav1.Time{Time: d.now}
	}
	switch {
	case isTrue(d.job, batchv1.JobSuccessCriteriaMet):
		d.verdict = condition(d.job, batchv1.JobSuccessCriteriaMet)
		return
	case isTrue(d.job, batchv1.JobFailureTarget):
		d.verdict = condition(d.job, batchv1.JobFailureTarget)
		return
	}
	if message := d.policyFailure(); message != "" {
		d.fail(batchv1.JobReasonPodFailurePolicy, message)
	} else if d.failed > *s.BackoffLimit || d.restartsExceeded() {
		d.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	} else if d.pastDeadline() {
		d.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	} else if s.BackoffLimitPerIndex != nil && s.MaxFailedIndexes != nil && d.lost.total() > int(*s.MaxFailedIndexes) {
		d.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	} else if n := d.lost.total(); n > 0 && n+d.done.total() >= int(*s.Completions) {
		d.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	} else if i := d.successRule(); i >= 0 {
		d.succeed(batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i))
	}
}

func (d *decision) fail(reason, message string) {
	d.verdict = d.state(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message)
	d.set(d.verdict)
}

func (d *decision) succeed(reason, message string) {
	d.verdict = d.state(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, reason, message)
	d.set(d.verdict)
}

// judgeCompletions finds out whether enough pods have succeeded, and notes
// otherwise whether the Job is suspended.
func (d *decision) judgeCompletions() {
	enough := d.succeeded > 0
	if n := d.job.Spec.Completions; n != nil {
		enough = d.succeeded >= *n
	}
	if enough && len(d.active) == 0 {
		d.succeed(batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
		return
	}
	have := condition(d.job, batchv1.JobSuspended)
	was := have != nil && have.Status == corev1.ConditionTrue
	switch {
	case suspended(d.job) && !was:
		d.set(d.state(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended"))
		d.next.Status.StartTime = nil
	case !suspended(d.job) && was:
		d.set(d.state(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed"))
		d.next.Status.StartTime = &metav1.Time{Time: d.now} // the deadline counts from here
	}
}

// pastDeadline tells whether activeDeadlineSeconds are over, or asks to be woken then.
func (d *decision) pastDeadline() bool {
	limit := d.job.Spec.ActiveDeadlineSeconds
	if limit == nil || suspended(d.job) {
		return false
	}
	if isTrue(d.job, batchv1.JobSuspended) {
		d.wake(d.now.Add(time.Duration(*limit) * time.Second))
		return false // it is being resumed: its time starts now
	}
	end := d.next.Status.StartTime.Add(time.Duration(*limit) * time.Second)
	if d.now.Before(end) {
		d.wake(end)
		return false
	}
	return true
}

// restartsExceeded counts restarts within pods, where they are restarted at all.
func (d *decision) restartsExceeded() bool {
	if d.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var restarts int32
	for _, pod := range d.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range pod.Status.InitContainerStatuses {
			restarts += c.RestartCount
		}
		for _, c := range pod.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
	}
	return restarts > 0 && restarts >= *d.job.Spec.BackoffLimit
}

// successRule returns the first rule of the success policy that is met, or -1.
func (d *decision) successRule() int {
	if d.job.Spec.SuccessPolicy == nil || !indexed(d.job) {
		return -1
	}
	for i, rule := range d.job.Spec.SuccessPolicy.Rules {
		have, all := d.done.total(), -1
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, int(*d.job.Spec.Completions))
			if all = wanted.total(); all == 0 {
				continue
			}
			have = wanted.common(d.done)
		}
		if have == all || rule.SucceededCount != nil && have >= int(*rule.SucceededCount) {
			return i
		}
	}
	return -1
}
