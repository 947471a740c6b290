package flow

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Digest is what schemas can tell requests apart by.
type Digest struct {
	User user.Info
	Verb string

	// Of a request for a resource.
	IsResource                              bool
	Group, Resource, Subresource, Namespace string
	// Of another one.
	Path string
}

// Classify finds the first schema that a request matches. What none matches, the
// last one takes: catch-all.
func (c *Controller) Classify(d Digest) Class {
	c.mu.Lock()
	schemas := c.schemas // replaced as a whole, never changed
	c.mu.Unlock()
	for i, s := range schemas {
		if i < len(schemas)-1 && !s.matches(&d) {
			continue
		}
		class := Class{Schema: s.Name, SchemaUID: s.UID, Level: s.level.name, LevelUID: s.level.uid, level: s.level}
		if by := s.Spec.DistinguisherMethod; by != nil {
			switch by.Type {
			case flowcontrolv1.FlowDistinguisherMethodByUserType:
				class.flow = d.User.GetName()
			case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
				class.flow = d.Namespace
			}
		}
		return class
	}
	return Class{}
}

func (s *schema) matches(d *Digest) bool {
	for i := range s.Spec.Rules {
		rule := &s.Spec.Rules[i]
		if !slices.ContainsFunc(rule.Subjects, func(subject flowcontrolv1.Subject) bool { return is(d.User, &subject) }) {
			continue
		}
		if d.IsResource && slices.ContainsFunc(rule.ResourceRules, func(r flowcontrolv1.ResourcePolicyRule) bool { return asks(d, &r) }) ||
			!d.IsResource && slices.ContainsFunc(rule.NonResourceRules, func(r flowcontrolv1.NonResourcePolicyRule) bool { return goes(d, &r) }) {
			return true
		}
	}
	return false
}

// is tells whether a user is a subject.
func is(u user.Info, subject *flowcontrolv1.Subject) bool {
	switch {
	case subject.Kind == flowcontrolv1.SubjectKindUser && subject.User != nil:
		return subject.User.Name == "*" || subject.User.Name == u.GetName()
	case subject.Kind == flowcontrolv1.SubjectKindGroup && subject.Group != nil:
		return subject.Group.Name == "*" || slices.Contains(u.GetGroups(), subject.Group.Name)
	case subject.Kind == flowcontrolv1.SubjectKindServiceAccount && subject.ServiceAccount != nil:
		account := subject.ServiceAccount
		if account.Name == "*" {
			rest, ok := strings.CutPrefix(u.GetName(), serviceaccount.ServiceAccountUsernamePrefix)
			namespace, _, named := strings.Cut(rest, ":")
			return ok && named && namespace == account.Namespace
		}
		return serviceaccount.MatchesUsername(account.Namespace, account.Name, u.GetName())
	}
	return false
}

// asks tells whether a rule speaks of what the request does with a resource.
func asks(d *Digest, rule *flowcontrolv1.ResourcePolicyRule) bool {
	if !names(rule.Verbs, d.Verb) || !names(rule.APIGroups, d.Group) {
		return false
	}
	resource := d.Resource
	if d.Subresource != "" {
		resource += "/" + d.Subresource
	}
	if !names(rule.Resources, resource) {
		return false
	}
	if d.Namespace == "" {
		return rule.ClusterScope
	}
	return names(rule.Namespaces, d.Namespace)
}

// goes tells whether a rule speaks of the request's path.
func goes(d *Digest, rule *flowcontrolv1.NonResourcePolicyRule) bool {
	return names(rule.Verbs, d.Verb) && slices.ContainsFunc(rule.NonResourceURLs, func(path string) bool {
		if path == "*" || path == d.Path {
			return true
		}
		below := strings.TrimSuffix(path, "*")
		if !strings.HasSuffix(below, "/") {
			below += "/"
		}
		return strings.HasPrefix(d.Path, below)
	})
}

// names tells whether a list has a word, or is the one that means all.
func names(list []string, word string) bool {
	return len(list) == 1 && list[0] == "*" || slices.Contains(list, word)
}

// withMandatory adds what every server must have, where it is missing. Broken
// levels, which validation does not let pass, are left out.
func withMandatory(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) ([]*flowcontrolv1.FlowSchema, []*flowcontrolv1.PriorityLevelConfiguration) {
	levels = slices.DeleteFunc(slices.Clone(levels), func(l *flowcontrolv1.PriorityLevelConfiguration) bool {
		return (l.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited) != (l.Spec.Limited != nil)
	})
	for _, must := range bootstrap.MandatoryPriorityLevelConfigurations {
		if !slices.ContainsFunc(levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == must.Name }) {
			levels = append(levels, must)
		}
	}
	schemas = slices.Clone(schemas)
	for _, must := range bootstrap.MandatoryFlowSchemas {
		if !slices.ContainsFunc(schemas, func(s *flowcontrolv1.FlowSchema) bool { return s.Name == must.Name }) {
			schemas = append(schemas, must)
		}
	}
	return schemas, levels
}
