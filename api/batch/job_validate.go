package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
)

// Limits that keep the lists of indexes in a job's status short.
const (
	maxParallelism         = 100_000 // of an Indexed job
	maxFailedIndexes       = 100_000
	manyCompletions        = 100_000 // above it, with a back-off limit per index, the next two hold
	parallelismOfMany      = 10_000
	maxFailedIndexesOfMany = 10_000
)

const (
	maxFailureRules       = 20
	maxExitCodes          = 255
	maxConditionPatterns  = 20
	maxManagedBy          = 63
	maxSucceededIndexes   = 64 * 1024
	maxSuccessPolicyRules = 20
)

func validateJob(j *batchv1.Job) field.ErrorList {
	errs := validateGeneratedSelector(j)
	errs = append(errs, validateJobSpec(&j.Spec, nil, false, field.NewPath("spec"))...)
	return append(errs, validateHostnames(j)...)
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	spec, was, path := &j.Spec, &old.Spec, field.NewPath("spec")
	lax := metav1validation.LabelSelectorHasInvalidLabelValue(was.Selector)
	errs := validateJobSpec(spec, &was.Template, lax, path)
	errs = append(errs, validateCompletions(spec, was, path)...)
	errs = append(errs, validateTemplateChange(j, old, path.Child("template"))...)
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"selector", spec.Selector, was.Selector},
		{"completionMode", spec.CompletionMode, was.CompletionMode},
		{"podFailurePolicy", spec.PodFailurePolicy, was.PodFailurePolicy},
		{"backoffLimitPerIndex", spec.BackoffLimitPerIndex, was.BackoffLimitPerIndex},
		{"managedBy", spec.ManagedBy, was.ManagedBy},
		{"successPolicy", spec.SuccessPolicy, was.SuccessPolicy},
	} {
		errs = append(errs, validation.ValidateImmutableField(f.now, f.was, path.Child(f.name))...)
	}
	return append(errs, validateHostnames(j)...)
}

// validateGeneratedSelector wants the labels and the selector that Create makes,
// unless the user manages them.
func validateGeneratedSelector(j *batchv1.Job) (errs field.ErrorList) {
	if column.Or(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	want := map[string]string{
		legacyUIDLabel: string(j.UID), legacyNameLabel: j.Name,
		batchv1.ControllerUidLabel: string(j.UID), batchv1.JobNameLabel: j.Name,
	}
	labels, path := j.Spec.Template.Labels, field.NewPath("spec", "template", "metadata", "labels")
	for _, key := range []string{legacyUIDLabel, legacyNameLabel, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		got, ok := labels[key]
		switch message := fmt.Sprintf("must be '%s'", want[key]); {
		case !ok:
			errs = append(errs, field.Required(path.Key(key), message))
		case got != want[key]:
			errs = append(errs, field.Invalid(path.Key(key), labels, message))
		}
	}
	if matches, ok := check.Selects(j.Spec.Selector, want); ok && !matches {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateHostnames wants that the pod with the last index can have a host name.
func validateHostnames(j *batchv1.Job) field.ErrorList {
	n := column.Or(j.Spec.Completions, 0)
	if !indexed(&j.Spec) || n <= 0 {
		return nil
	}
	last := fmt.Sprintf("%s-%d", j.Name, n-1)
	if len(utilvalidation.IsDNS1123Label(last)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name,
		"will not able to create pod with invalid DNS label: "+last)}
}

// validateJobSpec checks a job's spec, which has a selector.
func validateJobSpec(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, lax bool, path *field.Path) field.ErrorList {
	errs := validateJobTemplate(s, old, path)
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, check.Selector(s.Selector, lax, path.Child("selector"))...)
	}
	if matches, ok := check.Selects(s.Selector, s.Template.Labels); ok && !matches {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobTemplate checks all of a spec but the selector, which a cron job's
// template has not.
func validateJobTemplate(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := check.NotNegative(path, check.P("parallelism", s.Parallelism), check.P("completions", s.Completions),
		check.P("activeDeadlineSeconds", s.ActiveDeadlineSeconds), check.P("backoffLimit", s.BackoffLimit),
		check.P("ttlSecondsAfterFinished", s.TTLSecondsAfterFinished), check.P("backoffLimitPerIndex", s.BackoffLimitPerIndex),
		check.P("maxFailedIndexes", s.MaxFailedIndexes))
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if by := s.ManagedBy; by != nil {
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(path.Child("managedBy"), *by)...)
		if len(*by) > maxManagedBy {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedBy))
		}
	}
	errs = append(errs, validateCompletionMode(s, path)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(s, path.Child("podFailurePolicy", "rules"))...)
	}
	if s.SuccessPolicy != nil {
		if !indexed(s) {
			errs = append(errs, field.Invalid(path.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode"))
		} else {
			errs = append(errs, validateSuccessPolicy(s, path.Child("successPolicy", "rules"))...)
		}
	}
	if p := s.PodReplacementPolicy; p != nil {
		allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil {
			allowed = allowed[:1]
		}
		errs = append(errs, check.OneOf(*p, path.Child("podReplacementPolicy"), allowed...)...)
	}
	errs = append(errs, core.ValidatePodTemplateUpdate(&s.Template, old, path.Child("template"))...)
	return append(errs, validateRestartPolicy(s, path.Child("template", "spec", "restartPolicy"))...)
}

func validateRestartPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	const onFailure, never = corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	switch policy := s.Template.Spec.RestartPolicy; {
	case policy == "" || policy == corev1.RestartPolicyAlways:
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", onFailure, never))}
	case policy != onFailure && policy != never:
		return field.ErrorList{field.NotSupported(path, policy, []corev1.RestartPolicy{onFailure, never})}
	case s.PodFailurePolicy != nil && policy != never:
		return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", never))}
	}
	return nil
}

func validateCompletionMode(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	if mode := s.CompletionMode; mode != nil {
		errs = check.OneOf(*mode, path.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if indexed(s) {
		return append(errs, validateIndexed(s, path)...)
	}
	if s.CompletionMode != nil && *s.CompletionMode != batchv1.NonIndexedCompletion {
		return errs
	}
	for _, c := range []struct {
		name  string
		value *int32
	}{{"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes}} {
		if c.value != nil {
			errs = append(errs, field.Invalid(path.Child(c.name), *c.value, "requires indexed completion mode"))
		}
	}
	return errs
}

func validateIndexed(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	failed, parallel := check.P("maxFailedIndexes", s.MaxFailedIndexes), check.P("parallelism", s.Parallelism)
	errs = append(errs, check.NotAbove(path, maxParallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxParallelism), parallel)...)
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	} else if s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	errs = append(errs, check.NotAbove(path, maxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", maxFailedIndexes), failed)...)
	if column.Or(s.Completions, 0) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	const message = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	errs = append(errs, check.NotAbove(path, parallelismOfMany, fmt.Sprintf(message, parallelismOfMany, manyCompletions), parallel)...)
	return append(errs, check.NotAbove(path, maxFailedIndexesOfMany, fmt.Sprintf(message, maxFailedIndexesOfMany, manyCompletions), failed)...)
}

func validateFailurePolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	rules := s.PodFailurePolicy.Rules
	if len(rules) > maxFailureRules {
		errs = append(errs, field.TooMany(path, len(rules), maxFailureRules))
	}
	names := map[string]bool{}
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			names[list[i].Name] = true
		}
	}
	for i := range rules {
		errs = append(errs, validateFailureRule(s, &rules[i], names, path.Index(i))...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, containers map[string]bool, path *field.Path) (errs field.ErrorList) {
	actions := []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	errs = requiredOneOf(r.Action, path.Child("action"), actions...)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(path.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(r.OnExitCodes, containers, path.Child("onExitCodes"))...)
	}
	errs = append(errs, validateConditionPatterns(r.OnPodConditions, path.Child("onPodConditions"))...)
	switch codes, conditions := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
	case codes && conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case !codes && !conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

// requiredOneOf is check.SetOneOf that lists the values when none is given.
func requiredOneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", allowed))}
	}
	return check.OneOf(value, path, allowed...)
}

func validateConditionPatterns(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, path *field.Path) (errs field.ErrorList) {
	if len(patterns) > maxConditionPatterns {
		errs = append(errs, field.TooMany(path, len(patterns), maxConditionPatterns))
	}
	for i, p := range patterns {
		errs = append(errs, check.QualifiedName(string(p.Type), path.Index(i).Child("type"))...)
		errs = append(errs, requiredOneOf(p.Status, path.Index(i).Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, containers map[string]bool, path *field.Path) (errs field.ErrorList) {
	errs = requiredOneOf(r.Operator, path.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if c := r.ContainerName; c != nil && !containers[*c] {
		errs = append(errs, field.Invalid(path.Child("containerName"), *c, "must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	if len(r.Values) == 0 {
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	} else if len(r.Values) > maxExitCodes {
		errs = append(errs, field.TooMany(values, len(r.Values), maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range r.Values {
		if v == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	rules := s.SuccessPolicy.Rules
	if len(rules) == 0 {
		errs = append(errs, field.Required(path, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxSuccessPolicyRules {
		errs = append(errs, field.TooMany(path, len(rules), maxSuccessPolicyRules))
	}
	for i := range rules {
		errs = append(errs, validateSuccessRule(&rules[i], column.Or(s.Completions, 0), path.Index(i))...)
	}
	return errs
}

func validateSuccessRule(r *batchv1.SuccessPolicyRule, completions int32, path *field.Path) (errs field.ErrorList) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		return append(errs, field.Required(path, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	var listed int32
	if list := r.SucceededIndexes; list != nil {
		at := path.Child("succeededIndexes")
		if len(*list) > maxSucceededIndexes {
			errs = append(errs, field.TooLong(at, "", maxSucceededIndexes))
		}
		all, err := parseIndexes(*list, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at, *list, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		} else {
			listed = all.count()
		}
	}
	if n := r.SucceededCount; n != nil {
		at := path.Child("succeededCount")
		errs = append(errs, check.NotNegative(path, check.P("succeededCount", n))...)
		if *n > completions {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if r.SucceededIndexes != nil && *n > listed {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed)))
		}
	}
	return errs
}

// validateCompletions lets only Indexed jobs change their completions, and only
// so that they stay equal to the parallelism.
func validateCompletions(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	at := path.Child("completions")
	switch {
	case !indexed(s):
		return validation.ValidateImmutableField(s.Completions, old.Completions, at)
	case s.Completions == nil, equality.Semantic.DeepEqual(s.Completions, old.Completions):
		return nil
	case *s.Completions != column.Or(s.Parallelism, 0):
		return field.ErrorList{field.Invalid(at, s.Completions, "can only be modified in tandem with "+at.Root().Child("parallelism").String())}
	}
	return nil
}

// validateTemplateChange keeps the template as it was, except that while a job is
// suspended and has no pods, where and with which resources they run may change.
func validateTemplateChange(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	now, was := &j.Spec.Template, &old.Spec.Template
	suspended := column.Or(old.Spec.Suspend, false)
	mutable := suspended && old.Status.Active == 0 &&
		(old.Status.StartTime == nil || is(old.Status.Conditions, batchv1.JobSuspended))
	if !mutable {
		return validation.ValidateImmutableField(now, was, path)
	}
	expected := was.DeepCopy()
	takeNodeAffinity(&expected.Spec, &now.Spec)
	expected.Labels, expected.Annotations = now.Labels, now.Annotations
	expected.Spec.NodeSelector, expected.Spec.Tolerations = now.Spec.NodeSelector, now.Spec.Tolerations
	expected.Spec.SchedulingGates = now.Spec.SchedulingGates
	takeResources(expected.Spec.Containers, now.Spec.Containers)
	takeResources(expected.Spec.InitContainers, now.Spec.InitContainers)
	return validation.ValidateImmutableField(now.Spec, expected.Spec, path.Child("spec"))
}

// takeNodeAffinity makes the affinity of to what it would be, had only its node
// affinity been changed to from's.
func takeNodeAffinity(to, from *corev1.PodSpec) {
	switch {
	case from.Affinity == nil && to.Affinity != nil:
		to.Affinity.NodeAffinity = nil
		if *to.Affinity == (corev1.Affinity{}) {
			to.Affinity = nil
		}
	case from.Affinity != nil && to.Affinity == nil:
		to.Affinity = &corev1.Affinity{NodeAffinity: from.Affinity.NodeAffinity}
	case from.Affinity != nil:
		to.Affinity.NodeAffinity = from.Affinity.NodeAffinity
	}
}

func takeResources(to, from []corev1.Container) {
	if len(to) != len(from) {
		return
	}
	for i := range to {
		if to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
