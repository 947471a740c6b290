package apiserver

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/apiserver/authz/rbac"
)

// "A user can only create/update a role if they already have all the permissions
// contained in the role" (RBAC: privilege escalation prevention).
func TestRolesCannotGiveMoreThanTheirWriterHas(t *testing.T) {
	s := &Server{}
	s.rbac = rbac.New()
	s.authz = s.rbac
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "r"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}},
	}}
	w := &admission.Write{User: &user.DefaultInfo{Name: "eve"}, Verb: "create", Resource: api.Of(role), Object: role}
	if err := s.checkEscalation(t.Context(), w); !apierrors.IsForbidden(err) {
		t.Errorf("eve grants what she does not have: %v", err)
	}
	w.User = &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}
	if err := s.checkEscalation(t.Context(), w); err != nil {
		t.Errorf("an administrator may not: %v", err)
	}
}
