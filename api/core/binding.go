package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/kind"
)

// Binding is the kind of a scheduler's decision; it is acted on, and never stored.
var Binding = kind.Of(kind.Spec[*corev1.Binding]{
	New:      func() *corev1.Binding { return &corev1.Binding{} },
	NewList:  func() runtime.Object { return &metav1.List{} },
	Validate: validateBinding,
})

func validateBinding(b *corev1.Binding) field.ErrorList {
	return collect(field.NewPath("target"), func(p place) {
		node := b.Target.Kind == "" || b.Target.Kind == "Node"
		if !node {
			oneOf(p, "kind", b.Target.Kind, "Node", "<empty>")
		}
		if p.wants("name", b.Target.Name) && node {
			p.dnsSubdomain("name", b.Target.Name)
		}
	})
}
