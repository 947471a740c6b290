package admissionregistration

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// ValidatingAdmissionPolicyBinding is admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding.
var ValidatingAdmissionPolicyBinding = kind.Of(kind.Spec[*admissionv1.ValidatingAdmissionPolicyBinding]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New: func() *admissionv1.ValidatingAdmissionPolicyBinding {
		return &admissionv1.ValidatingAdmissionPolicyBinding{}
	},
	NewList: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} },
	Default: func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) },
	Intent:  func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return &b.Spec },
	Validate: func(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		return validateValidatingBinding(&b.Spec)
	},
	ValidateUpdate: func(b, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		return validateValidatingBinding(&b.Spec)
	},
	Columns: bindingColumns,
	Row: func(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, refCell(b.Spec.ParamRef), column.Since(b.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

// MutatingAdmissionPolicyBinding is admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding.
var MutatingAdmissionPolicyBinding = kind.Of(kind.Spec[*admissionv1.MutatingAdmissionPolicyBinding]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New: func() *admissionv1.MutatingAdmissionPolicyBinding {
		return &admissionv1.MutatingAdmissionPolicyBinding{}
	},
	NewList: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} },
	Default: func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) },
	Intent:  func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return &b.Spec },
	Validate: func(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		return validateMutatingBinding(&b.Spec)
	},
	ValidateUpdate: func(b, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		return validateMutatingBinding(&b.Spec)
	},
	Columns: bindingColumns,
	Row: func(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, refCell(b.Spec.ParamRef), column.Since(b.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

var bindingColumns = []metav1.TableColumnDefinition{
	column.Name,
	column.String("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
	column.String("ParamRef", "ParamRef indicates the param resource which sets the configuration param"),
	column.Age,
}

// refCell names the parameter; whether it has a namespace is not known here.
func refCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil, r.Name == "" && r.Selector == nil:
		return "<unset>"
	case r.Name == "":
		return r.Selector.String()
	case r.Namespace == "":
		return "*/" + r.Name
	}
	return r.Namespace + "/" + r.Name
}

func validateValidatingBinding(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateBinding(s.PolicyName, s.ParamRef, s.MatchResources)
	at := path.Child("validationActions")
	errs = append(errs, required(s.ValidationActions, at)...)
	for i, a := range s.ValidationActions {
		errs = append(errs, check.OneOf(a, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if slices.Contains(s.ValidationActions[:i], a) {
			errs = append(errs, field.Duplicate(at.Index(i), a))
		}
	}
	if slices.Contains(s.ValidationActions, admissionv1.Deny) && slices.Contains(s.ValidationActions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, s.ValidationActions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func validateMutatingBinding(s *admissionv1.MutatingAdmissionPolicyBindingSpec) field.ErrorList {
	return append(validateBinding(s.PolicyName, s.ParamRef, s.MatchResources),
		validateNoDelete(s.MatchResources, field.NewPath("spec", "matchResources"))...)
}

func validateBinding(policy string, r *admissionv1.ParamRef, m *admissionv1.MatchResources) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, check.Each(path.Child("policyName"), policy, validation.NameIsDNSSubdomain(policy, false))...)
	}
	errs = append(errs, validateParamRef(r, path.Child("paramRef"))...)
	return append(errs, validateMatchResources(m, path.Child("matchResources"))...)
}

func validateParamRef(r *admissionv1.ParamRef, path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	if r.Name != "" {
		errs = append(errs, check.Each(path.Child("name"), r.Name, content.IsPathSegmentName(r.Name))...)
	}
	if r.Selector != nil {
		errs = append(errs, check.Selector(r.Selector, false, path.Child("selector"))...)
	}
	switch {
	case r.Name != "" && r.Selector != nil:
		const exclusive = "name and selector are mutually exclusive"
		errs = append(errs, field.Forbidden(path.Child("name"), exclusive), field.Forbidden(path.Child("selector"), exclusive))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if a := r.ParameterNotFoundAction; a == nil {
		return append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	} else {
		return append(errs, check.SetOneOf(*a, path.Child("parameterNotFoundAction"), admissionv1.DenyAction, admissionv1.AllowAction)...)
	}
}
