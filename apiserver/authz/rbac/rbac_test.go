package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{group}, Resources: strings.Split(resources, ","), ResourceNames: names}
}

func fixture() *Authorizer {
	a := New()
	for _, obj := range []api.Object{
		&rbacv1.ClusterRole{ObjectMeta: meta("", "reader"), Rules: []rbacv1.PolicyRule{rule("get,list", "", "pods,pods/log")}},
		&rbacv1.ClusterRole{ObjectMeta: meta("", "scaler"), Rules: []rbacv1.PolicyRule{rule("*", "apps", "*/scale")}},
		&rbacv1.ClusterRole{ObjectMeta: meta("", "paths"), Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/logs/*"}}}},
		&rbacv1.Role{ObjectMeta: meta("a", "one"), Rules: []rbacv1.PolicyRule{rule("update", "", "configmaps", "only")}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b1"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "devs"}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b2"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "paths"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}},
		&rbacv1.RoleBinding{ObjectMeta: meta("a", "b3"), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "one"}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot"}}},
		&rbacv1.RoleBinding{ObjectMeta: meta("a", "b4"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "scaler"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}},
	} {
		a.Apply(obj, false)
	}
	return a
}

func ask(a *Authorizer, who, verb, what string) bool {
	at := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: who, Groups: []string{who + "-group"}}, Verb: verb}
	if who == "dev" {
		at.User = &user.DefaultInfo{Name: "dev", Groups: []string{"devs"}}
	}
	if strings.HasPrefix(what, "/") {
		at.Path = what
	} else { // namespace group resource subresource name
		f := strings.Split(what, " ")
		at.ResourceRequest = true
		at.Namespace, at.APIGroup, at.Resource, at.Subresource, at.Name = f[0], f[1], f[2], f[3], f[4]
	}
	d, _, _ := a.Authorize(context.Background(), at)
	return d == authorizer.DecisionAllow
}

func TestAuthorize(t *testing.T) {
	a := fixture()
	const robot = "system:serviceaccount:a:robot"
	for _, c := range []struct {
		who, verb, what string
		want            bool
	}{
		{"dev", "get", "a  pods  x", true},
		{"dev", "get", "   x ", false},
		{"dev", "get", "a  pods log x", true},
		{"dev", "get", "a  pods exec x", false},
		{"dev", "delete", "a  pods  x", false},
		{"dev", "list", " apps pods  ", false},
		{robot, "update", "a  configmaps  only", true},
		{robot, "update", "a  configmaps  other", false},
		{robot, "update", "b  configmaps  only", false},
		{robot, "update", "   configmaps only", false},
		{"eve", "patch", "a apps deployments scale web", true},
		{"eve", "patch", "a apps deployments  web", false},
		{"eve", "patch", "b apps deployments scale web", false},
		{"eve", "get", "/healthz", true},
		{"eve", "get", "/healthz/etcd", false},
		{"eve", "get", "/logs/x/y", true},
		{"eve", "post", "/healthz", false},
		{"dev", "get", "/healthz", false},
	} {
		if got := ask(a, c.who, c.verb, c.what); got != c.want {
			t.Errorf("%s %s %q: allowed=%v, want %v", c.who, c.verb, c.what, got, c.want)
		}
	}
}

func TestChangesTakeEffect(t *testing.T) {
	a := fixture()
	a.Apply(&rbacv1.ClusterRole{ObjectMeta: meta("", "reader"), Rules: []rbacv1.PolicyRule{rule("watch", "", "pods")}}, false)
	if ask(a, "dev", "get", "a  pods  x") || !ask(a, "dev", "watch", "a  pods  ") {
		t.Error("the changed role is not what decides")
	}
	a.Apply(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b1"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "zoe"}}}, false)
	if ask(a, "dev", "watch", "a  pods  ") || !ask(a, "zoe", "watch", "a  pods  ") {
		t.Error("the changed binding is not what decides")
	}
	a.Apply(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b1")}, true)
	if ask(a, "zoe", "watch", "a  pods  ") {
		t.Error("a removed binding still allows")
	}
}

// A binding of the whole cluster that names a Role gives nothing, though there is a ClusterRole of that name.
func TestClusterBindingOfARole(t *testing.T) {
	a := New()
	a.Apply(&rbacv1.ClusterRole{ObjectMeta: meta("", "reader"), Rules: []rbacv1.PolicyRule{rule("get", "", "pods")}}, false)
	a.Apply(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b"), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "ann"}}}, false)
	if ask(a, "ann", "get", "a  pods  ") {
		t.Error("a role that is not there allows")
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		name          string
		owned, wanted rbacv1.PolicyRule
		missing       int
	}{
		{"same", rule("get", "", "pods"), rule("get", "", "pods"), 0},
		{"star verb", rule("*", "", "pods"), rule("get,list", "", "pods"), 0},
		{"star wanted", rule("get", "", "pods"), rule("*", "", "pods"), 1},
		{"star resource covers subresources", rule("get", "", "*"), rule("get", "", "pods/log,pods"), 0},
		{"resource does not cover its subresource", rule("get", "", "pods"), rule("get", "", "pods/log"), 1},
		{"names narrow", rule("get", "", "pods", "x"), rule("get", "", "pods", "x", "y"), 1},
		{"all names wanted", rule("get", "", "pods", "x"), rule("get", "", "pods"), 1},
		{"other group", rule("get", "apps", "*"), rule("get", "", "pods"), 1},
		{"paths", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/a/*"}}, rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/a/b", "/a/c/*", "/*"}}, 1},
	} {
		if got := Missing([]rbacv1.PolicyRule{c.owned}, []rbacv1.PolicyRule{c.wanted}); len(got) != c.missing {
			t.Errorf("%s: missing %v, want %d", c.name, got, c.missing)
		}
	}
}

func TestCheckEscalation(t *testing.T) {
	a := fixture()
	a.Apply(&rbacv1.ClusterRole{ObjectMeta: meta("", "binder"), Rules: []rbacv1.PolicyRule{rule("bind", rbacv1.GroupName, "clusterroles", "paths")}}, false)
	a.Apply(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "b5"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "binder"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "devs"}}}, false)
	dev := &user.DefaultInfo{Name: "dev", Groups: []string{"devs"}}
	check := func(obj api.Object) error {
		return a.CheckEscalation(context.Background(), a, dev, api.Of(obj), obj, nil)
	}
	if err := check(&rbacv1.Role{ObjectMeta: meta("a", "r"), Rules: []rbacv1.PolicyRule{rule("get", "", "pods")}}); err != nil {
		t.Errorf("granting what one has: %v", err)
	}
	err := check(&rbacv1.Role{ObjectMeta: meta("a", "r"), Rules: []rbacv1.PolicyRule{rule("delete", "", "pods")}})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`) {
		t.Errorf("granting more than one has: %v", err)
	}
	if err := check(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "x"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "paths"}}); err != nil {
		t.Errorf("binding what one may bind: %v", err)
	}
	if err := check(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "x"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "scaler"}}); !apierrors.IsForbidden(err) {
		t.Errorf("binding what one does not have: %v", err)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	a := fixture()
	at := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "dev", Groups: []string{"devs", "system:authenticated"}}, Verb: "get", Resource: "pods", Namespace: "a", Name: "x", ResourceRequest: true}
	b.ReportAllocs()
	for range b.N {
		if d, _, _ := a.Authorize(context.Background(), at); d != authorizer.DecisionAllow {
			b.Fatal("refused")
		}
	}
}
