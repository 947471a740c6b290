package autoscaling

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/kind"
)

// HorizontalPodAutoscalerV1 is autoscaling/v1 HorizontalPodAutoscaler: a view of
// what is stored as v2. Its rules are v2's.
var HorizontalPodAutoscalerV1 = kind.Of(kind.Spec[*autoscalingv1.HorizontalPodAutoscaler]{
	New:     func() *autoscalingv1.HorizontalPodAutoscaler { return &autoscalingv1.HorizontalPodAutoscaler{} },
	NewList: func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
	Default: func(a *autoscalingv1.HorizontalPodAutoscaler) { setDefault(&a.Spec.MinReplicas, 1) },
	Create:  func(a *autoscalingv1.HorizontalPodAutoscaler) { dropStatus(a, nil) },
	Update:  func(a, old *autoscalingv1.HorizontalPodAutoscaler) { dropStatus(a, old) },
	Intent:  func(a *autoscalingv1.HorizontalPodAutoscaler) any { return &ToV2(a).Spec },
	Validate: func(a *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
		return validateAutoscaler(ToV2(a), nil)
	},
	ValidateUpdate: func(a, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
		return validateAutoscaler(ToV2(a), ToV2(old))
	},
	Subs: map[string]kind.Sub[*autoscalingv1.HorizontalPodAutoscaler]{"status": {AnyFinalizer: true,
		Update: func(a, old *autoscalingv1.HorizontalPodAutoscaler) {
			a.Spec = old.Spec
			keepAnnotations(a, old, metricsAnnotation, behaviorAnnotation)
		},
		Validate: func(a, _ *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateStatus(&ToV2(a).Status)
		},
	}},
	Columns: HorizontalPodAutoscaler.Columns,
	Row:     func(a *autoscalingv1.HorizontalPodAutoscaler) []any { return row(ToV2(a)) },
})

// What v1 has no fields for is in annotations, as JSON.
const (
	metricsAnnotation       = "autoscaling.alpha.kubernetes.io/metrics"
	behaviorAnnotation      = "autoscaling.alpha.kubernetes.io/behavior"
	currentAnnotation       = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation    = "autoscaling.alpha.kubernetes.io/conditions"
	toleranceDownAnnotation = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
	toleranceUpAnnotation   = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
)

// dropStatus resets the status, also the part that is in annotations.
func dropStatus(a, old *autoscalingv1.HorizontalPodAutoscaler) {
	if old == nil {
		old = &autoscalingv1.HorizontalPodAutoscaler{}
	}
	a.Status = old.Status
	keepAnnotations(a, old, currentAnnotation, conditionsAnnotation)
}

func keepAnnotations(a, old *autoscalingv1.HorizontalPodAutoscaler, keys ...string) {
	for _, key := range keys {
		value, ok := old.Annotations[key]
		if now, has := a.Annotations[key]; has == ok && now == value {
			continue
		}
		a.Annotations = maps.Clone(a.Annotations) // it may be shared
		if !ok {
			delete(a.Annotations, key)
			continue
		}
		if a.Annotations == nil {
			a.Annotations = map[string]string{}
		}
		a.Annotations[key] = value
	}
}

// withoutCarried is annotations without those that carry fields of v2.
func withoutCarried(annotations map[string]string) map[string]string {
	carried := []string{metricsAnnotation, behaviorAnnotation, currentAnnotation, conditionsAnnotation, toleranceDownAnnotation, toleranceUpAnnotation}
	copied := false
	for _, key := range carried {
		if _, ok := annotations[key]; ok {
			if !copied {
				annotations, copied = maps.Clone(annotations), true
			}
			delete(annotations, key)
		}
	}
	return annotations
}

// behavior is how a v2 behavior stands in its annotation: with capital names, in
// which it was first written. encoding/json reads them into v2's own type.
type behavior struct {
	ScaleUp, ScaleDown *rules
}

type rules struct {
	StabilizationWindowSeconds *int32
	SelectPolicy               *autoscalingv2.ScalingPolicySelect
	Policies                   []policy
	Tolerance                  *resource.Quantity
}

type policy struct {
	Type          autoscalingv2.HPAScalingPolicyType
	Value         int32
	PeriodSeconds int32
}

func carriedBehavior(b *autoscalingv2.HorizontalPodAutoscalerBehavior) behavior {
	return behavior{carriedRules(b.ScaleUp), carriedRules(b.ScaleDown)}
}

func carriedRules(r *autoscalingv2.HPAScalingRules) *rules {
	if r == nil {
		return nil
	}
	c := &rules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		c.Policies = append(c.Policies, policy(p))
	}
	return c
}

// isCPU tells a metric that v1 has a field for.
func isCPU(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil &&
		m.Resource.Name == corev1.ResourceCPU && m.Resource.Target.AverageUtilization != nil
}

// FromV2 shows a stored autoscaler as v1. It does not change a, and shares parts of it.
func FromV2(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	v := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
			CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
		},
	}
	if a.Kind != "" {
		v.TypeMeta.Kind, v.TypeMeta.APIVersion = a.Kind, autoscalingv1.SchemeGroupVersion.String()
	}
	var others []autoscalingv1.MetricSpec
	for i := range a.Spec.Metrics {
		m := &a.Spec.Metrics[i]
		if !isCPU(m) {
			others = append(others, metricFromV2(m))
		} else if v.Spec.TargetCPUUtilizationPercentage == nil {
			v.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	var current []autoscalingv1.MetricStatus
	for i := range a.Status.CurrentMetrics {
		m := &a.Status.CurrentMetrics[i]
		current = append(current, statusFromV2(m))
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			v.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range a.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type),
			Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	carry := carrier{annotations: withoutCarried(a.Annotations)}
	carry.put(metricsAnnotation, others, len(others) > 0)
	carry.put(currentAnnotation, current, len(current) > 0)
	if b := a.Spec.Behavior; b != nil {
		carry.put(behaviorAnnotation, carriedBehavior(b), true)
	}
	carry.put(conditionsAnnotation, conditions, len(conditions) > 0)
	v.Annotations = carry.annotations
	return v
}

// carrier puts values into annotations, and copies them before the first.
type carrier struct {
	annotations map[string]string
	copied      bool
}

func (c *carrier) put(key string, value any, there bool) {
	if !there {
		return
	}
	data, err := json.Marshal(value)
	if err != nil { // these types can all be written
		return
	}
	if !c.copied {
		c.annotations, c.copied = maps.Clone(c.annotations), true
	}
	if c.annotations == nil {
		c.annotations = map[string]string{}
	}
	c.annotations[key] = string(data)
}

// ToV2 gives what a v1 autoscaler is stored as. It does not change a, and shares
// parts of it. Annotations that cannot be read carry nothing.
func ToV2(a *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	v := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
			CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
		},
	}
	if a.Kind != "" {
		v.TypeMeta.Kind, v.TypeMeta.APIVersion = a.Kind, autoscalingv2.SchemeGroupVersion.String()
	}
	var others []autoscalingv1.MetricSpec
	if carried(a.Annotations, metricsAnnotation, &others) {
		for i := range others {
			v.Spec.Metrics = append(v.Spec.Metrics, metricToV2(&others[i]))
		}
	}
	if n := a.Spec.TargetCPUUtilizationPercentage; n != nil {
		v.Spec.Metrics = append(v.Spec.Metrics, cpuMetric(*n))
	}
	if len(v.Spec.Metrics) == 0 {
		v.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	var b autoscalingv2.HorizontalPodAutoscalerBehavior
	if carried(a.Annotations, behaviorAnnotation, &b) && b != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		v.Spec.Behavior = &b
	}
	if n := a.Status.CurrentCPUUtilizationPercentage; n != nil {
		v.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: n}}}}
	}
	var current []autoscalingv1.MetricStatus
	if carried(a.Annotations, currentAnnotation, &current) { // it says more than the one field
		v.Status.CurrentMetrics = nil
		for i := range current {
			v.Status.CurrentMetrics = append(v.Status.CurrentMetrics, statusToV2(&current[i]))
		}
	}
	carried(a.Annotations, conditionsAnnotation, &v.Status.Conditions)
	v.Annotations = withoutCarried(a.Annotations)
	return v
}

// carried reads an annotation, and tells whether it was there and could be read.
func carried(annotations map[string]string, key string, into any) bool {
	text, ok := annotations[key]
	return ok && json.Unmarshal([]byte(text), into) == nil
}
