package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"

	"skiff/api/kind/kindtest"
)

func TestRuntimeClass(t *testing.T) {
	const valid = `{metadata: {name: gvisor}, handler: runsc, overhead: {podFixed: {cpu: 10m}}, scheduling: {nodeSelector: {a: b}, tolerations: [{key: a, operator: Exists}]}}`
	kindtest.Holds(t, RuntimeClass, valid)
	type C = *nodev1.RuntimeClass
	kindtest.Refuses(t, RuntimeClass, valid, []kindtest.Case[C]{
		kindtest.When("no handler", func(c C) { c.Handler = "" }, "Required handler"),
		kindtest.When("handler", func(c C) { c.Handler = "a.b" }, "Invalid handler"),
		kindtest.When("selector", func(c C) { c.Scheduling.NodeSelector["a"] = "!" }, "Invalid scheduling.nodeSelector"),
		kindtest.When("twice", func(c C) {
			c.Scheduling.Tolerations = append(c.Scheduling.Tolerations, corev1.Toleration{Key: "a", Operator: "Exists"})
		}, "Duplicate scheduling.tolerations[1]"),
	})
	kindtest.RefusesUpdate(t, RuntimeClass, valid, []kindtest.Case[C]{
		kindtest.When("handler", func(c C) { c.Handler = "x" }, "Invalid handler: field is immutable"),
	})
	c := kindtest.From[C](t, RuntimeClass, valid)
	c.Scheduling.NodeSelector = map[string]string{"beta.kubernetes.io/arch": "amd64"}
	if got := RuntimeClass.Warn(c, nil); len(got) != 1 {
		t.Errorf("warnings %q", got)
	}
}
