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
		{"fine", func(S) {}, nil},
		{"nothing", func(r S) { r.Spec.ResourceAttributes = nil }, []string{"Invalid spec: exactly one of nonResourceAttributes or resourceAttributes must be specified"}},
		{"both", func(r S) { r.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{} }, []string{"Invalid spec"}},
		{"nobody", func(r S) { r.Spec.User = "" }, []string{"Invalid spec.user"}},
		{"metadata", func(r S) { r.Name = "x" }, []string{"Invalid metadata: must be empty"}},
		{"selector", func(r S) { r.Spec.ResourceAttributes.LabelSelector = &authorizationv1.LabelSelectorAttributes{} },
			[]string{"Required spec.resourceAttributes.labelSelector.requirements"}},
	})
	type L = *authorizationv1.LocalSubjectAccessReview
	kindtest.Refuses(t, LocalSubjectAccessReview, `{metadata: {namespace: a}, spec: {user: ann, resourceAttributes: {namespace: a}}}`, []kindtest.Case[L]{
		{"fine", func(L) {}, nil},
		{"elsewhere", func(r L) { r.Spec.ResourceAttributes.Namespace = "b" }, []string{"Invalid spec.resourceAttributes.namespace: must match metadata.namespace"}},
		{"url", func(r L) {
			r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes = nil, &authorizationv1.NonResourceAttributes{}
		}, []string{"Invalid spec.nonResourceAttributes: disallowed on this kind of request"}},
	})
	type O = *authorizationv1.SelfSubjectAccessReview
	kindtest.Refuses(t, SelfSubjectAccessReview, `{}`, []kindtest.Case[O]{{"nothing", func(O) {}, []string{"Invalid spec"}}})
	if errs := SelfSubjectRulesReview.Validate(SelfSubjectRulesReview.New()); len(errs) > 0 {
		t.Error(errs)
	}
}
