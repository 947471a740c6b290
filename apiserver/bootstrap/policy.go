package bootstrap

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

//go:embed policy.txt
var policyText string

// Policy returns the roles and bindings of policy.txt, those that others are
// summed from before the sums, so that they can be written in order.
func Policy() ([]api.Object, error) {
	p := policyParser{}
	for i, line := range strings.Split(policyText, "\n") {
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("policy.txt line %d: %w", i+1, err)
		}
	}
	p.sum()
	return p.objects, nil
}

// policyParser reads policy.txt line by line; the notation is explained there.
type policyParser struct {
	objects []api.Object
	rules   *[]rbacv1.PolicyRule // of the role whose lines are being read
}

func (p *policyParser) line(line string) error {
	switch {
	case line == "" || strings.HasPrefix(line, "#"):
		return nil
	case strings.HasPrefix(line, "  "):
		rule, err := parseRule(strings.TrimSpace(line))
		if err == nil {
			*p.rules = append(*p.rules, rule)
		}
		return err
	case strings.Contains(line, " -> "):
		obj, err := parseBinding(line)
		if err == nil {
			p.objects = append(p.objects, obj)
		}
		return err
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return fmt.Errorf("%q is neither a role, a rule nor a binding", line)
	}
	meta := objectMeta(words[1])
	if words[0] == "role" {
		role := &rbacv1.Role{ObjectMeta: meta}
		p.rules, p.objects = &role.Rules, append(p.objects, role)
		return nil
	}
	role := &rbacv1.ClusterRole{ObjectMeta: meta}
	for _, word := range words[2:] {
		if label, ok := strings.CutPrefix(word, "sum-of:"); ok {
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{aggregateLabel(label): "true"}},
			}}
			continue
		}
		role.Labels[aggregateLabel(word)] = "true"
	}
	p.rules, p.objects = &role.Rules, append(p.objects, role)
	return nil
}

// sum fills the roles that are sums of others, so that they grant their rights
// from the first request on; the clusterrole-aggregation controller keeps them.
func (p *policyParser) sum() {
	// Three rounds, since admin sums edit, which sums view, which is a sum.
	for range 3 {
		for _, obj := range p.objects {
			role, ok := obj.(*rbacv1.ClusterRole)
			if !ok || role.AggregationRule == nil {
				continue
			}
			role.Rules = nil
			for label := range role.AggregationRule.ClusterRoleSelectors[0].MatchLabels {
				role.Rules = append(role.Rules, p.labelled(label)...)
			}
		}
	}
}

func (p *policyParser) labelled(label string) (rules []rbacv1.PolicyRule) {
	for _, obj := range p.objects {
		if role, ok := obj.(*rbacv1.ClusterRole); ok && role.Labels[label] == "true" {
			rules = append(rules, role.Rules...)
		}
	}
	return rules
}

func aggregateLabel(name string) string { return "rbac.authorization.k8s.io/" + name }

// objectMeta of a NAME or NAMESPACE/NAME, marked as upstream marks what it
// keeps up to date itself.
func objectMeta(name string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		meta.Namespace, meta.Name = ns, rest
	}
	return meta
}

var verbWords = map[string]string{
	"read":      "get,list,watch",
	"write":     "create,delete,deletecollection,patch,update",
	"all-verbs": "create,delete,deletecollection,get,list,patch,update,watch",
}

func parseRule(line string) (rule rbacv1.PolicyRule, err error) {
	if verbs, paths, ok := strings.Cut(line, " url "); ok {
		return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), NonResourceURLs: strings.Fields(paths)}, nil
	}
	verbs, rest, ok := strings.Cut(line, " in ")
	groups, resources, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 {
		return rule, fmt.Errorf("%q is not VERBS in GROUPS: RESOURCES", line)
	}
	if full, ok := verbWords[verbs]; ok {
		verbs = full
	}
	rule.Verbs = strings.Split(verbs, ",")
	for _, group := range strings.Split(groups, ",") {
		if group == "core" {
			group = ""
		}
		rule.APIGroups = append(rule.APIGroups, group)
	}
	resources, names, _ := strings.Cut(resources, " named ")
	rule.Resources = strings.Fields(resources)
	rule.ResourceNames = strings.Fields(names)
	return rule, nil
}

func parseBinding(line string) (api.Object, error) {
	parts := strings.Split(line, " : ")
	words := strings.Fields(parts[0]) // clusterrolebinding NAME -> clusterrole NAME
	if len(words) != 5 {
		return nil, fmt.Errorf("%q is not KIND NAME -> KIND NAME", parts[0])
	}
	meta := objectMeta(words[1])
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: words[4]}
	if words[3] == "role" {
		ref.Kind = "Role"
	}
	var subjects []rbacv1.Subject
	for _, part := range parts[1:] {
		kind, name, _ := strings.Cut(part, " ")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name})
		case "group":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name})
		case "serviceaccount":
			ns, name, _ := strings.Cut(name, "/")
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: name})
		default:
			return nil, fmt.Errorf("unknown kind of subject %q", kind)
		}
	}
	if words[0] == "rolebinding" {
		return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, nil
	}
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, nil
}
