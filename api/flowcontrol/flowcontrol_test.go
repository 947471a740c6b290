package flowcontrol

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"sigs.k8s.io/yaml"

	"skiff/api/kind/kindtest"
)

func TestFlowSchema(t *testing.T) {
	const valid = `
metadata: {name: s}
spec:
  priorityLevelConfiguration: {name: global-default}
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: User, user: {name: ann}}, {kind: ServiceAccount, serviceAccount: {name: "*", namespace: default}}, {kind: Group, group: {name: g}}]
    resourceRules: [{verbs: ["*"], apiGroups: [""], resources: [pods], namespaces: [default]}]
    nonResourceRules: [{verbs: [get], nonResourceURLs: [/healthz, /apis/*]}]
`
	kindtest.Holds(t, FlowSchema, valid)
	type S = *flowcontrolv1.FlowSchema
	if s := kindtest.From[S](t, FlowSchema, valid); s.Spec.MatchingPrecedence != 1000 {
		t.Errorf("precedence %d", s.Spec.MatchingPrecedence)
	}
	for _, s := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		text, _ := yaml.Marshal(s)
		kindtest.Holds(t, FlowSchema, string(text))
	}
	rule := func(s S) *flowcontrolv1.PolicyRulesWithSubjects { return &s.Spec.Rules[0] }
	kindtest.Refuses(t, FlowSchema, valid, []kindtest.Case[S]{
		kindtest.When("precedence", func(s S) { s.Spec.MatchingPrecedence = 10001 }, "Invalid spec.matchingPrecedence: must not be greater than 10000"),
		kindtest.When("first", func(s S) { s.Spec.MatchingPrecedence = 1 }, "Invalid spec.matchingPrecedence"),
		kindtest.When("level", func(s S) { s.Spec.PriorityLevelConfiguration.Name = "" }, "Required spec.priorityLevelConfiguration.name"),
		kindtest.When("method", func(s S) { s.Spec.DistinguisherMethod.Type = "x" }, "NotSupported spec.distinguisherMethod.type"),
		kindtest.When("nobody", func(s S) { rule(s).Subjects = nil }, "Required spec.rules[0].subjects"),
		kindtest.When("nothing", func(s S) { rule(s).ResourceRules, rule(s).NonResourceRules = nil, nil }, "Required spec.rules[0]"),
		kindtest.When("subjects", func(s S) {
			rule(s).Subjects = []flowcontrolv1.Subject{{Kind: "Robot"}, {Kind: "User"}, {Kind: "Group", Group: &flowcontrolv1.GroupSubject{}, User: &flowcontrolv1.UserSubject{}},
				{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Name: "A"}}}
		}, `NotSupported spec.rules[0].subjects[0].kind: supported values: "Group", "ServiceAccount", "User"`,
			"Required spec.rules[0].subjects[1].user: user is required when subject kind is 'User'", "Required spec.rules[0].subjects[2].group.name",
			"Forbidden spec.rules[0].subjects[2].user: user is forbidden when subject kind is not 'User'",
			"Invalid spec.rules[0].subjects[3].serviceAccount.name", "Required spec.rules[0].subjects[3].serviceAccount.namespace"),
		kindtest.When("resources", func(s S) {
			rule(s).ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{Verbs: []string{"*", "get"}, APIGroups: []string{"*", "a"}, Namespaces: []string{"A"}}
		}, "Invalid spec.rules[0].resourceRules[0].verbs", "Invalid spec.rules[0].resourceRules[0].apiGroups",
			"Required spec.rules[0].resourceRules[0].resources", "Invalid spec.rules[0].resourceRules[0].namespaces[0]: each member of this list must be '*' or a DNS-1123 label; "),
		kindtest.When("no namespace", func(s S) { rule(s).ResourceRules[0].Namespaces = nil }, "Required spec.rules[0].resourceRules[0].namespaces"),
		kindtest.When("urls", func(s S) {
			rule(s).NonResourceRules[0] = flowcontrolv1.NonResourcePolicyRule{Verbs: []string{"fly"}, NonResourceURLs: []string{"a", "/a b", "/a//b", "/*a", ""}}
		}, "NotSupported spec.rules[0].nonResourceRules[0].verbs", "Invalid spec.rules[0].nonResourceRules[0].nonResourceURLs[0]",
			"Invalid spec.rules[0].nonResourceRules[0].nonResourceURLs[1]", "Invalid spec.rules[0].nonResourceRules[0].nonResourceURLs[2]",
			"Invalid spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: wildcard can only do suffix matching", "Invalid spec.rules[0].nonResourceRules[0].nonResourceURLs[4]"),
		kindtest.When("fixed", func(s S) { s.Name = "catch-all" }, "Invalid spec: spec of 'catch-all' must equal the fixed value"),
	})
	kindtest.RefusesSub(t, FlowSchema, "status", valid, []kindtest.Case[S]{
		kindtest.When("conditions", func(s S) { s.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{Type: "A"}, {Type: "A"}, {}} },
			"Duplicate status.conditions[1].type", "Required status.conditions[2].type"),
	})
}

func TestPriorityLevel(t *testing.T) {
	const valid = `{metadata: {name: p}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}}`
	kindtest.Holds(t, PriorityLevelConfiguration, valid)
	kindtest.Defaults(t, PriorityLevelConfiguration, valid, `{metadata: {name: p}, spec: {type: Limited, limited: {nominalConcurrencyShares: 30, lendablePercent: 0,
limitResponse: {type: Queue, queuing: {handSize: 8, queues: 64, queueLengthLimit: 50}}}}}`)
	for _, p := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		text, _ := yaml.Marshal(p)
		kindtest.Holds(t, PriorityLevelConfiguration, string(text))
	}
	type P = *flowcontrolv1.PriorityLevelConfiguration
	kindtest.Refuses(t, PriorityLevelConfiguration, valid, []kindtest.Case[P]{
		kindtest.When("no type", func(p P) { p.Spec.Type = "" }, "Required spec.type", "Forbidden spec.limited"),
		kindtest.When("type", func(p P) { p.Spec.Type = "x" }, "NotSupported spec.type", "Forbidden spec.limited"),
		kindtest.When("exempt", func(p P) { p.Spec.Type = "Exempt" }, "Invalid spec.type: must be 'Exempt' if and only if `name` is 'exempt'", "Forbidden spec.limited"),
		kindtest.When("no limits", func(p P) { p.Spec.Limited, p.Spec.Exempt = nil, &flowcontrolv1.ExemptPriorityLevelConfiguration{} }, "Required spec.limited", "Forbidden spec.exempt"),
		kindtest.When("shares", func(p P) {
			p.Spec.Limited.NominalConcurrencyShares, p.Spec.Limited.LendablePercent, p.Spec.Limited.BorrowingLimitPercent = new(int32(-1)), new(int32(101)), new(int32(-1))
		}, "Invalid spec.limited.nominalConcurrencyShares", "Invalid spec.limited.lendablePercent", "Invalid spec.limited.borrowingLimitPercent"),
		kindtest.When("reject", func(p P) { p.Spec.Limited.LimitResponse.Type = "Reject" }, "Forbidden spec.limited.limitResponse.queuing"),
		kindtest.When("no queues", func(p P) { p.Spec.Limited.LimitResponse.Queuing = nil }, "Required spec.limited.limitResponse.queuing"),
		kindtest.When("queues", func(p P) {
			p.Spec.Limited.LimitResponse.Queuing = &flowcontrolv1.QueuingConfiguration{Queues: 4, HandSize: 5}
		}, "Invalid spec.limited.limitResponse.queuing.queueLengthLimit", "Invalid spec.limited.limitResponse.queuing.handSize: should not be greater than queues (4)"),
		kindtest.When("entropy", func(p P) { p.Spec.Limited.LimitResponse.Queuing.Queues = 512 }, "Invalid spec.limited.limitResponse.queuing.handSize: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"),
		kindtest.When("fixed", func(p P) { p.Name = "catch-all" }, "Invalid spec: spec of 'catch-all' must equal the fixed value"),
	})
	if row := PriorityLevelConfiguration.Row(kindtest.From[P](t, PriorityLevelConfiguration, valid)); row[2] != int64(30) || row[4] != int64(8) {
		t.Errorf("row %v", row)
	}
}
