package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
)

// A job may be managed by any controller (spec.managedBy), so what its status may
// say, and how it may change, is checked. Most rules count only where the fields
// that they are about have changed: an update that has nothing to do with a
// status that is already wrong must pass.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("status")
	s := &j.Status
	errs := check.NotNegative(path, check.N("active", s.Active), check.N("succeeded", s.Succeeded), check.N("failed", s.Failed),
		check.P("ready", s.Ready), check.P("terminating", s.Terminating))
	errs = append(errs, validateUncounted(s.UncountedTerminatedPods, path.Child("uncountedTerminatedPods"))...)
	errs = append(errs, validateConditions(j, old, path.Child("conditions"))...)
	errs = append(errs, validateTimes(j, old, path)...)
	errs = append(errs, validatePodCounts(j, old, path)...)
	return append(errs, validateIndexLists(j, old, path)...)
}

func validateUncounted(u *batchv1.UncountedTerminatedPods, path *field.Path) (errs field.ErrorList) {
	if u == nil {
		return nil
	}
	seen := map[types.UID]bool{}
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", u.Succeeded}, {"failed", u.Failed}} {
		for i, uid := range list.uids {
			at := path.Child(list.name).Index(i)
			if uid == "" {
				errs = append(errs, field.Invalid(at, uid, "must not be empty"))
			} else if seen[uid] {
				errs = append(errs, field.Duplicate(at, uid))
			}
			seen[uid] = true
		}
	}
	return errs
}

func finished(j *batchv1.Job) bool {
	return is(j.Status.Conditions, batchv1.JobComplete) || is(j.Status.Conditions, batchv1.JobFailed)
}

func validateConditions(j, old *batchv1.Job, path *field.Path) (errs field.ErrorList) {
	now := func(t batchv1.JobConditionType) bool { return is(j.Status.Conditions, t) }
	was := func(t batchv1.JobConditionType) bool { return is(old.Status.Conditions, t) }
	changed := func(t batchv1.JobConditionType) bool { return now(t) != was(t) }
	const complete, failed, target, met = batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet
	failedIndexes := changedPtr(j.Status.FailedIndexes, old.Status.FailedIndexes)
	for _, rule := range []struct {
		broken  bool
		message string
	}{
		{(changed(complete) || changed(failed)) && now(complete) && now(failed), "cannot set Complete=True and Failed=true conditions"},
		{(changed(complete) || changed(target)) && now(complete) && now(target), "cannot set Complete=True and FailureTarget=true conditions"},
		{(changed(failed) || failedIndexes) && now(failed) && !now(target), "cannot set Failed=True condition without the FailureTarget=true condition"},
		{(changed(complete) || changed(met)) && now(complete) && !now(met), "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"},
		{now(met) && now(failed), "cannot set SuccessCriteriaMet=True and Failed=true conditions"},
		{now(met) && now(target), "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"},
		{j.Spec.SuccessPolicy != nil && !now(met) && now(complete), "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"},
		{was(failed) && !now(failed), "cannot disable the terminal Failed=True condition"},
		{was(complete) && !now(complete), "cannot disable the terminal Complete=True condition"},
		{was(target) && !now(target), "cannot disable the terminal FailureTarget=True condition"},
		{was(met) && !now(met), "cannot disable the SuccessCriteriaMet=True condition"},
		{was(complete) && !was(met) && now(met), "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"},
	} {
		if rule.broken {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, rule.message))
		}
	}
	return errs
}

func validateTimes(j, old *batchv1.Job, path *field.Path) (errs field.ErrorList) {
	start, end := j.Status.StartTime, j.Status.CompletionTime
	oldStart, oldEnd := old.Status.StartTime, old.Status.CompletionTime
	startChanged, endChanged := !sameTime(start, oldStart), !sameTime(end, oldEnd)
	complete := is(j.Status.Conditions, batchv1.JobComplete)
	completeChanged := complete != is(old.Status.Conditions, batchv1.JobComplete)

	startAt, endAt := path.Child("startTime"), path.Child("completionTime")
	if (completeChanged || endChanged) && end != nil && !complete {
		errs = append(errs, field.Invalid(endAt, end, "cannot set completionTime when there is no Complete=True condition"))
	}
	if (completeChanged || endChanged) && end == nil && complete {
		errs = append(errs, field.Required(endAt, "completionTime is required for Complete jobs"))
	}
	if (startChanged || endChanged) && start != nil && end != nil && end.Before(start) {
		errs = append(errs, field.Invalid(endAt, end, "must be equal to or after `startTime`"))
	}
	if end != nil && oldEnd != nil && endChanged {
		errs = append(errs, field.Invalid(endAt, end, "field is immutable"))
	}
	emptySuspended := column.Or(j.Spec.Suspend, false) && j.Spec.Completions != nil && *j.Spec.Completions == 0
	if (finished(j) != finished(old) || startChanged) && !emptySuspended && start == nil && finished(j) {
		errs = append(errs, field.Required(startAt, "startTime is required for finished job"))
	}
	// A controller may see that a job was resumed only after the user did it.
	resuming := is(old.Status.Conditions, batchv1.JobSuspended) && has(j.Status.Conditions, batchv1.JobSuspended, corev1.ConditionFalse)
	if startChanged && oldStart != nil && !resuming && !column.Or(j.Spec.Suspend, false) {
		errs = append(errs, field.Invalid(startAt, start, "field is immutable for unsuspended job once set"))
	}
	return errs
}

func validatePodCounts(j, old *batchv1.Job, path *field.Path) (errs field.ErrorList) {
	s, was := &j.Status, &old.Status
	finishedChanged, activeChanged := finished(j) != finished(old), s.Active != was.Active
	if (finishedChanged || activeChanged) && s.Active > 0 && finished(j) {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && finished(j) && len(u.Failed)+len(u.Succeeded) > 0 &&
		(finishedChanged || !equality.Semantic.DeepEqual(u, was.UncountedTerminatedPods)) {
		errs = append(errs, field.Invalid(path.Child("uncountedTerminatedPods"), u, "must be empty for finished job"))
	}
	if (finishedChanged || changedPtr(s.Terminating, was.Terminating)) && column.Or(s.Terminating, 0) > 0 && finished(j) {
		errs = append(errs, field.Invalid(path.Child("terminating"), s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if (activeChanged || changedPtr(s.Ready, was.Ready)) && s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if s.Failed < was.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	// An Indexed job whose completions equal its parallelism can be scaled down.
	elastic := indexed(&j.Spec) && !changedPtr(j.Spec.Completions, j.Spec.Parallelism)
	if s.Succeeded < was.Succeeded && !elastic {
		errs = append(errs, field.Invalid(path.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	return errs
}

func validateIndexLists(j, old *batchv1.Job, path *field.Path) (errs field.ErrorList) {
	s := &j.Status
	completedAt, failedAt := path.Child("completedIndexes"), path.Child("failedIndexes")
	completedChanged, failedChanged := s.CompletedIndexes != old.Status.CompletedIndexes, changedPtr(s.FailedIndexes, old.Status.FailedIndexes)
	if n := j.Spec.Completions; n != nil {
		if _, err := parseIndexes(s.CompletedIndexes, *n); completedChanged && err != nil {
			errs = append(errs, field.Invalid(completedAt, s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %s", err)))
		}
		failed := column.Or(s.FailedIndexes, "")
		if _, err := parseIndexes(failed, *n); failedChanged && j.Spec.BackoffLimitPerIndex != nil && err != nil {
			errs = append(errs, field.Invalid(failedAt, s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %s", err)))
		}
		if index, ok := overlap(s.CompletedIndexes, failed, *n); ok && (completedChanged || failedChanged) {
			errs = append(errs, field.Invalid(failedAt, failed, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index)))
		}
	}
	if completedChanged && s.CompletedIndexes != "" && !indexed(&j.Spec) {
		errs = append(errs, field.Invalid(completedAt, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if failedChanged && s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	return errs
}

func changedPtr[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a != b
	}
	return *a != *b
}

func sameTime(a, b *metav1.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}
