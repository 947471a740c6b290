package policy

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api/kind/kindtest"
)

const valid = `
metadata: {name: web, namespace: default}
spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}
`

func TestPodDisruptionBudget(t *testing.T) {
	kindtest.Holds(t, PodDisruptionBudget, valid)
	type B = *policyv1.PodDisruptionBudget
	is := func(v string) *intstr.IntOrString { x := intstr.Parse(v); return &x }
	cases := []kindtest.Case[B]{
		kindtest.When("both", func(b B) { b.Spec.MaxUnavailable = is("1") }, "Invalid spec: minAvailable and maxUnavailable cannot be both set"),
		kindtest.When("negative", func(b B) { b.Spec.MinAvailable = is("-1") }, "Invalid spec.minAvailable"),
		kindtest.When("too many", func(b B) { b.Spec.MinAvailable = is("101%") }, "Invalid spec.minAvailable: must not be greater than 100%"),
		kindtest.When("no percentage", func(b B) { b.Spec.MinAvailable = is("some") }, "Invalid spec.minAvailable"),
		kindtest.When("max", func(b B) { b.Spec.MinAvailable, b.Spec.MaxUnavailable = nil, is("x") }, "Invalid spec.maxUnavailable"),
		kindtest.When("neither", func(b B) { b.Spec.MinAvailable = nil }),
		kindtest.When("no selector", func(b B) { b.Spec.Selector = nil }),
		kindtest.When("selector", func(b B) {
			b.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}
		}, "Required spec.selector.matchExpressions[0].values"),
		kindtest.When("policy", func(b B) { b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.UnhealthyPodEvictionPolicyType("x")) },
			`NotSupported spec.unhealthyPodEvictionPolicy: supported values: "AlwaysAllow", "IfHealthyBudget"`),
	}
	kindtest.Refuses(t, PodDisruptionBudget, valid, cases)
	kindtest.RefusesUpdate(t, PodDisruptionBudget, valid, cases)
	kindtest.RefusesSub(t, PodDisruptionBudget, "status", valid, []kindtest.Case[B]{
		kindtest.When("negative", func(b B) { b.Status.DisruptionsAllowed = -1 }, "Invalid status.disruptionsAllowed"),
		kindtest.When("condition", func(b B) { b.Status.Conditions = []metav1.Condition{{Type: "A", Status: "Perhaps"}} },
			"NotSupported status.conditions[0].status", "Required status.conditions[0].lastTransitionTime", "Required status.conditions[0].reason"),
	})
	if !PodDisruptionBudget.UnconditionalUpdateForbidden {
		t.Error("a budget can be written blindly")
	}
	b := kindtest.From[B](t, PodDisruptionBudget, valid)
	b.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: legacyMark, Operator: "DoesNotExist"}}
	PodDisruptionBudget.Create(b)
	if got := metav1.FormatLabelSelector(b.Spec.Selector); got != "app=web" {
		t.Errorf("selector %s", got)
	}
	if row := PodDisruptionBudget.Row(b); row[1] != "50%" || row[2] != "N/A" {
		t.Errorf("row %v", row)
	}
}
