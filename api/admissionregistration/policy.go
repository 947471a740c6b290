package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/client-go/util/jsonpath"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const (
	maxAnnotations          = 20
	maxAnnotationExpression = 5 * 1024
)

// ValidatingAdmissionPolicy is admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy.
var ValidatingAdmissionPolicy = kind.Of(kind.Spec[*admissionv1.ValidatingAdmissionPolicy]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New:          func() *admissionv1.ValidatingAdmissionPolicy { return &admissionv1.ValidatingAdmissionPolicy{} },
	NewList:      func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} },
	Default: func(p *admissionv1.ValidatingAdmissionPolicy) {
		setDefault(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultMatchResources(p.Spec.MatchConstraints)
	},
	Create: func(p *admissionv1.ValidatingAdmissionPolicy) {
		p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
	},
	Update: func(p, old *admissionv1.ValidatingAdmissionPolicy) { p.Status = old.Status },
	Intent: func(p *admissionv1.ValidatingAdmissionPolicy) any { return &p.Spec },
	Validate: func(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
		return validateValidatingPolicy(p, nil)
	},
	ValidateUpdate: func(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
		return validateValidatingPolicy(p, old)
	},
	Subs: map[string]kind.Sub[*admissionv1.ValidatingAdmissionPolicy]{"status": {AnyFinalizer: true,
		Update: func(p, old *admissionv1.ValidatingAdmissionPolicy) {
			p.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
		},
		Validate: func(p, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validatePolicyStatus(&p.Status)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Validations", "Validations indicates the number of validation rules defined in this configuration"),
		column.String("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		column.Age,
	},
	Row: func(p *admissionv1.ValidatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Validations)), paramCell(p.Spec.ParamKind), column.Since(p.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

// MutatingAdmissionPolicy is admissionregistration.k8s.io/v1 MutatingAdmissionPolicy.
var MutatingAdmissionPolicy = kind.Of(kind.Spec[*admissionv1.MutatingAdmissionPolicy]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New:          func() *admissionv1.MutatingAdmissionPolicy { return &admissionv1.MutatingAdmissionPolicy{} },
	NewList:      func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} },
	Default: func(p *admissionv1.MutatingAdmissionPolicy) {
		setDefault(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultMatchResources(p.Spec.MatchConstraints)
	},
	Intent: func(p *admissionv1.MutatingAdmissionPolicy) any { return &p.Spec },
	Validate: func(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
		return validateMutatingPolicy(&p.Spec, nil)
	},
	ValidateUpdate: func(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
		return validateMutatingPolicy(&p.Spec, &old.Spec)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
		column.String("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		column.Age,
	},
	Row: func(p *admissionv1.MutatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Mutations)), paramCell(p.Spec.ParamKind), column.Since(p.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func paramCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

// head is what both kinds of policy begin with.
type head struct {
	failure    *admissionv1.FailurePolicyType
	params     *admissionv1.ParamKind
	resources  *admissionv1.MatchResources
	conditions []admissionv1.MatchCondition
}

// validate checks it. Conditions that are as they were stored are not compiled
// again, and stored expressions may use what new ones may not.
func (h head) validate(old *head) field.ErrorList {
	path := field.NewPath("spec")
	errs := requiredOneOf(h.failure, path.Child("failurePolicy"), failurePolicies...)
	errs = append(errs, validateParamKind(h.params, path.Child("paramKind"))...)
	if h.resources == nil {
		errs = append(errs, field.Required(path.Child("matchConstraints"), ""))
	} else {
		errs = append(errs, validateMatchResources(h.resources, path.Child("matchConstraints"))...)
		errs = append(errs, required(h.resources.ResourceRules, path.Child("matchConstraints", "resourceRules"))...)
	}
	stored := map[string]bool{}
	if old != nil {
		if equality.Semantic.DeepEqual(h.params, old.params) && equality.Semantic.DeepEqual(h.conditions, old.conditions) {
			return errs
		}
		for _, c := range old.conditions {
			stored[c.Expression] = true
		}
	}
	return append(errs, validateConditions(h.conditions, h.params != nil, stored, path.Child("matchConditions"))...)
}

func validateValidatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	var was *head
	known := storedExpressions{}
	if old != nil {
		was = &head{old.Spec.FailurePolicy, old.Spec.ParamKind, old.Spec.MatchConstraints, old.Spec.MatchConditions}
		known.of(&old.Spec)
	}
	errs := head{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions}.validate(was)
	if len(s.Validations)+len(s.AuditAnnotations) == 0 {
		const atLeastOne = "validations or auditAnnotations must contain at least one item"
		errs = append(errs, field.Required(path.Child("validations"), atLeastOne), field.Required(path.Child("auditAnnotations"), atLeastOne))
	}
	compiler, err := newCompiler(len(s.Variables) > 0)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	params := s.ParamKind != nil
	errs = append(errs, validateVariables(compiler, s.Variables, params, known.validations, path.Child("variables"))...)
	for i := range s.Validations {
		errs = append(errs, validateValidation(compiler, &s.Validations[i], params, known, path.Child("validations").Index(i))...)
	}
	return append(errs, validateAnnotations(compiler, p.Name, s.AuditAnnotations, params, known.annotations, path.Child("auditAnnotations"))...)
}

// storedExpressions are those that are stored, by their use.
type storedExpressions struct{ validations, messages, annotations map[string]bool }

func (e *storedExpressions) of(s *admissionv1.ValidatingAdmissionPolicySpec) {
	e.validations, e.messages, e.annotations = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range s.Validations {
		e.validations[v.Expression], e.messages[v.MessageExpression] = true, true
	}
	for _, a := range s.AuditAnnotations {
		e.annotations[a.ValueExpression] = true
	}
}

func validateValidation(c admissioncel.Compiler, v *admissionv1.Validation, params bool, known storedExpressions, path *field.Path) (errs field.ErrorList) {
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, compile(c, boolean(v.Expression), admissioncel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true},
			known.validations[v.Expression], path.Child("expression"))...)
	}
	switch at := path.Child("messageExpression"); {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
	default:
		errs = append(errs, compile(c, text(v.MessageExpression), admissioncel.OptionalVariableDeclarations{HasParams: params},
			known.messages[v.MessageExpression], at)...)
	}
	if message := strings.TrimSpace(v.Message); v.Message != "" && message == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(message, "\n\r") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, oneOf(v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func validateAnnotations(c admissioncel.Compiler, policy string, list []admissionv1.AuditAnnotation, params bool, stored map[string]bool, path *field.Path) (errs field.ErrorList) {
	if len(list) > maxAnnotations {
		errs = append(errs, field.Invalid(path, list, fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	for i, a := range list {
		at := path.Index(i)
		if policy == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, check.QualifiedName(policy+"/"+a.Key, at.Child("key"))...)
		}
		if slices.ContainsFunc(list[:i], func(o admissionv1.AuditAnnotation) bool { return o.Key == a.Key }) {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		switch trimmed := strings.TrimSpace(a.ValueExpression); {
		case trimmed == "":
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		case len(trimmed) > maxAnnotationExpression:
			errs = append(errs, field.Required(at.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationExpression)))
		default:
			errs = append(errs, compile(c, textOrNull(trimmed), admissioncel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true},
				stored[a.ValueExpression], at.Child("valueExpression"))...)
		}
	}
	return errs
}

func validatePolicyStatus(s *admissionv1.ValidatingAdmissionPolicyStatus) (errs field.ErrorList) {
	path := field.NewPath("status")
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			if ref := strings.TrimSpace(w.FieldRef); ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}

func validateMutatingPolicy(s, old *admissionv1.MutatingAdmissionPolicySpec) field.ErrorList {
	path := field.NewPath("spec")
	var was *head
	stored := map[string]bool{}
	if old != nil {
		was = &head{old.FailurePolicy, old.ParamKind, old.MatchConstraints, old.MatchConditions}
		for _, m := range old.Mutations {
			if m.ApplyConfiguration != nil {
				stored[m.ApplyConfiguration.Expression] = true
			}
			if m.JSONPatch != nil {
				stored[m.JSONPatch.Expression] = true
			}
		}
	}
	errs := head{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions}.validate(was)
	errs = append(errs, validateNoDelete(s.MatchConstraints, path.Child("matchConstraints"))...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	errs = append(errs, check.SetOneOf(s.ReinvocationPolicy, path.Child("reinvocationPolicy"), reinvocations...)...)
	compiler, err := newCompiler(true)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	errs = append(errs, validateVariables(compiler, s.Variables, s.ParamKind != nil, nil, path.Child("variables"))...)
	for i := range s.Mutations {
		errs = append(errs, validateMutation(compiler, &s.Mutations[i], s.ParamKind != nil, stored, path.Child("mutations").Index(i))...)
	}
	return errs
}

func validateMutation(c admissioncel.Compiler, m *admissionv1.Mutation, params bool, stored map[string]bool, path *field.Path) (errs field.ErrorList) {
	const patch, apply = admissionv1.PatchTypeJSONPatch, admissionv1.PatchTypeApplyConfiguration
	if errs = check.SetOneOf(m.PatchType, path.Child("patchType"), apply, patch); len(errs) > 0 {
		return errs
	}
	for _, part := range []struct {
		name string
		of   admissionv1.PatchType
		text *string
		as   func(string) expression
	}{
		{"jsonPatch", patch, patchText(m.JSONPatch), jsonPatch},
		{"applyConfiguration", apply, applyText(m.ApplyConfiguration), applyConfiguration},
	} {
		at := path.Child(part.name)
		switch mine := part.of == m.PatchType; {
		case mine && part.text == nil:
			errs = append(errs, field.Required(at, fmt.Sprintf("must be specified when patchType is %s", m.PatchType)))
		case mine && strings.TrimSpace(*part.text) == "":
			errs = append(errs, field.Required(at.Child("expression"), ""))
		case mine:
			with := admissioncel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true, HasPatchTypes: true}
			errs = append(errs, compile(c, part.as(strings.TrimSpace(*part.text)), with, stored[*part.text], at.Child("expression"))...)
		case part.text != nil:
			errs = append(errs, field.Invalid(at, "{"+part.name+"}", fmt.Sprintf("must not be specified when patchType is %s", m.PatchType)))
		}
	}
	return errs
}

func patchText(p *admissionv1.JSONPatch) *string {
	if p == nil {
		return nil
	}
	return &p.Expression
}

func applyText(a *admissionv1.ApplyConfiguration) *string {
	if a == nil {
		return nil
	}
	return &a.Expression
}
