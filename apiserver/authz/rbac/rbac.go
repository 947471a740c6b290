// Package rbac decides requests by the cluster's roles and bindings
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/). It keeps an
// index from subjects to bindings, fed with every change of the four kinds by
// apiserver, and looks nowhere else.
package rbac

import (
	"context"
	"fmt"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// Authorizer answers whether roles and bindings allow a request. It allows or
// has no opinion; it never denies. Safe for concurrent use.
type Authorizer struct {
	mu sync.RWMutex // guards all below
	// roles by namespace ("" for cluster roles) and name.
	roles map[place][]rbacv1.PolicyRule
	// bindings by what they bind to: the index that a request goes through.
	bySubject map[subject]map[place]rbacv1.RoleRef
	// subjects of each binding, to take it out of the index again.
	bound map[place][]subject
}

// place is a namespace ("" for cluster scope) and a name.
type place struct{ namespace, name string }

// subject is a user or group within a binding's namespace ("" for all).
type subject struct {
	namespace string
	kind      string // rbacv1.UserKind or rbacv1.GroupKind; service accounts are users
	name      string
}

// New returns an Authorizer that allows nothing yet.
func New() *Authorizer {
	return &Authorizer{
		roles:     map[place][]rbacv1.PolicyRule{},
		bySubject: map[subject]map[place]rbacv1.RoleRef{},
		bound:     map[place][]subject{},
	}
}

// Apply takes in one change of a Role, ClusterRole, RoleBinding or
// ClusterRoleBinding: removed tells that obj is gone.
func (a *Authorizer) Apply(obj api.Object, removed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := place{obj.GetNamespace(), obj.GetName()}
	switch o := obj.(type) {
	case *rbacv1.Role:
		a.setRoleLocked(at, o.Rules, removed)
	case *rbacv1.ClusterRole:
		a.setRoleLocked(at, o.Rules, removed)
	case *rbacv1.RoleBinding:
		a.setBindingLocked(at, o.Subjects, o.RoleRef, removed)
	case *rbacv1.ClusterRoleBinding:
		a.setBindingLocked(at, o.Subjects, o.RoleRef, removed)
	}
}

func (a *Authorizer) setRoleLocked(at place, rules []rbacv1.PolicyRule, removed bool) {
	if removed {
		delete(a.roles, at)
		return
	}
	a.roles[at] = rules
}

func (a *Authorizer) setBindingLocked(at place, subjects []rbacv1.Subject, ref rbacv1.RoleRef, removed bool) {
	for _, s := range a.bound[at] {
		delete(a.bySubject[s], at)
		if len(a.bySubject[s]) == 0 {
			delete(a.bySubject, s)
		}
	}
	delete(a.bound, at)
	if removed {
		return
	}
	for _, s := range subjects {
		key := subject{at.namespace, s.Kind, s.Name}
		if s.Kind == rbacv1.ServiceAccountKind {
			namespace := s.Namespace
			if namespace == "" {
				namespace = at.namespace
			}
			if namespace == "" {
				continue // names nobody
			}
			key.kind, key.name = rbacv1.UserKind, serviceaccount.MakeUsername(namespace, s.Name)
		}
		if a.bySubject[key] == nil {
			a.bySubject[key] = map[place]rbacv1.RoleRef{}
		}
		a.bySubject[key][at] = ref
		a.bound[at] = append(a.bound[at], key)
	}
}

// grants calls yield with every rule that u has in namespace ("": cluster-wide
// only), and the role and binding it comes from, until yield returns false.
func (a *Authorizer) grants(u user.Info, namespace string, yield func(binding place, ref rbacv1.RoleRef, rule *rbacv1.PolicyRule) bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	scopes := []string{""}
	if namespace != "" {
		scopes = append(scopes, namespace)
	}
	for _, scope := range scopes {
		if !a.grantsToLocked(subject{scope, rbacv1.UserKind, u.GetName()}, yield) {
			return
		}
		for _, group := range u.GetGroups() {
			if !a.grantsToLocked(subject{scope, rbacv1.GroupKind, group}, yield) {
				return
			}
		}
	}
}

func (a *Authorizer) grantsToLocked(s subject, yield func(place, rbacv1.RoleRef, *rbacv1.PolicyRule) bool) bool {
	for binding, ref := range a.bySubject[s] {
		rules, _ := a.rulesLocked(ref, binding.namespace)
		for i := range rules {
			if !yield(binding, ref, &rules[i]) {
				return false
			}
		}
	}
	return true
}

// Authorize implements authorizer.UnconditionalAuthorizer.
func (a *Authorizer) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	decision, reason := authorizer.DecisionNoOpinion, ""
	namespace := ""
	if at.IsResourceRequest() {
		namespace = at.GetNamespace()
	}
	a.grants(at.GetUser(), namespace, func(binding place, ref rbacv1.RoleRef, rule *rbacv1.PolicyRule) bool {
		if !allows(rule, at) {
			return true
		}
		decision, reason = authorizer.DecisionAllow, allowedBy(at.GetUser(), binding, ref)
		return false
	})
	return decision, reason, nil
}

// allowedBy says which binding allowed, in the words that `kubectl auth can-i`
// and audit logs show.
func allowedBy(u user.Info, binding place, ref rbacv1.RoleRef) string {
	if binding.namespace == "" {
		return fmt.Sprintf("RBAC: allowed by ClusterRoleBinding %q of %s %q to %q", binding.name, ref.Kind, ref.Name, u.GetName())
	}
	return fmt.Sprintf("RBAC: allowed by RoleBinding %q of %s %q to %q", binding.name+"/"+binding.namespace, ref.Kind, ref.Name, u.GetName())
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; RBAC has no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, at authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, at))
}

// EvaluateConditions implements authorizer.Authorizer; RBAC has no conditions.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver: all rules of a user in a namespace.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for _, rule := range a.Rules(u, namespace) {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, paths, false, nil
}

// Rules returns what u may do in namespace ("": cluster-wide only), each rule of
// a binding once, also where several of its subjects are u. The slices inside are
// shared: read only.
func (a *Authorizer) Rules(u user.Info, namespace string) (rules []rbacv1.PolicyRule) {
	type source struct {
		binding place
		rule    *rbacv1.PolicyRule
	}
	seen := map[source]bool{}
	a.grants(u, namespace, func(binding place, _ rbacv1.RoleRef, rule *rbacv1.PolicyRule) bool {
		if !seen[source{binding, rule}] {
			seen[source{binding, rule}] = true
			rules = append(rules, *rule)
		}
		return true
	})
	return rules
}

// RoleRules returns the rules of the role that ref names, seen from namespace
// ("" for a cluster role binding), and whether there is such a role.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.rulesLocked(ref, namespace)
}

func (a *Authorizer) rulesLocked(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	at := place{name: ref.Name}
	if ref.Kind == "Role" {
		if namespace == "" {
			return nil, false // there are no roles outside of namespaces; a cluster role of the name is none
		}
		at.namespace = namespace
	}
	rules, ok := a.roles[at]
	return rules, ok
}
