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
		kindtest.When("short", func(r R) { r.Spec.ExpirationSeconds = new(int64(599)) }, "Invalid spec.expirationSeconds"),
		kindtest.When("long", func(r R) { r.Spec.ExpirationSeconds = new(int64(1<<32 + 1)) }, "Invalid spec.expirationSeconds"),
		kindtest.When("attestation for nothing", func(r R) { r.Spec.Attestations = attest("apps") }, "Invalid spec.attestations"),
		kindtest.When("webhook", func(r R) { r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, attest("apps") }),
		kindtest.When("no attestation", func(r R) { r.Spec.BoundObjectRef, r.Spec.Audiences = webhook, nil }, "Invalid spec.audiences", "Invalid spec.attestations"),
		kindtest.When("core group", func(r R) { r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, attest("") }, "Invalid spec.attestations[admissionReviewAPIGroups][0]: may not be an empty string"),
		kindtest.When("other key", func(r R) {
			r.Spec.BoundObjectRef, r.Spec.Attestations = webhook, map[string]authenticationv1.AttestationValue{"x": {"a"}}
		}, "NotSupported spec.attestations[x]"),
	})
}
