package batch

import (
	"fmt"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// Labels that tie pods to their job, as batch/v1 names them and as they were
// named before labels of Kubernetes had a prefix.
const (
	legacyNameLabel = "job-name"
	legacyUIDLabel  = "controller-uid"
)

// Job is batch/v1 Job.
var Job = kind.Of(kind.Spec[*batchv1.Job]{
	New:     func() *batchv1.Job { return &batchv1.Job{} },
	NewList: func() runtime.Object { return &batchv1.JobList{} },
	Default: defaultJob,
	Create: func(j *batchv1.Job) {
		if !column.Or(j.Spec.ManualSelector, false) {
			generateSelector(j)
		}
		j.Status = batchv1.JobStatus{}
		dropJobSpec(&j.Spec, nil)
	},
	Update: func(j, old *batchv1.Job) {
		j.Status = old.Status
		dropJobSpec(&j.Spec, &old.Spec)
	},
	Intent:         func(j *batchv1.Job) any { return &j.Spec },
	Validate:       validateJob,
	ValidateUpdate: validateJobUpdate,
	Subs: map[string]kind.Sub[*batchv1.Job]{"status": {
		Update:   func(j, old *batchv1.Job) { j.Spec = old.Spec },
		Validate: validateJobStatus,
	}},
	Warn: func(j, old *batchv1.Job) []string {
		if old == nil {
			return append(warnName(j.Name), warnJobSpec(&j.Spec, nil, field.NewPath("spec"))...)
		}
		return warnJobSpec(&j.Spec, &old.Spec, field.NewPath("spec"))
	},
	Fields: func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Status", "Status of the job."),
		column.String("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
		column.String("Duration", "Time required to complete the job."),
		column.Age,
		column.Containers, column.Images,
		column.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(j *batchv1.Job) []any {
		names, images := core.PodTemplateImagesAndNames(&j.Spec.Template.Spec)
		return []any{j.Name, statusCell(j), completionsCell(j), durationCell(j), column.Since(j.CreationTimestamp),
			names, images, metav1.FormatLabelSelector(j.Spec.Selector)}
	},
})

func defaultJob(j *batchv1.Job) {
	if j.Spec.Completions == nil && j.Spec.Parallelism == nil {
		j.Spec.Completions = new(int32(1))
	}
	setDefault(&j.Spec.Parallelism, 1)
	if j.Spec.BackoffLimit == nil {
		j.Spec.BackoffLimit = new(int32(6))
		if j.Spec.BackoffLimitPerIndex != nil {
			*j.Spec.BackoffLimit = math.MaxInt32
		}
	}
	// The map is shared on purpose: a job without labels of its own shows those
	// that Create adds to its template.
	if j.Spec.Template.Labels != nil && len(j.Labels) == 0 {
		j.Labels = j.Spec.Template.Labels
	}
	setDefault(&j.Spec.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&j.Spec.Suspend, false)
	if j.Spec.PodReplacementPolicy == nil {
		j.Spec.PodReplacementPolicy = new(batchv1.TerminatingOrFailed)
		if j.Spec.PodFailurePolicy != nil {
			*j.Spec.PodReplacementPolicy = batchv1.Failed
		}
	}
	setDefault(&j.Spec.ManualSelector, false)
	defaultJobSpec(&j.Spec)
}

// defaultJobSpec fills what a job and a cron job's template have in common.
func defaultJobSpec(s *batchv1.JobSpec) {
	core.DefaultPodTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range conditions {
			if conditions[j].Status == "" {
				conditions[j].Status = corev1.ConditionTrue
			}
		}
	}
}

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

// dropJobSpec clears fields of features that v1.37 has off by default, unless the
// stored spec (nil on create) uses them.
func dropJobSpec(s, old *batchv1.JobSpec) {
	if old == nil {
		s.Scheduling = nil
		core.DropPodTemplate(&s.Template, nil)
		return
	}
	if old.Scheduling == nil {
		s.Scheduling = nil
	}
	core.DropPodTemplate(&s.Template, &old.Template)
}

// generateSelector ties the pods to this job by its UID, which the server has
// set by now. Labels that the user set stay; Validate refuses the wrong ones.
func generateSelector(j *batchv1.Job) {
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	uid := string(j.UID)
	addMissing(t.Labels, legacyNameLabel, j.Name)
	addMissing(t.Labels, batchv1.JobNameLabel, j.Name)
	addMissing(t.Labels, legacyUIDLabel, uid)
	addMissing(t.Labels, batchv1.ControllerUidLabel, uid)
	setDefault(&j.Spec.Selector, metav1.LabelSelector{})
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	addMissing(j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, uid)
}

func addMissing(m map[string]string, key, value string) {
	if _, ok := m[key]; !ok {
		m[key] = value
	}
}

// warnName warns about a name that cannot be part of a host name.
func warnName(name string) []string {
	if messages := utilvalidation.IsDNS1123Label(name); len(messages) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", messages)}
	}
	return nil
}

// warnJobSpec warns about a spec that is new or has changed.
func warnJobSpec(s, old *batchv1.JobSpec, path *field.Path) (texts []string) {
	if old != nil && equality.Semantic.DeepEqual(s, old) {
		return nil
	}
	if indexed(s) && column.Or(s.Completions, 0) > manyCompletions && column.Or(s.Parallelism, 0) > parallelismOfMany {
		texts = append(texts, path.String()+": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	var stored *corev1.PodTemplateSpec
	if old != nil {
		stored = &old.Template
	}
	return append(texts, core.WarnPodTemplate(&s.Template, stored, path.Child("template"))...)
}

// indexed tells whether each pod of the job has an index of its own.
func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// is tells whether a condition is there and true.
func is(conditions []batchv1.JobCondition, t batchv1.JobConditionType) bool {
	return has(conditions, t, corev1.ConditionTrue)
}

func has(conditions []batchv1.JobCondition, t batchv1.JobConditionType, status corev1.ConditionStatus) bool {
	for i := range conditions {
		if conditions[i].Type == t && conditions[i].Status == status {
			return true
		}
	}
	return false
}

func statusCell(j *batchv1.Job) string {
	c := j.Status.Conditions
	switch {
	case is(c, batchv1.JobComplete):
		return "Complete"
	case is(c, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if is(c, t) {
			return string(t)
		}
	}
	return "Running"
}

func completionsCell(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if n := column.Or(j.Spec.Parallelism, 0); n > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func durationCell(j *batchv1.Job) string {
	start, end := j.Status.StartTime, j.Status.CompletionTime
	switch {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(time.Since(start.Time))
	}
	return duration.HumanDuration(end.Sub(start.Time))
}
