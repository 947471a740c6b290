package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api/kind"
)

// Eviction is the body of pods/eviction; it is never stored.
var Eviction = kind.Of(kind.Spec[*policyv1.Eviction]{
	New:     func() *policyv1.Eviction { return &policyv1.Eviction{} },
	NewList: func() runtime.Object { return &metav1.List{} },
})
