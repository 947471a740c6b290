package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// ReplicaSet is apps/v1 ReplicaSet.
var ReplicaSet = kind.Of(kind.Spec[*appsv1.ReplicaSet]{
	New:     func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
	NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
	Default: func(r *appsv1.ReplicaSet) {
		core.DefaultPodTemplate(&r.Spec.Template)
		setDefault(&r.Spec.Replicas, 1)
	},
	Create: func(r *appsv1.ReplicaSet) {
		r.Status = appsv1.ReplicaSetStatus{}
		core.DropPodTemplate(&r.Spec.Template, nil)
	},
	Update: func(r, old *appsv1.ReplicaSet) {
		r.Status = old.Status
		core.DropPodTemplate(&r.Spec.Template, &old.Spec.Template)
	},
	Intent:   func(r *appsv1.ReplicaSet) any { return &r.Spec },
	Validate: func(r *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSet(r, nil) },
	ValidateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
		return append(validateReplicaSet(r, &old.Spec.Template),
			validation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
	},
	Subs: map[string]kind.Sub[*appsv1.ReplicaSet]{"status": {
		Update:   func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec },
		Validate: func(r, _ *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSetStatus(&r.Status) },
	}},
	Scale: &kind.Scale[*appsv1.ReplicaSet]{
		Get: func(r *appsv1.ReplicaSet) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) {
			return scaleOf(r.Spec.Replicas, r.Status.Replicas, r.Spec.Selector)
		},
		Set: func(r *appsv1.ReplicaSet, replicas int32) { r.Spec.Replicas = &replicas },
	},
	Warn: func(r, old *appsv1.ReplicaSet) []string {
		if old == nil {
			return append(warnName(r.Name), warnTemplate(&r.Spec.Template, nil)...)
		}
		return warnTemplate(&r.Spec.Template, &old.Spec.Template)
	},
	Fields: func(r *appsv1.ReplicaSet) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Desired", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
		column.Integer("Current", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
		column.Integer("Ready", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
		column.Age,
		column.Containers, column.Images,
		column.Wide("Selector", appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(r *appsv1.ReplicaSet) []any {
		names, images := core.PodTemplateImagesAndNames(&r.Spec.Template.Spec)
		return []any{r.Name, int64(column.Or(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
			column.Since(r.CreationTimestamp), names, images, metav1.FormatLabelSelector(r.Spec.Selector)}
	},
})

func validateReplicaSet(r *appsv1.ReplicaSet, old *corev1.PodTemplateSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.NotNegative(path, check.P("replicas", r.Spec.Replicas), check.N("minReadySeconds", r.Spec.MinReadySeconds))
	return append(errs, validateReplicated(r.Spec.Selector, &r.Spec.Template, old, path)...)
}

// validateReplicated checks selector and template of a Deployment or ReplicaSet
// (whose messages say deployment as well).
func validateReplicated(s *metav1.LabelSelector, t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := requiredSelector(s, "deployment", path.Child("selector"))
	if _, ok := check.Selects(s, nil); !ok {
		return append(errs, field.Invalid(path.Child("selector"), s, "invalid label selector"))
	}
	errs = append(errs, mustSelect(s, t, path.Child("template"))...)
	errs = append(errs, core.ValidatePodTemplateUpdate(t, old, path.Child("template"))...)
	return append(errs, runsForever(t, "ReplicaSet", path.Child("template"))...)
}

func validateReplicaSetStatus(s *appsv1.ReplicaSetStatus) field.ErrorList {
	path := field.NewPath("status")
	errs := check.NotNegative(path, check.N("replicas", s.Replicas), check.N("fullyLabeledReplicas", s.FullyLabeledReplicas),
		check.N("readyReplicas", s.ReadyReplicas), check.N("availableReplicas", s.AvailableReplicas),
		check.N("observedGeneration", s.ObservedGeneration), check.P("terminatingReplicas", s.TerminatingReplicas))
	errs = append(errs, check.NotAbove(path, s.Replicas, "cannot be greater than status.replicas",
		check.N("fullyLabeledReplicas", s.FullyLabeledReplicas), check.N("readyReplicas", s.ReadyReplicas), check.N("availableReplicas", s.AvailableReplicas))...)
	return append(errs, check.NotAbove(path, s.ReadyReplicas, "cannot be greater than readyReplicas", check.N("availableReplicas", s.AvailableReplicas))...)
}
