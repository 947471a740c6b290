package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
)

var operations = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update}

// alone refuses a list in which * stands beside others.
func alone[T ~string](list []T, noun string, path *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+noun)}
	}
	return nil
}

func required[T any](list []T, path *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func validateRule(r *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	at := path.Child("operations")
	errs := append(required(r.Operations, at), alone(r.Operations, "operations", at)...)
	for i, o := range r.Operations {
		errs = append(errs, check.OneOf(o, at.Index(i), operations...)...)
	}
	at = path.Child("apiGroups")
	errs = append(errs, append(required(r.APIGroups, at), alone(r.APIGroups, "API groups", at)...)...)
	at = path.Child("apiVersions")
	errs = append(errs, append(required(r.APIVersions, at), alone(r.APIVersions, "API versions", at)...)...)
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(at.Index(i), ""))
		}
	}
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	return append(errs, oneOf(r.Scope, path.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
}

// validateResources refuses names that another name in the list covers already.
func validateResources(list []string, path *field.Path) field.ErrorList {
	errs := required(list, path)
	plain := false
	for i, r := range list {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		resource, sub, ok := strings.Cut(r, "/")
		if !ok {
			plain = r != "*"
			continue
		}
		for _, wide := range []string{resource + "/*", "*/" + sub} {
			if slices.Contains(list[:i], wide) {
				errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '%s' is present, must not specify %s", wide, r)))
			}
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		errs = append(errs, field.Invalid(path, list, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(list, "*") {
		errs = append(errs, field.Invalid(path, list, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

func defaultMatchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	defaultMatching(&m.MatchPolicy, &m.NamespaceSelector, &m.ObjectSelector)
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			setDefault(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func validateMatchResources(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	errs := requiredOneOf(m.MatchPolicy, path.Child("matchPolicy"), matchPolicies...)
	if m.NamespaceSelector == nil {
		errs = append(errs, field.Required(path.Child("namespaceSelector"), ""))
	} else {
		errs = append(errs, check.Selector(m.NamespaceSelector, false, path.Child("namespaceSelector"))...)
	}
	if m.ObjectSelector == nil {
		errs = append(errs, field.Required(path.Child("objectSelector"), ""))
	} else {
		errs = append(errs, check.Selector(m.ObjectSelector, false, path.Child("objectSelector"))...)
	}
	errs = append(errs, validateNamedRules(m.ResourceRules, path.Child("resourceRules"))...)
	return append(errs, validateNamedRules(m.ExcludeResourceRules, path.Child("excludeResourceRules"))...)
}

func validateNamedRules(rules []admissionv1.NamedRuleWithOperations, path *field.Path) (errs field.ErrorList) {
	for i := range rules {
		names, at := rules[i].ResourceNames, path.Index(i).Child("resourceNames")
		for j, name := range names {
			errs = append(errs, check.Each(at.Index(j), name, content.IsPathSegmentName(name))...)
			if slices.Contains(names[:j], name) {
				errs = append(errs, field.Duplicate(at.Index(j), name))
			}
		}
		errs = append(errs, validateRule(&rules[i].RuleWithOperations, path.Index(i))...)
	}
	return errs
}

// validateNoDelete refuses the operation that leaves nothing to change.
func validateNoDelete(m *admissionv1.MatchResources, path *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	for i := range m.ResourceRules {
		for _, o := range m.ResourceRules[i].Operations {
			errs = append(errs, check.OneOf(o, path.Child("resourceRules", "operations"),
				admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}

// validateGroupVersion checks the two parts of an API version as an APIService's are.
func validateGroupVersion(whole, group, version string, path *field.Path) (errs field.ErrorList) {
	if group != "" {
		if wrong := utilvalidation.IsDNS1123Subdomain(group); len(wrong) > 0 {
			errs = append(errs, field.Invalid(path, group, strings.Join(wrong, ",")))
		}
	}
	if version == "" {
		return append(errs, field.Invalid(path, whole, "version must be specified"))
	}
	if wrong := dnsLabel1035(version); wrong != "" {
		errs = append(errs, field.Invalid(path, version, wrong))
	}
	return errs
}

func dnsLabel1035(s string) string { return strings.Join(utilvalidation.IsDNS1035Label(s), ",") }
