package resource

import (
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api/kind/kindtest"
)

const claim = `
metadata: {name: gpu, namespace: default}
spec:
  devices:
    requests:
    - name: a
      exactly: {deviceClassName: gpu, selectors: [{cel: {expression: "device.driver == 'x'"}}], tolerations: [{key: a.b/c, operator: Exists}]}
    - {name: b, firstAvailable: [{name: big, deviceClassName: gpu, allocationMode: All}]}
    constraints: [{requests: [a, b/big], matchAttribute: example.com/numa}]
    config: [{requests: [a], opaque: {driver: Example.com, parameters: {x: 1}}}]
`

func TestClaim(t *testing.T) {
	kindtest.Holds(t, ResourceClaim, claim)
	kindtest.Holds(t, ResourceClaimTemplate, `{metadata: {name: t}, spec: {metadata: {labels: {a: b}}, spec: {devices: {requests: [{name: a, exactly: {deviceClassName: gpu}}]}}}}`)
	type C = *resourcev1.ResourceClaim
	c := kindtest.From[C](t, ResourceClaim, claim)
	if e := c.Spec.Devices.Requests[0].Exactly; e.AllocationMode != "ExactCount" || e.Count != 1 || c.Spec.Devices.Requests[1].FirstAvailable[0].Count != 0 {
		t.Errorf("defaults %+v", c.Spec)
	}
	first := func(c C) *resourcev1.DeviceRequest { return &c.Spec.Devices.Requests[0] }
	kindtest.Refuses(t, ResourceClaim, claim, []kindtest.Case[C]{
		kindtest.When("nothing", func(c C) { first(c).Exactly = nil }, "Required spec.devices.requests[0]"),
		kindtest.When("both", func(c C) { first(c).FirstAvailable = c.Spec.Devices.Requests[1].FirstAvailable }, "Invalid spec.devices.requests[0]"),
		kindtest.When("twice", func(c C) { c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, *first(c)) }, "Duplicate spec.devices.requests[2]"),
		kindtest.When("no class", func(c C) { first(c).Exactly.DeviceClassName = "" }, "Required spec.devices.requests[0].exactly.deviceClassName"),
		kindtest.When("mode", func(c C) { first(c).Exactly.AllocationMode = "x" }, "NotSupported spec.devices.requests[0].exactly.allocationMode"),
		kindtest.When("count", func(c C) { first(c).Exactly.Count = -1 }, "Invalid spec.devices.requests[0].exactly.count: must be greater than zero"),
		kindtest.When("expression", func(c C) { first(c).Exactly.Selectors[0].CEL.Expression = "device.nonsense" },
			"Invalid spec.devices.requests[0].exactly.selectors[0].cel.expression"),
		kindtest.When("toleration", func(c C) {
			first(c).Exactly.Tolerations[0] = resourcev1.DeviceToleration{Key: "!", Operator: "x", Effect: "y"}
		}, "Invalid spec.devices.requests[0].exactly.tolerations[0].key", "NotSupported spec.devices.requests[0].exactly.tolerations[0].operator",
			"NotSupported spec.devices.requests[0].exactly.tolerations[0].effect"),
		kindtest.When("constraint", func(c C) {
			c.Spec.Devices.Constraints[0] = resourcev1.DeviceConstraint{Requests: []string{"who"}, MatchAttribute: new(resourcev1.FullyQualifiedName("numa"))}
		}, "Invalid spec.devices.constraints[0].requests[0]", "Invalid spec.devices.constraints[0].matchAttribute"),
		kindtest.When("config", func(c C) { c.Spec.Devices.Config[0].Opaque.Parameters.Raw = []byte("[]") },
			"Invalid spec.devices.config[0].opaque.parameters: must be a valid JSON object"),
	})
	kindtest.RefusesUpdate(t, ResourceClaim, claim, []kindtest.Case[C]{
		kindtest.When("spec", func(c C) { first(c).Name = "x" }, "Invalid spec: field is immutable"),
	})
	allocation := &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "a", Driver: "d", Pool: "p/q", Device: "gpu-0"}}}}
	kindtest.RefusesSub(t, ResourceClaim, "status", claim, []kindtest.Case[C]{
		kindtest.When("allocate", func(c C) {
			c.Status.Allocation = allocation.DeepCopy()
			c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "1"}}
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p/q", Device: "gpu-0"}}
		}),
		kindtest.When("reserve nothing", func(c C) { c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{}} },
			"Required status.reservedFor[0].resource", "Required status.reservedFor[0].name", "Required status.reservedFor[0].uid", "Forbidden status.reservedFor"),
		kindtest.When("unknown request", func(c C) {
			c.Status.Allocation = allocation.DeepCopy()
			c.Status.Allocation.Devices.Results[0].Request = "z"
		},
			"Invalid status.allocation.devices.results[0].request"),
		kindtest.When("other device", func(c C) {
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "x"}}
		}, "Invalid status.devices[0]"),
		kindtest.When("share", func(c C) {
			c.Status.Allocation = allocation.DeepCopy()
			c.Status.Allocation.Devices.Results[0].ShareID = new(types.UID("x"))
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p/q", Device: "gpu-0", ShareID: new("x")}}
		}, "Invalid status.devices[0].shareID: must be a lowercase UUID", "Invalid status.allocation.devices.results[0].shareID"),
	})
	c.Status.Allocation = allocation
	if got := stateCell(c); got != "allocated" {
		t.Errorf("state %s", got)
	}
}

func TestDeviceClass(t *testing.T) {
	const valid = `{metadata: {name: gpu}, spec: {selectors: [{cel: {expression: "true"}}], extendedResourceName: example.com/gpu}}`
	kindtest.Holds(t, DeviceClass, valid)
	type C = *resourcev1.DeviceClass
	kindtest.Refuses(t, DeviceClass, valid, []kindtest.Case[C]{
		kindtest.When("selector", func(c C) { c.Spec.Selectors[0].CEL = nil }, "Required spec.selectors[0].cel"),
		kindtest.When("expression", func(c C) { c.Spec.Selectors[0].CEL.Expression = "1" }, "Invalid spec.selectors[0].cel.expression"),
		kindtest.When("extended", func(c C) { c.Spec.ExtendedResourceName = new("cpu") }, "Invalid spec.extendedResourceName"),
		kindtest.When("config", func(c C) { c.Spec.Config = []resourcev1.DeviceClassConfiguration{{}} }, "Required spec.config[0].opaque"),
	})
}

func TestDeviceTaintRule(t *testing.T) {
	const valid = `{metadata: {name: r}, spec: {deviceSelector: {driver: d}, taint: {key: a.b/c, effect: NoExecute}}}`
	kindtest.Holds(t, DeviceTaintRule, valid)
	type R = *resourcev1.DeviceTaintRule
	kindtest.Refuses(t, DeviceTaintRule, valid, []kindtest.Case[R]{
		kindtest.When("taint", func(r R) { r.Spec.Taint = resourcev1.DeviceTaint{Value: "!"} }, "Invalid spec.taint.key", "Invalid spec.taint.key", "Invalid spec.taint.value", "Required spec.taint.effect"),
		kindtest.When("selector", func(r R) { r.Spec.DeviceSelector.Pool, r.Spec.DeviceSelector.Device = new(""), new("A") },
			"Required spec.deviceSelector.pool", "Invalid spec.deviceSelector.device"),
	})
	old := kindtest.From[R](t, DeviceTaintRule, valid)
	old.Spec.Taint.TimeAdded = new(metav1.NewTime(time.Unix(1000, 0)))
	now := old.DeepCopy()
	now.Spec.Taint.Effect = "NoSchedule"
	DeviceTaintRule.Update(now, old)
	if now.Spec.Taint.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
		t.Error("another effect began in the past")
	}
}

func TestResourceSlice(t *testing.T) {
	const valid = `
metadata: {name: s}
spec:
  driver: d
  nodeName: n1
  pool: {name: n1, resourceSliceCount: 1, generation: 1}
  devices: [{name: gpu-0, attributes: {example.com/model: {string: x}, numa: {int: 1}}, capacity: {memory: {value: 1Gi}}}]
`
	kindtest.Holds(t, ResourceSlice, valid)
	type S = *resourcev1.ResourceSlice
	kindtest.Refuses(t, ResourceSlice, valid, []kindtest.Case[S]{
		kindtest.When("pool", func(s S) { s.Spec.Pool = resourcev1.ResourcePool{Generation: -1} },
			"Required spec.pool.name", "Invalid spec.pool.resourceSliceCount", "Invalid spec.pool.generation"),
		kindtest.When("nowhere", func(s S) { s.Spec.NodeName = nil }, "Required spec: exactly one of"),
		kindtest.When("two places", func(s S) { s.Spec.AllNodes = new(true) }, "Invalid spec: exactly one of"),
		kindtest.When("devices", func(s S) {
			s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: "gpu-0"}, resourcev1.Device{Name: "A", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a-b": {}}})
		}, "Duplicate spec.devices[1]", "Invalid spec.devices[2].name", "Invalid spec.devices[2].attributes", "Invalid spec.devices[2].attributes[a-b]: must specify one of"),
		kindtest.When("attributes", func(s S) {
			s.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				"v": {VersionValue: new("1.x")}, "s": {StringValue: new(strings.Repeat("x", 65))}, "a/b/c": {IntValue: new(int64(1))}}
		}, "Invalid spec.devices[0].attributes[v].version: must be a string compatible with semver.org spec 2.0.0", "TooLong spec.devices[0].attributes[s].string"),
		kindtest.When("a policy of one", func(s S) {
			s.Spec.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"m": {RequestPolicy: &resourcev1.CapacityRequestPolicy{}}}
		}, "Forbidden spec.devices[0].capacity[m].requestPolicy"),
		kindtest.When("counters", func(s S) {
			s.Spec.Devices[0].ConsumesCounters = []resourcev1.DeviceCounterConsumption{{}, {CounterSet: "A", Counters: map[string]resourcev1.Counter{"B": {}}}}
		}, "Required spec.devices[0].consumesCounters[0].counterSet", "Required spec.devices[0].consumesCounters[0].counters",
			"Invalid spec.devices[0].consumesCounters[1].counterSet", "Invalid spec.devices[0].consumesCounters[1].counters"),
		kindtest.When("a device's own node", func(s S) { s.Spec.Devices[0].NodeName = new("n1") }, "Invalid spec.devices[0]: `nodeName`, `nodeSelector` and `allNodes` can only be set"),
		kindtest.When("devices nowhere", func(s S) {
			s.Spec.NodeName, s.Spec.PerDeviceNodeSelection = nil, new(true)
			d := s.Spec.Devices[0].DeepCopy()
			d.Name, d.NodeName, d.AllNodes = "b", new("n1"), new(true)
			s.Spec.Devices = append(s.Spec.Devices, *d, resourcev1.Device{Name: "c", NodeName: new(""), AllNodes: new(false)})
		}, "Required spec.devices[0]: exactly one of", "Invalid spec.devices[1]: exactly one of", "Invalid spec.devices[2].nodeName", "Invalid spec.devices[2].allNodes", "Required spec.devices[2]"),
		kindtest.When("binding", func(s S) {
			s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: "b", BindingConditions: []string{"x"}}, resourcev1.Device{Name: "c", BindingConditions: []string{"x", "!"}, BindingFailureConditions: []string{"x", "y", "y"}})
			s.Spec.Devices[0].BindingFailureConditions = []string{"x"}
		}, "Invalid spec.devices[0].bindingConditions", "Invalid spec.devices[1].bindingFailureConditions", "Invalid spec.devices[2].bindingConditions[1]",
			"Invalid spec.devices[2].bindingFailureConditions[0]: bindingFailureConditions must not overlap", "Duplicate spec.devices[2].bindingFailureConditions[2]"),
		kindtest.When("taints", func(s S) { s.Spec.Devices[0].Taints = make([]resourcev1.DeviceTaint, 17) }, "TooMany spec.devices[0].taints"),
	})
	kindtest.RefusesUpdate(t, ResourceSlice, valid, []kindtest.Case[S]{
		kindtest.When("what may not", func(s S) { s.Spec.Driver, s.Spec.Pool.Name, s.Spec.NodeName = "e", "n2", new("n2") },
			"Invalid spec.driver", "Invalid spec.pool.name", "Invalid spec.nodeName"),
	})
	if f := ResourceSlice.Fields(kindtest.From[S](t, ResourceSlice, valid)); f["spec.nodeName"] != "n1" || f["spec.pool.name"] != "n1" {
		t.Errorf("fields %v", f)
	}
}

func TestAlphaIsDropped(t *testing.T) {
	s := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{
		PartitionTypeAttribute: new(resourcev1.FullyQualifiedName("a/b")),
		Devices: []resourcev1.Device{{
			Attributes:       map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a": {IntValues: []int64{1}, IntValue: new(int64(1))}},
			ConsumesCounters: []resourcev1.DeviceCounterConsumption{{CompatibilityGroups: []string{"a"}}},
		}},
	}}
	ResourceSlice.Create(s)
	if d := s.Spec.Devices[0]; s.Spec.PartitionTypeAttribute != nil || d.Attributes["a"].IntValues != nil || d.Attributes["a"].IntValue == nil || d.ConsumesCounters[0].CompatibilityGroups != nil {
		t.Errorf("kept %+v", s.Spec)
	}
	c := kindtest.From[*resourcev1.ResourceClaim](t, ResourceClaim, claim)
	c.Spec.Devices.Requests[0].Exactly.DerivedAttributes = []resourcev1.DeviceDerivedAttribute{{}}
	c.Spec.Devices.Requests[0].Exactly.Tolerations = []resourcev1.DeviceToleration{{Key: "a"}}
	ResourceClaim.Create(c)
	ResourceClaim.Default(c)
	if e := c.Spec.Devices.Requests[0].Exactly; e.DerivedAttributes != nil || e.Tolerations[0].Operator != "Equal" {
		t.Errorf("kept %+v", e)
	}
}
