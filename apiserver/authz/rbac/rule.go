package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows tells whether the rule covers the request.
func allows(rule *rbacv1.PolicyRule, at authorizer.Attributes) bool {
	if !has(rule.Verbs, at.GetVerb()) {
		return false
	}
	if !at.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
			return matchesPath(pattern, at.GetPath())
		})
	}
	return has(rule.APIGroups, at.GetAPIGroup()) &&
		hasResource(rule.Resources, at.GetResource(), at.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, at.GetName()))
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s || x == rbacv1.ResourceAll {
			return true
		}
	}
	return false
}

// hasResource: "*" is everything, "pods/log" one subresource, "*/scale" that
// subresource of all.
func hasResource(list []string, resource, sub string) bool {
	for _, x := range list {
		if x == rbacv1.ResourceAll {
			return true
		}
		if sub == "" {
			if x == resource {
				return true
			}
			continue
		}
		base, xsub, ok := strings.Cut(x, "/")
		if ok && xsub == sub && (base == resource || base == "*") {
			return true
		}
	}
	return false
}

// matchesPath: a trailing star matches any rest, anything else only itself.
func matchesPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

// Missing returns the atoms (one verb on one resource or path) of wanted that
// owned does not cover. Nobody may grant what they do not have: see "Privilege
// escalation prevention and bootstrapping" in the RBAC documentation.
func Missing(owned, wanted []rbacv1.PolicyRule) (missing []rbacv1.PolicyRule) {
	for _, rule := range wanted {
		for _, atom := range atoms(rule) {
			if !slices.ContainsFunc(owned, func(o rbacv1.PolicyRule) bool { return covers(&o, &atom) }) {
				missing = append(missing, atom)
			}
		}
	}
	return missing
}

// atoms splits a rule into rules of one verb and one group, resource and name,
// or one path.
func atoms(rule rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
	for _, verb := range rule.Verbs {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				atom := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
				if len(rule.ResourceNames) == 0 {
					out = append(out, atom)
				}
				for _, name := range rule.ResourceNames {
					atom.ResourceNames = []string{name}
					out = append(out, atom)
				}
			}
		}
		for _, path := range rule.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{path}})
		}
	}
	return out
}

// covers tells whether owner grants all of an atom.
func covers(owner, atom *rbacv1.PolicyRule) bool {
	if !has(owner.Verbs, atom.Verbs[0]) {
		return false
	}
	if len(atom.NonResourceURLs) > 0 {
		return slices.ContainsFunc(owner.NonResourceURLs, func(pattern string) bool {
			return coversPath(pattern, atom.NonResourceURLs[0])
		})
	}
	resource, sub, _ := strings.Cut(atom.Resources[0], "/")
	if !has(owner.APIGroups, atom.APIGroups[0]) || !hasResource(owner.Resources, resource, sub) {
		return false
	}
	return len(owner.ResourceNames) == 0 ||
		len(atom.ResourceNames) > 0 && slices.Contains(owner.ResourceNames, atom.ResourceNames[0])
}

// coversPath tells whether all that path matches (it may end in a star) is
// matched by pattern.
func coversPath(pattern, path string) bool {
	if pattern == path {
		return true
	}
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(strings.TrimSuffix(path, "*"), prefix)
}

// Allows tells whether one of the rules covers the request.
func Allows(rules []rbacv1.PolicyRule, at authorizer.Attributes) bool {
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return allows(&rule, at) })
}
