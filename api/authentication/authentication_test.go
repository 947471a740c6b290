package authentication

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"skiff/api/kind/kindtest"
)

func TestTokenRequest(t *testing.T) {
	kindtest.Holds(t, TokenReview, `{metadata: {name: x}, spec: {token: a}}`)
	kindtest.Holds(t, SelfSubjectReview, `{metadata: {name: x}}`)
	const valid = `{metadata: {name: default}, spec: {audiences: [a]}}`
	kindtest.Holds(t, TokenRequest, valid)
	type R = *authenticationv1.TokenRequest
	if r := kindtest.From[R](t, TokenRequest, valid); *r.Spec.ExpirationSeconds != 3600 {
		t.Errorf("expiration %d", *r.Spec.ExpirationSeconds)
	}
	webhook := &authenticationv1.BoundObjectReference{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration", Name: "w"}
	attest := func(group string) map[string]authenticationv1.AttestationValue {
		return map[string]authenticationv1.AttestationValue{"admissionReviewAPIGroups": {group}}
	}
	kindtest.Refuses(t, TokenRequest, valid, []kindtest.Case[R]{
		{"short", func(r R) { r.Spec.ExpirationSeconds = new(int64(599)) }, []string{"Invalid spec.expirationSeconds"}},
		{"long", func(r R) { r.Spec.ExpirationSeconds = new(int64(1<<32 + 1)) }, []string{"Invalid spec.expirationSeconds"}},
		{"attestation for nothing", func(r R) { r.Spec.Attestations = attest("apps") }, []string{"Invalid spec.attestations"}},
		{"webhook", func(r R) { r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, attest("apps") }, nil},
		{"no attestation", func(r R) { r.Spec.BoundObjectRef, r.Spec.Audiences = webhook, nil }, []string{"Invalid spec.audiences", "Invalid spec.attestations"}},
		{"core group", func(r R) { r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, attest("") }, []string{"Invalid spec.attestations[admissionReviewAPIGroups][0]: may not be an empty string"}},
		{"other key", func(r R) {
			r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, map[string]authenticationv1.AttestationValue{"x": {"a"}}
		}, []string{"NotSupported spec.attestations[x]"}},
	})
}
