package apps

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// DaemonSet is apps/v1 DaemonSet.
var DaemonSet = kind.Of(kind.Spec[*appsv1.DaemonSet]{
	New:     func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
	NewList: func() runtime.Object { return &appsv1.DaemonSetList{} },
	Default: defaultDaemonSet,
	Create: func(d *appsv1.DaemonSet) {
		d.Status = appsv1.DaemonSetStatus{}
		setTemplateGeneration(d, max(templateGeneration(d), 1))
		core.DropPodTemplate(&d.Spec.Template, nil)
	},
	Update: func(d, old *appsv1.DaemonSet) {
		d.Status = old.Status
		core.DropPodTemplate(&d.Spec.Template, &old.Spec.Template)
		generation := templateGeneration(old)
		if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			generation++
		}
		setTemplateGeneration(d, generation)
	},
	Intent:   func(d *appsv1.DaemonSet) any { return &d.Spec },
	Validate: func(d *appsv1.DaemonSet) field.ErrorList { return validateDaemonSet(&d.Spec, nil) },
	ValidateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
		return append(validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector")),
			validateDaemonSet(&d.Spec, &old.Spec)...)
	},
	Subs: map[string]kind.Sub[*appsv1.DaemonSet]{"status": {
		Update:   func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec },
		Validate: validateDaemonSetStatus,
	}},
	Warn: func(d, old *appsv1.DaemonSet) []string {
		if old == nil {
			return warnTemplate(&d.Spec.Template, nil)
		}
		return warnTemplate(&d.Spec.Template, &old.Spec.Template)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Desired", appsv1.DaemonSetStatus{}.SwaggerDoc()["desiredNumberScheduled"]),
		column.Integer("Current", appsv1.DaemonSetStatus{}.SwaggerDoc()["currentNumberScheduled"]),
		column.Integer("Ready", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberReady"]),
		column.Integer("Up-to-date", appsv1.DaemonSetStatus{}.SwaggerDoc()["updatedNumberScheduled"]),
		column.Integer("Available", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberAvailable"]),
		column.String("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
		column.Age,
		column.Containers, column.Images,
		column.Wide("Selector", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(d *appsv1.DaemonSet) []any {
		names, images := core.PodTemplateImagesAndNames(&d.Spec.Template.Spec)
		s := &d.Status
		return []any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
			int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
			column.Since(d.CreationTimestamp), names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
	},
})

func defaultDaemonSet(d *appsv1.DaemonSet) {
	core.DefaultPodTemplate(&d.Spec.Template)
	strategy := &d.Spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefault(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	if r := strategy.RollingUpdate; r != nil {
		setDefault(&r.MaxUnavailable, intstr.FromInt32(0))
		setDefault(&r.MaxSurge, intstr.FromInt32(0))
	}
	setDefault(&d.Spec.RevisionHistoryLimit, 10)
	if _, ok := d.Annotations[appsv1.DeprecatedTemplateGeneration]; !ok {
		setTemplateGeneration(d, 0) // it is there, and its writer's, before the first template is counted
	}
}

// templateGeneration counts the changes of the template, in an annotation that
// is all that is left of a field of older versions. Users cannot set it.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	value := strconv.FormatInt(n, 10)
	if d.Annotations[appsv1.DeprecatedTemplateGeneration] == value {
		return
	}
	annotations := maps.Clone(d.Annotations) // it may be shared with the stored object
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[appsv1.DeprecatedTemplateGeneration] = value
	d.Annotations = annotations
}

func validateDaemonSet(spec, old *appsv1.DaemonSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	var stored *corev1.PodTemplateSpec
	lax := false
	if old != nil {
		stored = &old.Template
		lax = metav1validation.LabelSelectorHasInvalidLabelValue(old.Selector)
	}
	errs := check.Selector(spec.Selector, lax, path.Child("selector"))
	errs = append(errs, mustSelect(spec.Selector, &spec.Template, path.Child("template"))...)
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, core.ValidatePodTemplateUpdate(&spec.Template, stored, path.Child("template"))...)
	errs = append(errs, runsForever(&spec.Template, "DaemonSet", path.Child("template"))...)
	errs = append(errs, check.NotNegative(path, check.N("minReadySeconds", spec.MinReadySeconds), check.P("revisionHistoryLimit", spec.RevisionHistoryLimit))...)
	return append(errs, validateDaemonSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return append(errs, field.NotSupported(path, s, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
	if s.RollingUpdate == nil {
		return append(errs, field.Required(rolling, ""))
	}
	unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
	for _, limit := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"maxUnavailable", unavailable}, {"maxSurge", surge}} {
		if limit.value != nil {
			errs = append(errs, check.IntOrPercent(*limit.value, rolling.Child(limit.name))...)
			errs = append(errs, check.AtMostAll(*limit.value, rolling.Child(limit.name))...)
		}
	}
	hasUnavailable, hasSurge := check.Amount(unavailable) != 0, check.Amount(surge) != 0
	switch {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(rolling.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(rolling.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := check.NotNegative(path, check.N("currentNumberScheduled", s.CurrentNumberScheduled),
		check.N("numberMisscheduled", s.NumberMisscheduled), check.N("desiredNumberScheduled", s.DesiredNumberScheduled),
		check.N("numberReady", s.NumberReady), check.N("observedGeneration", s.ObservedGeneration),
		check.N("updatedNumberScheduled", s.UpdatedNumberScheduled), check.N("numberAvailable", s.NumberAvailable),
		check.N("numberUnavailable", s.NumberUnavailable), check.P("collisionCount", s.CollisionCount))
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
