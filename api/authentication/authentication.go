// Package authentication says what Kubernetes documents about the kinds of
// authentication.k8s.io/v1. None is stored: they are questions, and apiserver
// fills in the answers.
package authentication

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/kind"
)

const (
	minTokenSeconds     = 600
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 3600
)

// webhookGroups is the one thing that a token for a webhook attests: of which API
// group the review that it comes with is.
const webhookGroups = "admissionReviewAPIGroups"

func newList() runtime.Object { return &metav1.List{} }

// TokenReview asks whose token it is. A review without a token is a bad request,
// which apiserver says: it is not an error of validation.
var TokenReview = kind.Of(kind.Spec[*authenticationv1.TokenReview]{
	New:     func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
	NewList: newList,
})

// SelfSubjectReview asks who oneself is.
var SelfSubjectReview = kind.Of(kind.Spec[*authenticationv1.SelfSubjectReview]{
	New:     func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
	NewList: newList,
})

// TokenRequest is the body of serviceaccounts/token.
var TokenRequest = kind.Of(kind.Spec[*authenticationv1.TokenRequest]{
	New:     func() *authenticationv1.TokenRequest { return &authenticationv1.TokenRequest{} },
	NewList: newList,
	Default: func(r *authenticationv1.TokenRequest) {
		if r.Spec.ExpirationSeconds == nil {
			r.Spec.ExpirationSeconds = new(int64(defaultTokenSeconds))
		}
	},
	Validate: validateTokenRequest,
})

func validateTokenRequest(r *authenticationv1.TokenRequest) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if n := r.Spec.ExpirationSeconds; n != nil && *n < minTokenSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *n, "may not specify a duration less than 10 minutes"))
	} else if n != nil && *n > maxTokenSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *n, "may not specify a duration larger than 2^32 seconds"))
	}
	attestations, at := r.Spec.Attestations, path.Child("attestations")
	if !forWebhook(r.Spec.BoundObjectRef) {
		if len(attestations) > 0 {
			return field.ErrorList{field.Invalid(at, attestations, "attestations may only be specified with a webhook bound object reference")}
		}
		return errs
	}
	if len(r.Spec.Audiences) != 1 {
		errs = append(errs, field.Invalid(path.Child("audiences"), r.Spec.Audiences, "must be length 1 when bound to a webhook config"))
	}
	if len(attestations) != 1 {
		return append(errs, field.Invalid(at, attestations, "webhook bound requests require exactly one admissionReviewAPIGroups attestation"))
	}
	for key, values := range attestations {
		errs = append(errs, validateAttestation(key, values, at.Key(key))...)
	}
	return errs
}

func forWebhook(r *authenticationv1.BoundObjectReference) bool {
	return r != nil && r.APIVersion == "admissionregistration.k8s.io/v1" &&
		(r.Kind == "ValidatingWebhookConfiguration" || r.Kind == "MutatingWebhookConfiguration")
}

func validateAttestation(key string, values []string, path *field.Path) (errs field.ErrorList) {
	if key != webhookGroups {
		return append(errs, field.NotSupported(path, key, []string{webhookGroups}))
	}
	if len(values) != 1 {
		return append(errs, field.Invalid(path, values, "must specify a single value"))
	}
	switch group := values[0]; group {
	case "":
		// It could be taken for the core group, or for all names.
		errs = append(errs, field.Invalid(path.Index(0), group, "may not be an empty string"))
	case "*":
	default:
		for _, m := range utilvalidation.IsDNS1123Subdomain(group) {
			errs = append(errs, field.Invalid(path.Index(0), group, fmt.Sprintf("must specify a valid API Group: %s", m)))
		}
	}
	return errs
}
