package authorization

import (
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff/api/kind/kindtest"
)

func TestReviews(t *testing.T) {
	type S = *authorizationv1.SubjectAccessReview
	const valid = `{spec: {user: ann, resourceAttributes: {verb: get, resource: pods}}}`
	kindtest.Refuses(t, SubjectAccessReview, valid, []kindtest.Case[S]{
		kindtest.When("fine", func(S) {}),
		kindtest.When("nothing", func(r S) { r.Spec.ResourceAttributes = nil }, "Invalid spec: exactly one of nonResourceAttributes or resourceAttributes must be specified"),
		kindtest.When("both", func(r S) { r.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{} }, "Invalid spec"),
		kindtest.When("nobody", func(r S) { r.Spec.User = "" }, "Invalid spec.user"),
		kindtest.When("metadata", func(r S) { r.Name = "x" }, "Invalid metadata: must be empty"),
		kindtest.When("selector", func(r S) { r.Spec.ResourceAttributes.LabelSelector = &authorizationv1.LabelSelectorAttributes{} },
			"Required spec.resourceAttributes.labelSelector.requirements"),
	})
	type L = *authorizationv1.LocalSubjectAccessReview
	kindtest.Refuses(t, LocalSubjectAccessReview, `{metadata: {namespace: a}, spec: {user: ann, resourceAttributes: {namespace: a}}}`, []kindtest.Case[L]{
		kindtest.When("fine", func(L) {}),
		kindtest.When("elsewhere", func(r L) { r.Spec.ResourceAttributes.Namespace = "b" }, "Invalid spec.resourceAttributes.namespace: must match metadata.namespace"),
		kindtest.When("url", func(r L) {
			r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes = nil, &authorizationv1.NonResourceAttributes{}
		}, "Invalid spec.nonResourceAttributes: disallowed on this kind of request"),
	})
	type O = *authorizationv1.SelfSubjectAccessReview
	kindtest.Refuses(t, SelfSubjectAccessReview, `{}`, []kindtest.Case[O]{kindtest.When("nothing", func(O) {}, "Invalid spec")})
	if errs := SelfSubjectRulesReview.Validate(SelfSubjectRulesReview.New()); len(errs) > 0 {
		t.Error(errs)
	}
}
