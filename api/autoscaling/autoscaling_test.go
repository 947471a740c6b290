package autoscaling

import (
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/api/kind/kindtest"
)

const valid = `
metadata: {name: web, namespace: default, annotations: {mine: "1"}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 5
  metrics:
  - {type: External, external: {metric: {name: queue, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: "30"}}}
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: rps}, target: {type: Value, value: 2k}}}
  - {type: Pods, pods: {metric: {name: rps}, target: {type: AverageValue, averageValue: "1"}}}
  - {type: ContainerResource, containerResource: {name: memory, container: c, target: {type: Utilization, averageUtilization: 70}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}
  behavior: {scaleDown: {policies: [{type: Pods, value: 1, periodSeconds: 60}], tolerance: 100m}}
status:
  currentReplicas: 2
  desiredReplicas: 3
  currentMetrics:
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 40, averageValue: 100m}}}
  conditions: [{type: AbleToScale, status: "True", reason: X, lastTransitionTime: "2026-01-01T00:00:00Z"}]
`

const simple = `
metadata: {name: web, namespace: default}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, maxReplicas: 5}
`

func TestAutoscaler(t *testing.T) {
	kindtest.Holds(t, HorizontalPodAutoscaler, valid)
	kindtest.Holds(t, HorizontalPodAutoscaler, simple)
	kindtest.Defaults(t, HorizontalPodAutoscaler, simple, strings.Replace(simple, "maxReplicas: 5", `maxReplicas: 5, minReplicas: 1, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]`, 1))
	type A = *autoscalingv2.HorizontalPodAutoscaler
	b := kindtest.From[A](t, HorizontalPodAutoscaler, valid).Spec.Behavior
	if *b.ScaleUp.StabilizationWindowSeconds != 0 || len(b.ScaleUp.Policies) != 2 || *b.ScaleUp.SelectPolicy != "Max" ||
		b.ScaleDown.StabilizationWindowSeconds != nil || len(b.ScaleDown.Policies) != 1 || *b.ScaleDown.SelectPolicy != "Max" {
		t.Errorf("behaviour %+v %+v", b.ScaleUp, b.ScaleDown)
	}
	kindtest.Refuses(t, HorizontalPodAutoscaler, valid, []kindtest.Case[A]{
		kindtest.When("no max", func(a A) { a.Spec.MaxReplicas = 0 }, "Required spec.maxReplicas", "Invalid spec.maxReplicas: must be greater than or equal to `minReplicas`"),
		kindtest.When("negative", func(a A) { a.Spec.MaxReplicas, a.Spec.MinReplicas = -1, new(int32(-2)) },
			"Invalid spec.minReplicas", "Invalid spec.maxReplicas: must be greater than or equal to 1"),
		kindtest.When("zero with a queue", func(a A) { a.Spec.MinReplicas = new(int32(0)) }),
		kindtest.When("zero without", func(a A) { a.Spec.MinReplicas, a.Spec.Metrics = new(int32(0)), a.Spec.Metrics[2:] }, "Forbidden spec.metrics"),
		kindtest.When("target", func(a A) {
			a.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Name: "a/b"}
		},
			"Required spec.scaleTargetRef.kind", "Invalid spec.scaleTargetRef.name", "Invalid spec.scaleTargetRef.apiVersion: apiVersion must specify API group"),
		kindtest.When("replication controller", func(a A) {
			a.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{Kind: "ReplicationController", Name: "x"}
		}),
		kindtest.When("no metric", func(a A) { a.Spec.Metrics[0] = autoscalingv2.MetricSpec{} }, "Required spec.metrics[0].type", "NotSupported spec.metrics[0].type"),
		kindtest.When("missing", func(a A) { a.Spec.Metrics[0].External = nil }, "Required spec.metrics[0].external"),
		kindtest.When("two", func(a A) { a.Spec.Metrics[0].Pods = a.Spec.Metrics[2].Pods }, "Forbidden spec.metrics[0].pods: must populate the given metric source only"),
		kindtest.When("external", func(a A) { a.Spec.Metrics[0].External.Target = autoscalingv2.MetricTarget{} },
			"Required spec.metrics[0].external.target.type", "Invalid spec.metrics[0].external.target.type", "Required spec.metrics[0].external.target.averageValue"),
		kindtest.When("object", func(a A) { a.Spec.Metrics[1].Object.Target.Value = new(resource.MustParse("0")) }, "Invalid spec.metrics[1].object.target.value: must be positive"),
		kindtest.When("pods", func(a A) { a.Spec.Metrics[2].Pods.Metric.Name = "" }, "Required spec.metrics[2].pods.metric.name: must specify a metric name"),
		kindtest.When("container", func(a A) { a.Spec.Metrics[3].ContainerResource.Container = "" }, "Required spec.metrics[3].containerResource.container"),
		kindtest.When("both", func(a A) { a.Spec.Metrics[4].Resource.Target.AverageValue = new(resource.MustParse("1")) },
			"Forbidden spec.metrics[4].resource.target.averageValue"),
		kindtest.When("utilization", func(a A) { a.Spec.Metrics[4].Resource.Target.AverageUtilization = new(int32(0)) },
			"Invalid spec.metrics[4].resource.target.averageUtilization"),
		kindtest.When("behaviour", func(a A) {
			a.Spec.Behavior.ScaleDown = &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(3601)), SelectPolicy: new(autoscalingv2.ScalingPolicySelect("x"))}
			a.Spec.Behavior.ScaleUp.Policies[0] = autoscalingv2.HPAScalingPolicy{Type: "x", PeriodSeconds: 1801}
			a.Spec.Behavior.ScaleUp.Tolerance = new(resource.MustParse("-1"))
		}, "Invalid spec.behavior.scaleDown.stabilizationWindowSeconds", "NotSupported spec.behavior.scaleDown.selectPolicy",
			"Required spec.behavior.scaleDown.policies", "NotSupported spec.behavior.scaleUp.policies[0].type", "Invalid spec.behavior.scaleUp.policies[0].value",
			"Invalid spec.behavior.scaleUp.policies[0].periodSeconds", "Invalid spec.behavior.scaleUp.tolerance"),
	})
	kindtest.RefusesSub(t, HorizontalPodAutoscaler, "status", valid, []kindtest.Case[A]{
		kindtest.When("negative", func(a A) { a.Status.CurrentReplicas, a.Status.Conditions[0].ObservedGeneration = -1, new(int64(-1)) },
			"Invalid status.currentReplicas", "Invalid status.conditions[0].observedGeneration"),
	})
	old := kindtest.From[A](t, HorizontalPodAutoscaler, valid)
	old.Spec.ScaleTargetRef.APIVersion = "a/b/c"
	if errs := HorizontalPodAutoscaler.ValidateUpdate(old.DeepCopy(), old); len(errs) > 0 {
		t.Errorf("a stored version is refused: %v", errs.ToAggregate())
	}
	a := kindtest.From[A](t, HorizontalPodAutoscaler, simple)
	a.Status.CurrentMetrics = old.Status.CurrentMetrics
	if got := HorizontalPodAutoscaler.Row(a)[2]; got != "cpu: 40%/80%" {
		t.Errorf("targets %v", got)
	}
	if got := HorizontalPodAutoscaler.Row(old)[2]; got != "<unknown>/30 (avg), <unknown>/2k + 3 more..." {
		t.Errorf("targets %v", got)
	}
}

// What v1 cannot say is carried in annotations, so that nothing is lost on the way.
func TestV1(t *testing.T) {
	kindtest.Holds(t, HorizontalPodAutoscalerV1, simple)
	stored := kindtest.From[*autoscalingv2.HorizontalPodAutoscaler](t, HorizontalPodAutoscaler, valid)
	before := stored.DeepCopy()
	shown := FromV2(stored)
	if *shown.Spec.TargetCPUUtilizationPercentage != 60 || *shown.Status.CurrentCPUUtilizationPercentage != 40 || shown.Annotations["mine"] != "1" {
		t.Errorf("shown %+v", shown)
	}
	if got := shown.Annotations[behaviorAnnotation]; !strings.HasPrefix(got, `{"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}`) {
		t.Errorf("behaviour %s", got)
	}
	back := ToV2(shown)
	if len(back.Spec.Metrics) != 5 || len(back.Annotations) != 1 {
		t.Fatalf("back: %+v", back)
	}
	if !equality.Semantic.DeepEqual(back.Spec, stored.Spec) || !equality.Semantic.DeepEqual(back.Status, stored.Status) {
		t.Errorf("there and back:\n%+v\n%+v", back, stored)
	}
	if !equality.Semantic.DeepEqual(stored, before) {
		t.Error("showing changed what is stored")
	}
	v1 := kindtest.From[*autoscalingv1.HorizontalPodAutoscaler](t, HorizontalPodAutoscalerV1, simple)
	if got := ToV2(v1).Spec.Metrics; len(got) != 1 || *got[0].Resource.Target.AverageUtilization != 80 {
		t.Errorf("metrics of an autoscaler without: %+v", got)
	}
	v1.Annotations = map[string]string{conditionsAnnotation: "[{}]", metricsAnnotation: "nonsense"}
	HorizontalPodAutoscalerV1.Create(v1)
	if _, ok := v1.Annotations[conditionsAnnotation]; ok {
		t.Error("a create set conditions")
	}
	v1.Spec.MaxReplicas = 0
	if errs := HorizontalPodAutoscalerV1.Validate(v1); len(errs) != 2 {
		t.Errorf("errors: %v", errs)
	}
}

func TestScale(t *testing.T) {
	kindtest.Holds(t, Scale, `{metadata: {name: web}, spec: {replicas: 3}}`)
	kindtest.Refuses(t, Scale, `{metadata: {name: web}}`, []kindtest.Case[*autoscalingv1.Scale]{
		kindtest.When("negative", func(s *autoscalingv1.Scale) { s.Spec.Replicas = -1 }, "Invalid spec.replicas: must be greater than or equal to 0"),
	})
}
