package bootstrap

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

func TestPolicyIsWholeAndRefersOnlyToItself(t *testing.T) {
	objects, err := Policy()
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]rbacv1.PolicyRule{}
	count := map[string]int{}
	for _, obj := range objects {
		switch o := obj.(type) {
		case *rbacv1.ClusterRole:
			roles["ClusterRole/"+o.Name] = o.Rules
			count["clusterroles"]++
		case *rbacv1.Role:
			roles["Role/"+o.Name] = o.Rules
			count["roles"]++
		}
	}
	for _, obj := range objects {
		var ref rbacv1.RoleRef
		switch o := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			ref = o.RoleRef
			count["clusterrolebindings"]++
		case *rbacv1.RoleBinding:
			ref = o.RoleRef
			count["rolebindings"]++
		default:
			continue
		}
		if _, ok := roles[ref.Kind+"/"+ref.Name]; !ok {
			t.Errorf("%s refers to %s %s, which is not there", obj.GetName(), ref.Kind, ref.Name)
		}
	}
	for kind, least := range map[string]int{"clusterroles": 60, "roles": 7, "clusterrolebindings": 45, "rolebindings": 7} {
		if count[kind] < least {
			t.Errorf("%d %s, want at least %d", count[kind], kind, least)
		}
	}
	for name, rules := range roles {
		if len(rules) == 0 {
			t.Errorf("%s grants nothing", name)
		}
	}
	// admin sums edit, which sums view: reading pods must have come all the way.
	reads := func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.Resources, "pods") && slices.Contains(r.Verbs, "watch")
	}
	if !slices.ContainsFunc(roles["ClusterRole/admin"], reads) {
		t.Error("admin cannot watch pods")
	}
}
