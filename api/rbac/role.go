package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/kind"
)

// Role is rbac.authorization.k8s.io/v1 Role.
var Role = kind.Of(kind.Spec[*rbacv1.Role]{
	New:                 func() *rbacv1.Role { return &rbacv1.Role{} },
	NewList:             func() runtime.Object { return &rbacv1.RoleList{} },
	ValidateName:        validateName,
	Validate:            func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	ValidateUpdate:      func(r, _ *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	AllowCreateOnUpdate: true,
})

// ClusterRole is rbac.authorization.k8s.io/v1 ClusterRole.
var ClusterRole = kind.Of(kind.Spec[*rbacv1.ClusterRole]{
	New:          func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
	NewList:      func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	ValidateName: validateName,
	Validate:     func(r *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r, false) },
	ValidateUpdate: func(r, old *rbacv1.ClusterRole) field.ErrorList {
		lax := false
		if old.AggregationRule != nil {
			for i := range old.AggregationRule.ClusterRoleSelectors {
				lax = lax || len(check.Selector(&old.AggregationRule.ClusterRoleSelectors[i], false, nil)) > 0
			}
		}
		return validateClusterRole(r, lax)
	},
	AllowCreateOnUpdate: true,
})

// validateName takes all that can stand in a URL's path: names of roles have
// colons and capitals.
func validateName(name string, _ bool) []string { return content.IsPathSegmentName(name) }

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) (errs field.ErrorList) {
	for i := range rules {
		errs = append(errs, validateRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *rbacv1.PolicyRule, namespaced bool, path *field.Path) (errs field.ErrorList) {
	if len(r.Verbs) == 0 {
		errs = append(errs, field.Required(path.Child("verbs"), ""))
	}
	if len(r.NonResourceURLs) > 0 {
		at := path.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(at, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(at, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func validateClusterRole(r *rbacv1.ClusterRole, lax bool) field.ErrorList {
	errs := validateRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	selectors := r.AggregationRule.ClusterRoleSelectors
	if len(selectors) == 0 {
		errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range selectors {
		errs = append(errs, check.Selector(&selectors[i], lax, path.Index(i))...)
		if _, ok := check.Selects(&selectors[i], nil); !ok {
			errs = append(errs, field.Invalid(path.Index(i), selectors[i], "invalid label selector."))
		}
	}
	return errs
}
