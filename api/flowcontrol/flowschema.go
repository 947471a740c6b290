package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// FlowSchema is flowcontrol.apiserver.k8s.io/v1 FlowSchema.
var FlowSchema = kind.Of(kind.Spec[*flowcontrolv1.FlowSchema]{
	NameOnUpdate: true,
	New:          func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
	NewList:      func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
	Default: func(s *flowcontrolv1.FlowSchema) {
		if s.Spec.MatchingPrecedence == 0 {
			s.Spec.MatchingPrecedence = 1000
		}
	},
	Create:         func(s *flowcontrolv1.FlowSchema) { s.Status = flowcontrolv1.FlowSchemaStatus{} },
	Update:         func(s, old *flowcontrolv1.FlowSchema) { s.Status = old.Status },
	Intent:         func(s *flowcontrolv1.FlowSchema) any { return &s.Spec },
	Validate:       validateFlowSchema,
	ValidateUpdate: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateFlowSchema(s) },
	Subs: map[string]kind.Sub[*flowcontrolv1.FlowSchema]{"status": {AnyFinalizer: true,
		Update: func(s, old *flowcontrolv1.FlowSchema) {
			s.Spec = old.Spec
			owners := s.ManagedFields
			s.ObjectMeta = old.ObjectMeta
			s.ManagedFields = owners
		},
		Validate: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchemaConditions(s) },
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
		column.String("MatchingPrecedence", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["matchingPrecedence"]),
		column.String("DistinguisherMethod", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["distinguisherMethod"]),
		column.Age,
		column.String("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
	},
	Row: func(s *flowcontrolv1.FlowSchema) []any {
		method, missing := "<none>", "?"
		if d := s.Spec.DistinguisherMethod; d != nil {
			method = string(d.Type)
		}
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				missing = string(c.Status)
				break
			}
		}
		return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, column.Since(s.CreationTimestamp), missing}
	},
})

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSchemaSpec(s.Name, &s.Spec)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !equality.Semantic.DeepEqual(s.Spec, fixed.Spec) {
			errs = append(errs, field.Invalid(path, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return append(errs, validateSchemaConditions(s)...)
}

func validateSchemaSpec(name string, s *flowcontrolv1.FlowSchemaSpec) (errs field.ErrorList) {
	path := field.NewPath("spec")
	at := path.Child("matchingPrecedence")
	switch p := s.MatchingPrecedence; {
	case p <= 0:
		errs = append(errs, field.Invalid(at, p, "must be a positive value"))
	case p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(at, p, fmt.Sprintf("must not be greater than %d", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case p == 1 && name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if d := s.DistinguisherMethod; d != nil {
		if byNamespace, byUser := flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType; d.Type != byNamespace && d.Type != byUser {
			named := struct {
				Type flowcontrolv1.FlowDistinguisherMethodType
			}{d.Type} // the message shows the whole method
			errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), named, []string{string(byNamespace), string(byUser)}))
		}
	}
	level, at := s.PriorityLevelConfiguration.Name, path.Child("priorityLevelConfiguration", "name")
	if level == "" {
		errs = append(errs, field.Required(at, "must reference a priority level"))
	} else {
		errs = append(errs, check.Each(at, level, validation.NameIsDNSSubdomain(level, false))...)
	}
	for i := range s.Rules {
		errs = append(errs, validateRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) (errs field.ErrorList) {
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateURLRule(&r.NonResourceRules[i], path.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

// validateSubject wants the part that the kind names, and no other.
func validateSubject(s *flowcontrolv1.Subject, path *field.Path) (errs field.ErrorList) {
	parts := []struct {
		name, kind string
		set        bool
		validate   func(*field.Path) field.ErrorList
	}{
		{"serviceAccount", string(flowcontrolv1.SubjectKindServiceAccount), s.ServiceAccount != nil, func(p *field.Path) field.ErrorList { return validateServiceAccount(s.ServiceAccount, p) }},
		{"user", string(flowcontrolv1.SubjectKindUser), s.User != nil, func(p *field.Path) field.ErrorList { return required(s.User.Name, p.Child("name")) }},
		{"group", string(flowcontrolv1.SubjectKindGroup), s.Group != nil, func(p *field.Path) field.ErrorList { return required(s.Group.Name, p.Child("name")) }},
	}
	if errs = check.OneOf(s.Kind, path.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser); len(errs) > 0 {
		return errs
	}
	for _, p := range parts {
		at := path.Child(p.name)
		switch mine := p.kind == string(s.Kind); {
		case mine && !p.set:
			errs = append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", p.name, p.kind)))
		case mine:
			errs = append(errs, p.validate(at)...)
		case p.set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", p.name, p.kind)))
		}
	}
	return errs
}

func required(s string, path *field.Path) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func validateServiceAccount(s *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	errs := required(s.Name, path.Child("name"))
	if s.Name != "" && s.Name != flowcontrolv1.NameAll {
		errs = append(errs, check.Each(path.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
	}
	if s.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, check.Each(path.Child("namespace"), s.Namespace, validation.ValidateNamespaceName(s.Namespace, false))...)
}

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateVerbs(list []string, path *field.Path) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(list, "*"):
		return alone(list, "verbs", path)
	}
	for _, v := range list {
		if !slices.Contains(verbs, v) {
			return field.ErrorList{field.NotSupported(path, list, verbs)}
		}
	}
	return nil
}

// alone refuses a list in which * stands beside others.
func alone(list []string, noun string, path *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+noun)}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, alone(r.APIGroups, "api groups", path.Child("apiGroups"))...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, alone(r.Resources, "resources", path.Child("resources"))...)
	at := path.Child("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		return append(errs, field.Required(at, "resource rules that are not cluster scoped must supply at least one namespace"))
	case slices.Contains(r.Namespaces, "*"):
		return append(errs, alone(r.Namespaces, "namespaces", at)...)
	}
	for i, name := range r.Namespaces {
		for _, m := range validation.ValidateNamespaceName(name, false) {
			errs = append(errs, field.Invalid(at.Index(i), name, "each member of this list must be '*' or a DNS-1123 label; "+m))
		}
	}
	return errs
}

func validateURLRule(r *flowcontrolv1.NonResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	at := path.Child("nonResourceURLs")
	switch {
	case len(r.NonResourceURLs) == 0:
		return append(errs, field.Required(at, "nonResourceURLs must contain at least one value"))
	case slices.Contains(r.NonResourceURLs, "*"):
		return append(errs, alone(r.NonResourceURLs, "non-resource URLs", at)...)
	}
	for i, url := range r.NonResourceURLs {
		if wrong := urlProblem(url); wrong != "" {
			errs = append(errs, field.Invalid(at.Index(i), url, wrong))
		}
	}
	return errs
}

func urlProblem(url string) string {
	stars := strings.Count(url, "*")
	switch {
	case url == "":
		return "must not be empty"
	case url == "/":
		return ""
	case !strings.HasPrefix(url, "/"):
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(url, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateSchemaConditions(s *flowcontrolv1.FlowSchema) field.ErrorList {
	types := make([]string, len(s.Status.Conditions))
	for i, c := range s.Status.Conditions {
		types[i] = string(c.Type)
	}
	return validateConditionTypes(types)
}

// validateConditionTypes wants each condition's type to be there, and once.
func validateConditionTypes(types []string) (errs field.ErrorList) {
	for i, t := range types {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		if slices.Contains(types[:i], t) {
			errs = append(errs, field.Duplicate(at, t))
		}
		errs = append(errs, required(t, at)...)
	}
	return errs
}
