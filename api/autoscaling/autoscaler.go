package autoscaling

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxPeriod          = 1800 // seconds
	maxStabilization   = 3600 // seconds
	defaultUtilization = 80   // percent of the requested CPU
)

// HorizontalPodAutoscaler is autoscaling/v2 HorizontalPodAutoscaler.
var HorizontalPodAutoscaler = kind.Of(kind.Spec[*autoscalingv2.HorizontalPodAutoscaler]{
	New:     func() *autoscalingv2.HorizontalPodAutoscaler { return &autoscalingv2.HorizontalPodAutoscaler{} },
	NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
	Default: defaultAutoscaler,
	Create: func(a *autoscalingv2.HorizontalPodAutoscaler) {
		a.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
	},
	Update:   func(a, old *autoscalingv2.HorizontalPodAutoscaler) { a.Status = old.Status },
	Intent:   func(a *autoscalingv2.HorizontalPodAutoscaler) any { return &a.Spec },
	Validate: func(a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateAutoscaler(a, nil) },
	ValidateUpdate: func(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
		return validateAutoscaler(a, old)
	},
	Subs: map[string]kind.Sub[*autoscalingv2.HorizontalPodAutoscaler]{"status": {
		Update:   func(a, old *autoscalingv2.HorizontalPodAutoscaler) { a.Spec = old.Spec },
		Validate: func(a, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateStatus(&a.Status) },
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Reference", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["scaleTargetRef"]),
		column.String("Targets", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["metrics"]),
		column.String("MinPods", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["minReplicas"]),
		column.String("MaxPods", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["maxReplicas"]),
		column.String("Replicas", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
		column.Age,
	},
	Row: row,
})

func row(a *autoscalingv2.HorizontalPodAutoscaler) []any {
	least := "<unset>"
	if n := a.Spec.MinReplicas; n != nil {
		least = fmt.Sprint(*n)
	}
	return []any{a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, metricsCell(a.Spec.Metrics, a.Status.CurrentMetrics),
		least, int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), column.Since(a.CreationTimestamp)}
}

func metricsCell(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return "<none>"
	}
	var list []string
	for i := range specs {
		status := autoscalingv2.MetricStatus{}
		if i < len(statuses) {
			status = statuses[i]
		}
		list = append(list, metricText(&specs[i], &status))
	}
	if n := len(list); n > 2 {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:2], ", "), n-2)
	}
	return strings.Join(list, ", ")
}

// metricText says what a metric is and should be: "cpu: 40%/80%".
func metricText(m *autoscalingv2.MetricSpec, s *autoscalingv2.MetricStatus) string {
	var target autoscalingv2.MetricTarget
	var current autoscalingv2.MetricValueStatus
	prefix, known, average := "", false, " (avg)"
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		target = m.External.Target
		if known = s.External != nil; known {
			current = s.External.Current
		}
	case autoscalingv2.ObjectMetricSourceType:
		target = m.Object.Target
		if known = s.Object != nil; known {
			current = s.Object.Current
		}
	case autoscalingv2.PodsMetricSourceType:
		target, average = m.Pods.Target, ""
		if known = s.Pods != nil; known {
			current = s.Pods.Current
		}
	case autoscalingv2.ResourceMetricSourceType:
		target, average, prefix = m.Resource.Target, "", string(m.Resource.Name)+": "
		if known = s.Resource != nil; known {
			current = s.Resource.Current
		}
	case autoscalingv2.ContainerResourceMetricSourceType:
		target, average, prefix = m.ContainerResource.Target, "", string(m.ContainerResource.Name)+": "
		if known = s.ContainerResource != nil; known {
			current = s.ContainerResource.Current
		}
	default:
		return "<unknown type>"
	}
	switch {
	case target.AverageValue != nil || m.Type == autoscalingv2.PodsMetricSourceType:
		// A source without an average has a status all the same, but of metrics about other things than pods.
		known = known && (average == "" || current.AverageValue != nil)
		return prefix + quantity(current.AverageValue, known) + "/" + target.AverageValue.String() + average
	case prefix != "":
		wanted := "<auto>"
		if target.AverageUtilization != nil {
			wanted = percent(target.AverageUtilization)
		}
		return prefix + percent(current.AverageUtilization) + "/" + wanted
	}
	return quantity(current.Value, known) + "/" + target.Value.String()
}

// quantity is the cell of a value; one that its status leaves out is "<nil>".
func quantity(q *resource.Quantity, known bool) string {
	if !known {
		return "<unknown>"
	}
	return q.String()
}

func percent(n *int32) string {
	if n == nil {
		return "<unknown>"
	}
	return fmt.Sprintf("%d%%", *n)
}

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	setDefault(&a.Spec.MinReplicas, 1)
	if len(a.Spec.Metrics) == 0 {
		a.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	if b := a.Spec.Behavior; b != nil {
		defaultRules(&b.ScaleUp, upPolicies)
		setDefault(&b.ScaleUp.StabilizationWindowSeconds, 0)
		defaultRules(&b.ScaleDown, downPolicies) // its window is the controller's to choose
	}
}

func cpuMetric(utilization int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
	}}
}

// upPolicies and downPolicies are what is done where a behavior does not say:
// double, by at least four pods, and go to the least that is needed.
func upPolicies() []autoscalingv2.HPAScalingPolicy {
	return []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}
}

func downPolicies() []autoscalingv2.HPAScalingPolicy {
	return []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}
}

func defaultRules(p **autoscalingv2.HPAScalingRules, policies func() []autoscalingv2.HPAScalingPolicy) {
	setDefault(p, autoscalingv2.HPAScalingRules{})
	rules := *p
	setDefault(&rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if rules.Policies == nil {
		rules.Policies = policies()
	}
}

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

// validateAutoscaler checks a spec. Of a stored one (old is nil on create) the
// API versions that it refers to are taken as they are.
func validateAutoscaler(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	s, path := &a.Spec, field.NewPath("spec")
	errs := check.NotNegative(path, check.P("minReplicas", s.MinReplicas))
	switch {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(path.Child("maxReplicas"), ""))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	target := reference{emptyGroup: s.ScaleTargetRef.Kind == "ReplicationController"}
	described := reference{emptyGroup: true}
	if old != nil {
		was := old.Spec.ScaleTargetRef
		target.any = was.APIVersion == s.ScaleTargetRef.APIVersion && was.Kind == s.ScaleTargetRef.Kind
		described.any = slices.ContainsFunc(old.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
			return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && described.version(m.Object.DescribedObject) != nil
		})
	}
	errs = append(errs, target.validate(s.ScaleTargetRef, path.Child("scaleTargetRef"))...)
	errs = append(errs, validateMetrics(s, described, path.Child("metrics"))...)
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// reference says which API versions a reference may have.
type reference struct{ any, emptyGroup bool }

func (r reference) validate(ref autoscalingv2.CrossVersionObjectReference, path *field.Path) field.ErrorList {
	errs := requiredSegment(ref.Kind, "", path.Child("kind"))
	errs = append(errs, requiredSegment(ref.Name, "", path.Child("name"))...)
	if err := r.version(ref); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

func (r reference) version(ref autoscalingv2.CrossVersionObjectReference) error {
	if r.any {
		return nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil && gv.Group == "" && !r.emptyGroup {
		return errors.New("apiVersion must specify API group")
	}
	return err
}

// requiredSegment wants something that can stand in a URL's path.
func requiredSegment(s, missing string, path *field.Path) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(path, missing)}
	}
	return check.Each(path, s, content.IsPathSegmentName(s))
}

func validateRules(r *autoscalingv2.HPAScalingRules, path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	window := path.Child("stabilizationWindowSeconds")
	if n := r.StabilizationWindowSeconds; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(window, n, "must be greater than or equal to zero"))
	} else if n != nil && *n > maxStabilization {
		errs = append(errs, field.Invalid(window, n, fmt.Sprintf("must be less than or equal to %d", maxStabilization)))
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := path.Child("policies").Index(i)
		errs = append(errs, check.OneOf(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		} else if p.PeriodSeconds > maxPeriod {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxPeriod)))
		}
	}
	if q := r.Tolerance; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), q.String(), "must be greater than or equal to 0"))
	}
	return errs
}

func validateStatus(s *autoscalingv2.HorizontalPodAutoscalerStatus) field.ErrorList {
	path := field.NewPath("status")
	errs := check.NotNegative(path, check.N("currentReplicas", s.CurrentReplicas), check.N("desiredReplicas", s.DesiredReplicas))
	for i, c := range s.Conditions {
		errs = append(errs, check.NotNegative(path.Child("conditions").Index(i), check.P("observedGeneration", c.ObservedGeneration))...)
	}
	return errs
}

// validateMetrics checks all metrics. Only a metric that is there without pods
// can bring them back from zero.
func validateMetrics(s *autoscalingv2.HorizontalPodAutoscalerSpec, described reference, path *field.Path) (errs field.ErrorList) {
	outside := false
	for i := range s.Metrics {
		errs = append(errs, validateMetric(&s.Metrics[i], described, path.Index(i))...)
		t := s.Metrics[i].Type
		outside = outside || t == autoscalingv2.ObjectMetricSourceType || t == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		errs = append(errs, field.Forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

func validateMetric(m *autoscalingv2.MetricSpec, described reference, path *field.Path) (errs field.ErrorList) {
	sources := []struct {
		name     string
		of       autoscalingv2.MetricSourceType
		set      bool
		validate func(*field.Path) field.ErrorList
	}{
		{"object", autoscalingv2.ObjectMetricSourceType, m.Object != nil, func(p *field.Path) field.ErrorList { return validateObject(m.Object, described, p) }},
		{"external", autoscalingv2.ExternalMetricSourceType, m.External != nil, func(p *field.Path) field.ErrorList { return validateExternal(m.External, p) }},
		{"pods", autoscalingv2.PodsMetricSourceType, m.Pods != nil, func(p *field.Path) field.ErrorList { return validatePods(m.Pods, p) }},
		{"resource", autoscalingv2.ResourceMetricSourceType, m.Resource != nil, func(p *field.Path) field.ErrorList { return validateResource(m.Resource, p) }},
		{"containerResource", autoscalingv2.ContainerResourceMetricSourceType, m.ContainerResource != nil, func(p *field.Path) field.ErrorList { return validateContainer(m.ContainerResource, p) }},
	}
	set, known := 0, false
	for _, s := range sources {
		if s.set {
			if set++; set == 1 { // the first is checked; others are refused anyway
				errs = append(errs, s.validate(path.Child(s.name))...)
			}
		}
		if s.of == m.Type {
			known = true
			if !s.set {
				errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
			}
		}
	}
	for _, s := range sources {
		if set > 1 && s.set && s.of != m.Type {
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	if !known {
		errs = append(errs, field.NotSupported(path.Child("type"), m.Type, []autoscalingv2.MetricSourceType{
			autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
			autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType}))
	}
	return errs
}

func validateObject(o *autoscalingv2.ObjectMetricSource, described reference, path *field.Path) field.ErrorList {
	errs := described.validate(o.DescribedObject, path.Child("describedObject"))
	errs = append(errs, validateNamed(o.Metric, o.Target, path)...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternal(e *autoscalingv2.ExternalMetricSource, path *field.Path) field.ErrorList {
	errs := validateNamed(e.Metric, e.Target, path)
	switch value, average := e.Target.Value != nil, e.Target.AverageValue != nil; {
	case !value && !average:
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case value && average:
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePods(p *autoscalingv2.PodsMetricSource, path *field.Path) field.ErrorList {
	errs := validateNamed(p.Metric, p.Target, path)
	if p.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateNamed(id autoscalingv2.MetricIdentifier, t autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	return append(requiredSegment(id.Name, "must specify a metric name", path.Child("metric", "name")), validateTarget(t, path.Child("target"))...)
}

func validateResource(r *autoscalingv2.ResourceMetricSource, path *field.Path) (errs field.ErrorList) {
	if r.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	return append(errs, validateUsage(r.Target, path.Child("target"))...)
}

func validateContainer(c *autoscalingv2.ContainerResourceMetricSource, path *field.Path) (errs field.ErrorList) {
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, core.ValidateContainerResourceName(c.Name, path.Child("name"))...)
	}
	if c.Container == "" {
		errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, check.DNSLabel(c.Container, path.Child("container"))...)
	}
	return append(errs, validateUsage(c.Target, path.Child("target"))...)
}

// validateUsage wants a target either as a value or as a part of what is requested.
func validateUsage(t autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	errs := validateTarget(t, path)
	switch utilization, average := t.AverageUtilization != nil, t.AverageValue != nil; {
	case !utilization && !average:
		errs = append(errs, field.Required(path.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case utilization && average:
		errs = append(errs, field.Forbidden(path.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateTarget(t autoscalingv2.MetricTarget, path *field.Path) (errs field.ErrorList) {
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	case "":
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
		fallthrough
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if n := t.AverageUtilization; n != nil && *n < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), n, "must be greater than 0"))
	}
	return errs
}
