package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// CheckEscalation refuses a role or binding that would give rights which the
// user does not have: it returns a Forbidden Status. az answers whether the user
// holds the verbs escalate (roles) or bind (bindings), which lift the rule. obj
// is of one of the four kinds, else nothing is checked; old is nil on create.
func (a *Authorizer) CheckEscalation(ctx context.Context, az authorizer.Authorizer, u user.Info, r *api.Resource, obj, old api.Object) error {
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	var wanted []rbacv1.PolicyRule
	verb, target := "escalate", r.Name
	name := obj.GetName()
	switch o := obj.(type) {
	case *rbacv1.Role:
		wanted = o.Rules
	case *rbacv1.ClusterRole:
		wanted = o.Rules
		if o.AggregationRule != nil {
			// What will be summed is not known: only who may do all may say it.
			wanted = []rbacv1.PolicyRule{
				{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}},
				{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}},
			}
			if was, ok := old.(*rbacv1.ClusterRole); ok && sameSum(was, o) {
				wanted = o.Rules
			}
		}
	case *rbacv1.RoleBinding:
		verb, target, name, wanted = a.bindingGrants(o.RoleRef, o.Namespace)
	case *rbacv1.ClusterRoleBinding:
		verb, target, name, wanted = a.bindingGrants(o.RoleRef, "")
	default:
		return nil
	}
	decision, _, _ := az.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: obj.GetNamespace(), APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: target, Name: name, ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	missing := Missing(a.Rules(u, obj.GetNamespace()), wanted)
	if len(missing) == 0 {
		return nil
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: rbacv1.GroupName, Resource: r.Name}, obj.GetName(), escalationError(u, missing))
}

func (a *Authorizer) bindingGrants(ref rbacv1.RoleRef, namespace string) (verb, resource, name string, rules []rbacv1.PolicyRule) {
	rules, _ = a.RoleRules(ref, namespace)
	resource = "clusterroles"
	if ref.Kind == "Role" {
		resource = "roles"
	}
	return "bind", resource, ref.Name, rules
}

func sameSum(a, b *rbacv1.ClusterRole) bool {
	return a.AggregationRule != nil && a.AggregationRule.String() == b.AggregationRule.String()
}

// escalationError names what the user lacks, in the form that upstream's users know.
func escalationError(u user.Info, missing []rbacv1.PolicyRule) error {
	lines := make([]string, len(missing))
	for i, m := range missing {
		var parts []string
		for _, p := range []struct {
			label  string
			values []string
		}{
			{"APIGroups", m.APIGroups}, {"Resources", m.Resources}, {"ResourceNames", m.ResourceNames},
			{"NonResourceURLs", m.NonResourceURLs}, {"Verbs", m.Verbs},
		} {
			if len(p.values) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%q", p.label, p.values))
			}
		}
		lines[i] = "{" + strings.Join(parts, ", ") + "}"
	}
	slices.Sort(lines)
	return fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(lines, "\n"))
}
