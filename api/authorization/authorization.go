// Package authorization says what Kubernetes documents about the kinds of
// authorization.k8s.io/v1. None is stored: they are questions, and apiserver fills
// in the answers.
package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/kind"
)

func newList() runtime.Object { return &metav1.List{} }

var specPath = field.NewPath("spec")

// SubjectAccessReview asks whether somebody may do something.
var SubjectAccessReview = kind.Of(kind.Spec[*authorizationv1.SubjectAccessReview]{
	New:     func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
	NewList: newList,
	Validate: func(r *authorizationv1.SubjectAccessReview) field.ErrorList {
		return append(validateReview(&r.Spec), noMetadata(r.ObjectMeta, "must be empty")...)
	},
})

// LocalSubjectAccessReview asks whether somebody may do something in one namespace.
var LocalSubjectAccessReview = kind.Of(kind.Spec[*authorizationv1.LocalSubjectAccessReview]{
	New:     func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
	NewList: newList,
	Validate: func(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
		meta := r.ObjectMeta
		meta.Namespace = ""
		errs := append(validateReview(&r.Spec), noMetadata(meta, "must be empty except for namespace")...)
		if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
			errs = append(errs, field.Invalid(specPath.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
		}
		if a := r.Spec.NonResourceAttributes; a != nil {
			errs = append(errs, field.Invalid(specPath.Child("nonResourceAttributes"), a, "disallowed on this kind of request"))
		}
		return errs
	},
})

// SelfSubjectAccessReview asks whether oneself may do something.
var SelfSubjectAccessReview = kind.Of(kind.Spec[*authorizationv1.SelfSubjectAccessReview]{
	New:     func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
	NewList: newList,
	Validate: func(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
		return append(validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), noMetadata(r.ObjectMeta, "must be empty")...)
	},
})

// SelfSubjectRulesReview asks what all oneself may do in a namespace.
var SelfSubjectRulesReview = kind.Of(kind.Spec[*authorizationv1.SelfSubjectRulesReview]{
	New:     func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
	NewList: newList,
})

func noMetadata(meta metav1.ObjectMeta, message string) field.ErrorList {
	meta.ManagedFields = nil
	if equality.Semantic.DeepEqual(meta, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), meta, message)}
}

func validateReview(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(specPath.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	if (r == nil) == (n == nil) {
		errs = append(errs, field.Invalid(specPath, n, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r == nil {
		return errs
	}
	path := specPath.Child("resourceAttributes")
	if s := r.FieldSelector; s != nil {
		at := path.Child("fieldSelector")
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), at)...)
		for i, q := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(q,
				metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		at := path.Child("labelSelector")
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), at)...)
		for i, q := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(q,
				metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateSelector wants either the text or the requirements.
func validateSelector(raw string, requirements int, path *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}
