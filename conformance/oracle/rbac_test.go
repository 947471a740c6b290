package oracle

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacvalidation "k8s.io/component-helpers/auth/rbac/validation"
	upstreamresolver "k8s.io/kubernetes/pkg/registry/rbac/validation"
	upstreamrbac "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"skiff/apiserver/authz/rbac"
)

// TestAccess asks both sides the same questions about the same random roles and bindings: whether a request is
// allowed, which rules a user has, and whether rules cover others.
func TestAccess(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))
	t.Logf("ORACLE_SEED=%d ORACLE_N=%d", seed, n)
	r := &access{rand.New(rand.NewSource(seed))}
	for range n {
		r.compare()
	}
	results.report(t, "access")
}

type access struct{ *rand.Rand }

func (r *access) one(of ...string) string { return of[r.Intn(len(of))] }

func (r *access) some(least int, of ...string) (out []string) {
	for range least + r.Intn(3) {
		out = append(out, r.one(of...))
	}
	return out
}

func (r *access) namespace() string { return r.one("a", "b") }
func (r *access) verb() string      { return r.one("get", "list", "create", "*", "watch") }
func (r *access) resource() string {
	return r.one("pods", "pods/log", "*/log", "*", "deployments", "pods/*", "deployments/scale", "*/scale")
}

func (r *access) rules() (out []rbacv1.PolicyRule) {
	for range r.Intn(4) {
		if r.Intn(4) == 0 {
			out = append(out, rbacv1.PolicyRule{Verbs: r.some(1, "get", "*", "post"), NonResourceURLs: r.some(1, "*", "/api", "/api/*", "/healthz", "/api/v1*", "/*")})
			continue
		}
		rule := rbacv1.PolicyRule{APIGroups: r.some(1, "", "apps", "*")}
		for range 1 + r.Intn(2) {
			rule.Verbs, rule.Resources = append(rule.Verbs, r.verb()), append(rule.Resources, r.resource())
		}
		if r.Intn(3) == 0 {
			rule.ResourceNames = r.some(1, "x", "y", "")
		}
		out = append(out, rule)
	}
	return out
}

func (r *access) subjects() (out []rbacv1.Subject) {
	for range r.Intn(3) {
		out = append(out, rbacv1.Subject{Kind: r.one("User", "Group", "ServiceAccount"), Name: r.one("ann", "bob", "dev", "*", "system:serviceaccount:a:ann"),
			Namespace: r.one("", "a", "b"), APIGroup: r.one("", rbacv1.GroupName)})
	}
	return out
}

// compare makes one small cluster of roles and asks about it.
func (r *access) compare() {
	roles, clusterRoles, bindings, clusterBindings := []*rbacv1.Role{}, []*rbacv1.ClusterRole{}, []*rbacv1.RoleBinding{}, []*rbacv1.ClusterRoleBinding{}
	ours := rbac.New()
	for i := range 2 {
		clusterRoles = append(clusterRoles, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}, Rules: r.rules()})
		ours.Apply(clusterRoles[i], false)
		for _, ns := range []string{"a", "b"} {
			role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("r", i), Namespace: ns}, Rules: r.rules()}
			roles = append(roles, role)
			ours.Apply(role, false)
		}
	}
	for i := range 3 {
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", i)}, Subjects: r.subjects(),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: r.one("ClusterRole", "ClusterRole", "Role"), Name: r.one("c0", "c1", "r0", "none")}}
		clusterBindings = append(clusterBindings, b)
		ours.Apply(b, false)
		nb := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", i), Namespace: r.namespace()}, Subjects: r.subjects(),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: r.one("ClusterRole", "Role"), Name: r.one("c0", "c1", "r0", "r1", "none")}}
		bindings = append(bindings, nb)
		ours.Apply(nb, false)
	}
	resolver, getters := upstreamresolver.NewTestRuleResolver(roles, bindings, clusterRoles, clusterBindings)
	theirs := upstreamrbac.New(getters, getters, getters, getters)
	world := func() string {
		return short(map[string]any{"clusterRoles": clusterRoles, "roles": roles, "clusterRoleBindings": clusterBindings, "roleBindings": bindings})
	}
	for range 40 {
		at := r.question()
		want, _, _ := theirs.Authorize(context.Background(), at)
		have, _, _ := ours.Authorize(context.Background(), at)
		difference := ""
		if want != have {
			difference = fmt.Sprintf("  upstream %v, skiff %v of %s", want, have, short(at))
		}
		results.count("access", "decision", difference, world)
	}
	for range 4 {
		at := r.question()
		want, _ := resolver.RulesFor(context.Background(), at.User, at.Namespace)
		results.count("access", "rules", sameSets(texts(want), texts(ours.Rules(at.User, at.Namespace))), world)
	}
	owned, wanted := r.rules(), r.rules()
	_, want := rbacvalidation.Covers(owned, wanted)
	results.count("access", "escalation", sameSets(texts(want), texts(rbac.Missing(owned, wanted))), func() string { return short(owned) + "\n  wanted " + short(wanted) })
}

func (r *access) question() authorizer.AttributesRecord {
	who := &user.DefaultInfo{Name: r.one("ann", "bob", "system:serviceaccount:a:ann", "*"), Groups: r.some(0, "dev", "system:authenticated", "*", "ann")}
	if r.Intn(5) == 0 {
		return authorizer.AttributesRecord{User: who, Verb: r.one("get", "post"), Path: r.one("/api", "/api/v1", "/healthz", "/", "/api/")}
	}
	resource, sub, _ := strings.Cut(r.one("pods", "pods/log", "deployments", "deployments/scale"), "/")
	return authorizer.AttributesRecord{User: who, Verb: r.one("get", "list", "create", "delete"), Namespace: r.one("a", "b", ""), APIGroup: r.one("", "apps"),
		Resource: resource, Subresource: sub, Name: r.one("", "x", "y"), ResourceRequest: true}
}

func texts[T any](list []T) (out []string) {
	for _, e := range list {
		out = append(out, short(e))
	}
	return out
}
