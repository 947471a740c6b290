package apps

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// Deployment is apps/v1 Deployment.
var Deployment = kind.Of(kind.Spec[*appsv1.Deployment]{
	New:     func() *appsv1.Deployment { return &appsv1.Deployment{} },
	NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
	Default: defaultDeployment,
	Create: func(d *appsv1.Deployment) {
		d.Status = appsv1.DeploymentStatus{}
		core.DropPodTemplate(&d.Spec.Template, nil)
	},
	Update: func(d, old *appsv1.Deployment) {
		d.Status = old.Status
		core.DropPodTemplate(&d.Spec.Template, &old.Spec.Template)
	},
	// Annotations are copied to replica sets, so they are intent as well.
	Intent:   func(d *appsv1.Deployment) any { return []any{&d.Spec, d.Annotations} },
	Validate: func(d *appsv1.Deployment) field.ErrorList { return validateDeployment(d, nil) },
	ValidateUpdate: func(d, old *appsv1.Deployment) field.ErrorList {
		return append(validateDeployment(d, old),
			validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
	},
	Subs: map[string]kind.Sub[*appsv1.Deployment]{"status": {
		Update: func(d, old *appsv1.Deployment) {
			d.Spec = old.Spec
			d.Labels = maps.Clone(old.Labels)
		},
		Validate: validateDeploymentStatus,
	}},
	Scale: &kind.Scale[*appsv1.Deployment]{
		Get: func(d *appsv1.Deployment) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) {
			return scaleOf(d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector)
		},
		Set: func(d *appsv1.Deployment, replicas int32) { d.Spec.Replicas = &replicas },
	},
	Warn: func(d, old *appsv1.Deployment) []string {
		if old == nil {
			return append(warnName(d.Name), warnTemplate(&d.Spec.Template, nil)...)
		}
		return warnTemplate(&d.Spec.Template, &old.Spec.Template)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Ready", "Number of the pod with ready state"),
		column.String("Up-to-date", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
		column.String("Available", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
		column.Age,
		column.Containers, column.Images,
		column.Wide("Selector", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(d *appsv1.Deployment) []any {
		names, images := core.PodTemplateImagesAndNames(&d.Spec.Template.Spec)
		selector := "<invalid>"
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
			selector = s.String()
		}
		return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, column.Or(d.Spec.Replicas, 0)),
			int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), column.Since(d.CreationTimestamp),
			names, images, selector}
	},
})

func defaultDeployment(d *appsv1.Deployment) {
	core.DefaultPodTemplate(&d.Spec.Template)
	setDefault(&d.Spec.Replicas, 1)
	setDefault(&d.Spec.RevisionHistoryLimit, 10)
	setDefault(&d.Spec.ProgressDeadlineSeconds, 600)
	strategy := &d.Spec.Strategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefault(&strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefault(&strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

func validateDeployment(d, old *appsv1.Deployment) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	errs := check.NotNegative(path, check.P("replicas", spec.Replicas), check.N("minReadySeconds", spec.MinReadySeconds),
		check.P("revisionHistoryLimit", spec.RevisionHistoryLimit), check.P("progressDeadlineSeconds", spec.ProgressDeadlineSeconds))
	if deadline := spec.ProgressDeadlineSeconds; deadline != nil && *deadline <= spec.MinReadySeconds {
		errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds"))
	}
	errs = append(errs, validateDeploymentStrategy(&spec.Strategy, path.Child("strategy"))...)
	if old == nil {
		return append(errs, validateReplicated(spec.Selector, &spec.Template, nil, path)...)
	}
	return append(errs, validateReplicated(spec.Selector, &spec.Template, &old.Spec.Template, path)...)
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			errs = append(errs, field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'"))
		}
		return errs
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return append(errs, field.NotSupported(path, s, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
	if s.RollingUpdate == nil {
		return append(errs, field.Required(rolling, "this should be defaulted and never be nil"))
	}
	unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
	if unavailable != nil {
		errs = append(errs, check.IntOrPercent(*unavailable, rolling.Child("maxUnavailable"))...)
		errs = append(errs, check.AtMostAll(*unavailable, rolling.Child("maxUnavailable"))...)
	}
	if surge != nil {
		errs = append(errs, check.IntOrPercent(*surge, rolling.Child("maxSurge"))...)
	}
	if check.Amount(unavailable) == 0 && check.Amount(surge) == 0 {
		errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return errs
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := check.NotNegative(path, check.N("observedGeneration", s.ObservedGeneration), check.N("replicas", s.Replicas),
		check.N("updatedReplicas", s.UpdatedReplicas), check.N("readyReplicas", s.ReadyReplicas),
		check.N("availableReplicas", s.AvailableReplicas), check.N("unavailableReplicas", s.UnavailableReplicas),
		check.P("terminatingReplicas", s.TerminatingReplicas), check.P("collisionCount", s.CollisionCount))
	errs = append(errs, check.NotAbove(path, s.Replicas, "cannot be greater than status.replicas",
		check.N("updatedReplicas", s.UpdatedReplicas), check.N("readyReplicas", s.ReadyReplicas), check.N("availableReplicas", s.AvailableReplicas))...)
	errs = append(errs, check.NotAbove(path, s.ReadyReplicas, "cannot be greater than readyReplicas", check.N("availableReplicas", s.AvailableReplicas))...)
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

// scaleOf makes the scale of a kind with a selector.
func scaleOf(replicas *int32, current int32, s *metav1.LabelSelector) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) {
	status := autoscalingv1.ScaleStatus{Replicas: current}
	if selector, err := metav1.LabelSelectorAsSelector(s); err == nil {
		status.Selector = selector.String()
	}
	return autoscalingv1.ScaleSpec{Replicas: column.Or(replicas, 0)}, status
}
