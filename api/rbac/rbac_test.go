package rbac

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/api/kind/kindtest"
)

func TestRoles(t *testing.T) {
	const role = `{metadata: {name: "system:controller:Bootstrap"}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`
	const clusterRole = `
metadata: {name: "system:admin"}
rules: [{nonResourceURLs: ["/healthz"], verbs: [get]}]
aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}`
	kindtest.Holds(t, Role, role)
	kindtest.Holds(t, ClusterRole, clusterRole)
	kindtest.Holds(t, ClusterRole, `{metadata: {name: a}, rules: null}`)
	type R = *rbacv1.Role
	kindtest.Refuses(t, Role, role, []kindtest.Case[R]{
		kindtest.When("empty", func(r R) { r.Rules = append(r.Rules, rbacv1.PolicyRule{}) }, "Required rules[1].verbs", "Required rules[1].apiGroups", "Required rules[1].resources"),
		kindtest.When("urls", func(r R) { r.Rules[0].NonResourceURLs = []string{"/"} },
			"Invalid rules[0].nonResourceURLs: namespaced rules cannot apply to non-resource URLs",
			"Invalid rules[0].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"),
	})
	type C = *rbacv1.ClusterRole
	kindtest.Refuses(t, ClusterRole, clusterRole, []kindtest.Case[C]{
		kindtest.When("no selectors", func(r C) { r.AggregationRule.ClusterRoleSelectors = nil }, "Required aggregationRule.clusterRoleSelectors"),
		kindtest.When("selector", func(r C) { r.AggregationRule.ClusterRoleSelectors[0].MatchLabels["a"] = "!" },
			"Invalid aggregationRule.clusterRoleSelectors[0].matchLabels", "Invalid aggregationRule.clusterRoleSelectors[0]"),
		kindtest.When("both", func(r C) { r.Rules[0].Resources = []string{"pods"} }, "Invalid rules[0].nonResourceURLs"),
	})
	for name, ok := range map[string]bool{"system:a": true, "A b": true, "a/b": false, "..": false, "a%b": false} {
		if got := len(Role.ValidateName(name, false)) == 0; got != ok {
			t.Errorf("name %q taken: %v", name, got)
		}
	}
}

func TestBindings(t *testing.T) {
	const valid = `
metadata: {name: "admins:x", namespace: default}
roleRef: {kind: ClusterRole, name: "system:admin"}
subjects: [{kind: User, name: Ann}, {kind: Group, name: "system:masters"}, {kind: ServiceAccount, name: default, namespace: kube-system}]`
	kindtest.Holds(t, RoleBinding, valid)
	kindtest.Holds(t, ClusterRoleBinding, valid)
	type B = *rbacv1.ClusterRoleBinding
	b := kindtest.From[B](t, ClusterRoleBinding, valid)
	if b.RoleRef.APIGroup != rbacv1.GroupName || b.Subjects[0].APIGroup != rbacv1.GroupName || b.Subjects[2].APIGroup != "" {
		t.Errorf("defaults %+v", b)
	}
	row := ClusterRoleBinding.Row(b)
	if row[1] != "ClusterRole/system:admin" || row[3] != "Ann" || row[4] != "system:masters" || row[5] != "kube-system/default" {
		t.Errorf("row %v", row)
	}
	kindtest.Refuses(t, ClusterRoleBinding, valid, []kindtest.Case[B]{
		kindtest.When("role", func(b B) { b.RoleRef.Kind = "Role" }, `NotSupported roleRef.kind: supported values: "ClusterRole"`),
		kindtest.When("group", func(b B) { b.RoleRef.APIGroup = "x" }, "NotSupported roleRef.apiGroup"),
		kindtest.When("no name", func(b B) { b.RoleRef.Name = "" }, "Required roleRef.name"),
		kindtest.When("bad name", func(b B) { b.RoleRef.Name = "a/b" }, "Invalid roleRef.name"),
		kindtest.When("subjects", func(b B) {
			b.Subjects = []rbacv1.Subject{{Kind: "Robot"}, {Kind: "User", Name: "a"}, {Kind: "ServiceAccount", Name: "A", APIGroup: "x"}}
		}, "Required subjects[0].name", "NotSupported subjects[0].kind", "NotSupported subjects[1].apiGroup",
			"Invalid subjects[2].name", "NotSupported subjects[2].apiGroup", "Required subjects[2].namespace"),
	})
	type R = *rbacv1.RoleBinding
	kindtest.Refuses(t, RoleBinding, valid, []kindtest.Case[R]{
		kindtest.When("a role", func(b R) { b.RoleRef.Kind = "Role" }),
		kindtest.When("other kind", func(b R) { b.RoleRef.Kind = "x" }, "NotSupported roleRef.kind"),
		kindtest.When("own namespace", func(b R) { b.Subjects[2].Namespace = "" }),
	})
	kindtest.RefusesUpdate(t, RoleBinding, valid, []kindtest.Case[R]{
		kindtest.When("subjects", func(b R) { b.Subjects = nil }),
		kindtest.When("role", func(b R) { b.RoleRef.Name = "other" }, "Invalid roleRef: field is immutable"),
	})
}
