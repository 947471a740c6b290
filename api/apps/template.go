package apps

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/core"
)

var templatePath = field.NewPath("spec", "template")

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

// requiredSelector checks a selector that must be there and select something;
// noun is the kind as messages name it.
func requiredSelector(s *metav1.LabelSelector, noun string, path *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := check.Selector(s, false, path)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, "empty selector is invalid for "+noun))
	}
	return errs
}

// mustSelect wants a template's labels to match the selector.
func mustSelect(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if matches, ok := check.Selects(s, t.Labels); ok && !matches {
		return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")}
	}
	return nil
}

// runsForever refuses what would end the pods of a kind that keeps them running;
// noun is the kind as messages name it.
func runsForever(t *corev1.PodTemplateSpec, noun string, path *field.Path) (errs field.ErrorList) {
	spec := path.Child("spec")
	errs = append(errs, check.OneOf(t.Spec.RestartPolicy, spec.Child("restartPolicy"), corev1.RestartPolicyAlways)...)
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+noun+" is not Supported"))
	}
	return errs
}

// warnTemplate warns about a template that is new or has changed.
func warnTemplate(t, old *corev1.PodTemplateSpec) []string {
	if old != nil && equality.Semantic.DeepEqual(t, old) {
		return nil
	}
	return core.WarnPodTemplate(t, old, templatePath)
}

// warnName warns about a name that cannot be part of a host name.
func warnName(name string) []string {
	if messages := utilvalidation.IsDNS1123Label(name); len(messages) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", messages)}
	}
	return nil
}
