package admissionregistration

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api/kind/kindtest"
)

const webhooks = `
metadata: {name: hooks}
webhooks:
- name: a.example.com
  clientConfig: {service: {namespace: default, name: hook, path: /x}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods, pods/status]}]
  sideEffects: None
  admissionReviewVersions: [v1]
  matchConditions: [{name: mine, expression: "request.operation == 'CREATE'"}]
`

func TestWebhooks(t *testing.T) {
	kindtest.Holds(t, ValidatingWebhookConfiguration, webhooks)
	kindtest.Holds(t, MutatingWebhookConfiguration, webhooks)
	type M = *admissionv1.MutatingWebhookConfiguration
	w := kindtest.From[M](t, MutatingWebhookConfiguration, webhooks).Webhooks[0]
	if *w.FailurePolicy != "Fail" || *w.MatchPolicy != "Equivalent" || *w.TimeoutSeconds != 10 || *w.ReinvocationPolicy != "Never" ||
		*w.Rules[0].Scope != "*" || *w.ClientConfig.Service.Port != 443 || w.NamespaceSelector == nil || w.ObjectSelector == nil {
		t.Errorf("defaults %+v", w)
	}
	hook := func(c M) *admissionv1.MutatingWebhook { return &c.Webhooks[0] }
	kindtest.Refuses(t, MutatingWebhookConfiguration, webhooks, []kindtest.Case[M]{
		kindtest.When("name", func(c M) { hook(c).Name = "a" }, "Invalid webhooks[0].name"),
		kindtest.When("twice", func(c M) { c.Webhooks = append(c.Webhooks, c.Webhooks[0]) }, "Duplicate webhooks[1].name"),
		kindtest.When("policies", func(c M) {
			hook(c).FailurePolicy, hook(c).MatchPolicy = new(admissionv1.FailurePolicyType("x")), new(admissionv1.MatchPolicyType("x"))
			hook(c).ReinvocationPolicy, hook(c).TimeoutSeconds = new(admissionv1.ReinvocationPolicyType("x")), new(int32(31))
		}, "NotSupported webhooks[0].failurePolicy", "NotSupported webhooks[0].matchPolicy", "NotSupported webhooks[0].reinvocationPolicy", "Invalid webhooks[0].timeoutSeconds"),
		kindtest.When("no side effects", func(c M) { hook(c).SideEffects = nil }, "Required webhooks[0].sideEffects: must specify one of None, NoneOnDryRun"),
		kindtest.When("some side effects", func(c M) { *hook(c).SideEffects = "Some" }, "NotSupported webhooks[0].sideEffects"),
		kindtest.When("no client", func(c M) { hook(c).ClientConfig.Service = nil }, "Required webhooks[0].clientConfig"),
		kindtest.When("url", func(c M) { hook(c).ClientConfig = admissionv1.WebhookClientConfig{URL: new("http://x")} }, "Invalid webhooks[0].clientConfig.url"),
		kindtest.When("versions", func(c M) { hook(c).AdmissionReviewVersions = []string{"v2", "v2", "1"} },
			"Invalid webhooks[0].admissionReviewVersions[1]", "Invalid webhooks[0].admissionReviewVersions[2]", "Invalid webhooks[0].admissionReviewVersions: must include at least one of v1, v1beta1"),
		kindtest.When("empty rule", func(c M) { hook(c).Rules[0] = admissionv1.RuleWithOperations{} }, "Required webhooks[0].rules[0].operations",
			"Required webhooks[0].rules[0].apiGroups", "Required webhooks[0].rules[0].apiVersions", "Required webhooks[0].rules[0].resources"),
		kindtest.When("stars", func(c M) {
			r := &hook(c).Rules[0]
			r.Operations, r.APIGroups, r.APIVersions = []admissionv1.OperationType{"*", "FLY"}, []string{"*", "a"}, []string{"*", ""}
			r.Resources, r.Scope = []string{"pods/*", "pods/status", "*/*", "*", "a", ""}, new(admissionv1.ScopeType("x"))
		}, "Invalid webhooks[0].rules[0].operations", "NotSupported webhooks[0].rules[0].operations[1]", "Invalid webhooks[0].rules[0].apiGroups",
			"Invalid webhooks[0].rules[0].apiVersions", "Required webhooks[0].rules[0].apiVersions[1]",
			"Invalid webhooks[0].rules[0].resources[1]: if 'pods/*' is present, must not specify pods/status",
			"Invalid webhooks[0].rules[0].resources: if '*/*' is present, must not specify other resources",
			"Invalid webhooks[0].rules[0].resources: if '*' is present, must not specify other resources without subresources",
			"Required webhooks[0].rules[0].resources[5]", "NotSupported webhooks[0].rules[0].scope"),
		kindtest.When("expression", func(c M) { hook(c).MatchConditions[0].Expression = "request.nonsense == 1" }, "Invalid webhooks[0].matchConditions[0].expression"),
		kindtest.When("not a boolean", func(c M) { hook(c).MatchConditions[0].Expression = "1" }, "Invalid webhooks[0].matchConditions[0].expression"),
		kindtest.When("conditions", func(c M) {
			hook(c).MatchConditions = append(hook(c).MatchConditions, hook(c).MatchConditions[0], admissionv1.MatchCondition{})
		}, "Duplicate webhooks[0].matchConditions[1].name", "Required webhooks[0].matchConditions[2].name", "Required webhooks[0].matchConditions[2].expression"),
	})
	old := kindtest.From[M](t, MutatingWebhookConfiguration, webhooks)
	*old.Webhooks[0].SideEffects, old.Webhooks[0].AdmissionReviewVersions = "Unknown", []string{"v9"}
	if errs := MutatingWebhookConfiguration.ValidateUpdate(old.DeepCopy(), old); len(errs) > 0 {
		t.Errorf("what is stored is refused: %v", errs.ToAggregate())
	}
}

const policy = `
metadata: {name: p.example.com}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}
  matchConditions: [{name: mine, expression: "params.data.size() > 0"}]
  variables: [{name: count, expression: "object.spec.replicas"}]
  validations: [{expression: "variables.count < 5", messageExpression: "'too many: ' + string(variables.count)", reason: Invalid}]
  auditAnnotations: [{key: count, valueExpression: "string(variables.count)"}]
`

func TestValidatingPolicy(t *testing.T) {
	kindtest.Holds(t, ValidatingAdmissionPolicy, policy)
	type P = *admissionv1.ValidatingAdmissionPolicy
	kindtest.Refuses(t, ValidatingAdmissionPolicy, policy, []kindtest.Case[P]{
		kindtest.When("nothing", func(p P) { p.Spec.Validations, p.Spec.AuditAnnotations = nil, nil }, "Required spec.validations", "Required spec.auditAnnotations"),
		kindtest.When("no match", func(p P) { p.Spec.MatchConstraints = nil }, "Required spec.matchConstraints"),
		kindtest.When("no rules", func(p P) { p.Spec.MatchConstraints.ResourceRules = nil }, "Required spec.matchConstraints.resourceRules"),
		kindtest.When("params", func(p P) { p.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "A/1"} },
			"Invalid spec.paramKind.apiVersion", "Invalid spec.paramKind.apiVersion", "Required spec.paramKind.kind"),
		kindtest.When("variable", func(p P) { p.Spec.Variables[0].Name = "for" }, "Invalid spec.variables[0].name: must be a valid CEL identifier",
			"Invalid spec.validations[0].expression", "Invalid spec.validations[0].messageExpression", "Invalid spec.auditAnnotations[0].valueExpression"),
		kindtest.When("expression", func(p P) { p.Spec.Validations[0].Expression = "object." }, "Invalid spec.validations[0].expression"),
		kindtest.When("message", func(p P) { p.Spec.Validations[0].Message, p.Spec.Validations[0].MessageExpression = "a\nb", " " },
			"Invalid spec.validations[0].message: must not contain line breaks", "Invalid spec.validations[0].messageExpression"),
		kindtest.When("reason", func(p P) { p.Spec.Validations[0].Reason = new(metav1.StatusReason("x")) }, "NotSupported spec.validations[0].reason"),
		kindtest.When("annotation", func(p P) {
			p.Spec.AuditAnnotations = append(p.Spec.AuditAnnotations, admissionv1.AuditAnnotation{Key: "count"})
		},
			"Duplicate spec.auditAnnotations[1].key", "Required spec.auditAnnotations[1].valueExpression"),
	})
	kindtest.RefusesSub(t, ValidatingAdmissionPolicy, "status", policy, []kindtest.Case[P]{
		kindtest.When("warnings", func(p P) {
			p.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: []admissionv1.ExpressionWarning{{}, {FieldRef: "spec[", Warning: "x"}}}
		}, "Required status.typeChecking.expressionWarnings[0].warning", "Required status.typeChecking.expressionWarnings[0].fieldRef",
			"Invalid status.typeChecking.expressionWarnings[1].fieldRef"),
	})
}

func TestMutatingPolicy(t *testing.T) {
	const mutating = `
metadata: {name: p}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]}
  mutations:
  - {patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}}
  - {patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels/a', value: 'b'}]"}}
`
	kindtest.Holds(t, MutatingAdmissionPolicy, mutating)
	type P = *admissionv1.MutatingAdmissionPolicy
	kindtest.Refuses(t, MutatingAdmissionPolicy, mutating, []kindtest.Case[P]{
		kindtest.When("nothing", func(p P) { p.Spec.Mutations = nil }, "Required spec.mutations"),
		kindtest.When("delete", func(p P) { p.Spec.MatchConstraints.ResourceRules[0].Operations[0] = "DELETE" }, "NotSupported spec.matchConstraints.resourceRules.operations"),
		kindtest.When("reinvocation", func(p P) { p.Spec.ReinvocationPolicy = "" }, "Required spec.reinvocationPolicy"),
		kindtest.When("type", func(p P) { p.Spec.Mutations[0].PatchType = "x" }, "NotSupported spec.mutations[0].patchType"),
		kindtest.When("other part", func(p P) { p.Spec.Mutations[0].PatchType = "JSONPatch" },
			"Required spec.mutations[0].jsonPatch", "Invalid spec.mutations[0].applyConfiguration"),
		kindtest.When("wrong type", func(p P) { p.Spec.Mutations[1].JSONPatch.Expression = "true" }, "Invalid spec.mutations[1].jsonPatch.expression"),
	})
}

func TestBindings(t *testing.T) {
	const binding = `
metadata: {name: b}
spec: {policyName: p, paramRef: {name: x, namespace: default, parameterNotFoundAction: Deny}, validationActions: [Deny, Audit], matchResources: {}}
`
	kindtest.Holds(t, ValidatingAdmissionPolicyBinding, binding)
	kindtest.Holds(t, MutatingAdmissionPolicyBinding, `{metadata: {name: b}, spec: {policyName: p}}`)
	type B = *admissionv1.ValidatingAdmissionPolicyBinding
	kindtest.Refuses(t, ValidatingAdmissionPolicyBinding, binding, []kindtest.Case[B]{
		kindtest.When("no policy", func(b B) { b.Spec.PolicyName = "" }, "Required spec.policyName"),
		kindtest.When("actions", func(b B) { b.Spec.ValidationActions = []admissionv1.ValidationAction{"Deny", "Warn", "Warn", "x"} },
			"Duplicate spec.validationActions[2]", "NotSupported spec.validationActions[3]", "Invalid spec.validationActions: must not contain both Deny and Warn"),
		kindtest.When("no action", func(b B) { b.Spec.ValidationActions = nil }, "Required spec.validationActions"),
		kindtest.When("no parameter", func(b B) { b.Spec.ParamRef = &admissionv1.ParamRef{} }, "Required spec.paramRef", "Required spec.paramRef.parameterNotFoundAction"),
		kindtest.When("two parameters", func(b B) { b.Spec.ParamRef.Selector = &metav1.LabelSelector{} }, "Forbidden spec.paramRef.name", "Forbidden spec.paramRef.selector"),
	})
	if row := ValidatingAdmissionPolicyBinding.Row(kindtest.From[B](t, ValidatingAdmissionPolicyBinding, binding)); row[2] != "default/x" {
		t.Errorf("row %v", row)
	}
}
