package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// RoleBinding is rbac.authorization.k8s.io/v1 RoleBinding.
var RoleBinding = kind.Of(kind.Spec[*rbacv1.RoleBinding]{
	New:          func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
	NewList:      func() runtime.Object { return &rbacv1.RoleBindingList{} },
	Default:      func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	ValidateName: validateName,
	Validate:     func(b *rbacv1.RoleBinding) field.ErrorList { return validateBinding(&b.RoleRef, b.Subjects, true) },
	ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
		return append(validateBinding(&b.RoleRef, b.Subjects, true),
			validation.ValidateImmutableField(b.RoleRef, old.RoleRef, field.NewPath("roleRef"))...)
	},
	Columns: bindingColumns("roleBinding", rbacv1beta1.RoleBinding{}.SwaggerDoc()["roleRef"]),
	Row: func(b *rbacv1.RoleBinding) []any {
		return bindingRow(b.Name, b.CreationTimestamp, &b.RoleRef, b.Subjects)
	},
	AllowCreateOnUpdate: true,
})

// ClusterRoleBinding is rbac.authorization.k8s.io/v1 ClusterRoleBinding.
var ClusterRoleBinding = kind.Of(kind.Spec[*rbacv1.ClusterRoleBinding]{
	New:          func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
	NewList:      func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	Default:      func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	ValidateName: validateName,
	Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return validateBinding(&b.RoleRef, b.Subjects, false)
	},
	ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
		return append(validateBinding(&b.RoleRef, b.Subjects, false),
			validation.ValidateImmutableField(b.RoleRef, old.RoleRef, field.NewPath("roleRef"))...)
	},
	Columns: bindingColumns("clusterRoleBinding", rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"]),
	Row: func(b *rbacv1.ClusterRoleBinding) []any {
		return bindingRow(b.Name, b.CreationTimestamp, &b.RoleRef, b.Subjects)
	},
	AllowCreateOnUpdate: true,
})

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		s := &subjects[i]
		if s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	path := field.NewPath("roleRef")
	kinds := []string{"Role", "ClusterRole"}
	if !namespaced {
		kinds = kinds[1:]
	}
	errs := check.OneOf(ref.APIGroup, path.Child("apiGroup"), rbacv1.GroupName)
	errs = append(errs, check.OneOf(ref.Kind, path.Child("kind"), kinds...)...)
	if ref.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, check.Each(path.Child("name"), ref.Name, validateName(ref.Name, false))...)
	}
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, namespaced bool, path *field.Path) (errs field.ErrorList) {
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	group := path.Child("apiGroup")
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.GroupKind:
		return append(errs, check.OneOf(s.APIGroup, group, rbacv1.GroupName)...)
	case rbacv1.ServiceAccountKind:
	default:
		return append(errs, check.OneOf(s.Kind, path.Child("kind"), rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)...)
	}
	if s.Name != "" {
		errs = append(errs, check.Each(path.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
	}
	errs = append(errs, check.OneOf(s.APIGroup, group, "")...)
	if !namespaced && s.Namespace == "" {
		errs = append(errs, field.Required(path.Child("namespace"), ""))
	}
	return errs
}

func bindingColumns(noun, role string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		column.Name, column.String("Role", role), column.Age,
		column.Wide("Users", "Users in the "+noun),
		column.Wide("Groups", "Groups in the "+noun),
		column.Wide("ServiceAccounts", "ServiceAccounts in the "+noun),
	}
}

func bindingRow(name string, created metav1.Time, ref *rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	of := map[string][]string{}
	for _, s := range subjects {
		text := s.Name
		if s.Kind == rbacv1.ServiceAccountKind {
			text = s.Namespace + "/" + s.Name
		}
		of[s.Kind] = append(of[s.Kind], text)
	}
	join := func(kind string) string { return strings.Join(of[kind], ", ") }
	return []any{name, ref.Kind + "/" + ref.Name, column.Since(created),
		join(rbacv1.UserKind), join(rbacv1.GroupKind), join(rbacv1.ServiceAccountKind)}
}
