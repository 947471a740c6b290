package batch

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // a cron job's zone must be found on machines that have no zone files

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// maxCronJobName leaves room for the 11 characters that a cron job's jobs add.
const maxCronJobName = 52

// CronJob is batch/v1 CronJob.
var CronJob = kind.Of(kind.Spec[*batchv1.CronJob]{
	New:     func() *batchv1.CronJob { return &batchv1.CronJob{} },
	NewList: func() runtime.Object { return &batchv1.CronJobList{} },
	Default: func(c *batchv1.CronJob) {
		if c.Spec.ConcurrencyPolicy == "" {
			c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
		}
		setDefault(&c.Spec.Suspend, false)
		setDefault(&c.Spec.SuccessfulJobsHistoryLimit, 3)
		setDefault(&c.Spec.FailedJobsHistoryLimit, 1)
		defaultJobSpec(&c.Spec.JobTemplate.Spec)
	},
	Create: func(c *batchv1.CronJob) {
		c.Status = batchv1.CronJobStatus{}
		dropJobSpec(&c.Spec.JobTemplate.Spec, nil)
	},
	Update: func(c, old *batchv1.CronJob) {
		c.Status = old.Status
		dropJobSpec(&c.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
	},
	Intent: func(c *batchv1.CronJob) any { return &c.Spec },
	Validate: func(c *batchv1.CronJob) field.ErrorList {
		errs := validateCronJob(&c.Spec, nil)
		if len(c.Name) > maxCronJobName {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
		}
		return errs
	},
	ValidateUpdate: func(c, old *batchv1.CronJob) field.ErrorList { return validateCronJob(&c.Spec, &old.Spec) },
	Subs: map[string]kind.Sub[*batchv1.CronJob]{"status": {AnyFinalizer: true,
		Update: func(c, old *batchv1.CronJob) { c.Spec = old.Spec },
	}},
	Warn: warnCronJob,
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Schedule", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]),
		column.String("Timezone", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
		column.Boolean("Suspend", batchv1.CronJobSpec{}.SwaggerDoc()["suspend"]),
		column.Integer("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
		column.String("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
		column.Age,
		column.Containers, column.Images,
		column.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(c *batchv1.CronJob) []any {
		last := "<none>"
		if t := c.Status.LastScheduleTime; t != nil {
			last = column.Since(*t)
		}
		suspend := "<unset>"
		if s := c.Spec.Suspend; s != nil {
			suspend = map[bool]string{true: "True", false: "False"}[*s]
		}
		job := &c.Spec.JobTemplate.Spec
		names, images := core.PodTemplateImagesAndNames(&job.Template.Spec)
		return []any{c.Name, c.Spec.Schedule, column.Or(c.Spec.TimeZone, "<none>"), suspend, int64(len(c.Status.Active)), last,
			column.Since(c.CreationTimestamp), names, images, metav1.FormatLabelSelector(job.Selector)}
	},
})

func validateCronJob(spec, old *batchv1.CronJobSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.NotNegative(path, check.P("startingDeadlineSeconds", spec.StartingDeadlineSeconds),
		check.P("successfulJobsHistoryLimit", spec.SuccessfulJobsHistoryLimit), check.P("failedJobsHistoryLimit", spec.FailedJobsHistoryLimit))
	errs = append(errs, validateSchedule(spec, old, path.Child("schedule"))...)
	if zone := spec.TimeZone; zone != nil && (old == nil || changedPtr(zone, old.TimeZone)) {
		errs = append(errs, validateTimeZone(*zone, path.Child("timeZone"))...)
	}
	errs = append(errs, check.SetOneOf(spec.ConcurrencyPolicy, path.Child("concurrencyPolicy"),
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)

	job, at := &spec.JobTemplate.Spec, path.Child("jobTemplate", "spec")
	var stored *corev1.PodTemplateSpec
	if old != nil {
		stored = &old.JobTemplate.Spec.Template
	}
	errs = append(errs, validateJobTemplate(job, stored, at)...)
	if job.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), job.Selector, "`selector` will be auto-generated"))
	}
	if column.Or(job.ManualSelector, false) {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), job.ManualSelector, []string{"nil", "false"}))
	}
	return errs
}

// validateSchedule checks the schedule. A zone in it is taken only where there
// was one before.
func validateSchedule(spec, old *batchv1.CronJobSpec, path *field.Path) (errs field.ErrorList) {
	if spec.Schedule == "" {
		return append(errs, field.Required(path, ""))
	}
	if err := parseSchedule(spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, spec.Schedule, err.Error()))
	}
	if !strings.Contains(spec.Schedule, "TZ") {
		return errs
	}
	if old == nil || !strings.Contains(old.Schedule, "TZ") {
		return append(errs, field.Invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	if spec.TimeZone != nil {
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// parseSchedule tells what is wrong with a schedule. The parser panics on some
// malformed zones.
func parseSchedule(s string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(s)
	return err
}

// zonePart is one part of a zone's name (https://data.iana.org/time-zones/theory.html#naming),
// and digits and + for the sake of old names.
var zonePart = regexp.MustCompile(`^[A-Za-z._0-9+][A-Za-z._0-9+-]{0,13}$`)

func validateTimeZone(zone string, path *field.Path) (errs field.ErrorList) {
	if zone == "" {
		return append(errs, field.Invalid(path, &zone, "timeZone must be nil or non-empty string"))
	}
	for _, part := range strings.Split(zone, "/") {
		if part == "." || part == ".." || !zonePart.MatchString(part) {
			return append(errs, field.Invalid(path, &zone, "unknown time zone "+zone))
		}
	}
	if strings.EqualFold(zone, "Local") {
		errs = append(errs, field.Invalid(path, &zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(path, &zone, err.Error()))
	}
	return errs
}

func warnCronJob(c, old *batchv1.CronJob) []string {
	at := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(warnName(c.Name), warnJobSpec(&c.Spec.JobTemplate.Spec, nil, at)...)
	}
	texts := warnJobSpec(&c.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec, at)
	if strings.Contains(c.Spec.Schedule, "TZ") {
		texts = append(texts, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return texts
}
