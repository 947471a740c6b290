package scheduling

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"skiff/api/kind/kindtest"
)

func TestPriorityClass(t *testing.T) {
	const valid = `{metadata: {name: high}, value: 1000}`
	kindtest.Holds(t, PriorityClass, valid)
	kindtest.Holds(t, PriorityClass, `{metadata: {name: system-node-critical}, value: 2000001000}`)
	kindtest.Holds(t, PriorityClass, `{metadata: {name: system-cluster-critical}, value: 2000000000}`)
	kindtest.Defaults(t, PriorityClass, valid, `{metadata: {name: high}, value: 1000, preemptionPolicy: PreemptLowerPriority}`)
	type C = *schedulingv1.PriorityClass
	kindtest.Refuses(t, PriorityClass, valid, []kindtest.Case[C]{
		kindtest.When("too high", func(c C) { c.Value = 1000000001 }, "Forbidden value: maximum allowed value of a user defined priority is 1000000000"),
		kindtest.When("negative", func(c C) { c.Value = -5 }),
		kindtest.When("system name", func(c C) { c.Name = "system-x" }, "Forbidden metadata.name: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"),
		kindtest.When("system value", func(c C) { c.Name = "system-node-critical" }, "Forbidden metadata.name"),
		kindtest.When("policy", func(c C) { c.PreemptionPolicy = new(corev1.PreemptionPolicy("x")) }, "NotSupported preemptionPolicy"),
		kindtest.When("empty policy", func(c C) { c.PreemptionPolicy = new(corev1.PreemptionPolicy("")) }, "Required preemptionPolicy"),
	})
	kindtest.RefusesUpdate(t, PriorityClass, valid, []kindtest.Case[C]{
		kindtest.When("description", func(c C) { c.Description = "x"; c.GlobalDefault = true }),
		kindtest.When("value", func(c C) { c.Value = 7 }, "Forbidden value: may not be changed in an update."),
		kindtest.When("policy", func(c C) { c.PreemptionPolicy = new(corev1.PreemptNever) }, "Invalid preemptionPolicy: field is immutable"),
	})
}
