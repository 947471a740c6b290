package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// Namespace is the kind of a scope of names.
var Namespace = kind.Of(kind.Spec[*corev1.Namespace]{
	NameOnUpdate: true,
	New:          func() *corev1.Namespace { return &corev1.Namespace{} },
	NewList:      func() runtime.Object { return &corev1.NamespaceList{} },
	Default: func(n *corev1.Namespace) {
		setDefault(&n.Status.Phase, corev1.NamespaceActive)
		if n.Name == "" || n.Labels[corev1.LabelMetadataName] == n.Name {
			return // a name that is yet to be made gets its label when the object is read
		}
		if n.Labels == nil {
			n.Labels = make(map[string]string, 1)
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	},
	Create: func(n *corev1.Namespace) {
		n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
			n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	},
	Update: func(n, old *corev1.Namespace) {
		n.Spec.Finalizers = old.Spec.Finalizers
		n.Status = old.Status
	},
	ValidateName:   validation.ValidateNamespaceName,
	Validate:       func(n *corev1.Namespace) field.ErrorList { return checkFinalizers(n, false) },
	ValidateUpdate: func(n, _ *corev1.Namespace) field.ErrorList { return checkFinalizers(n, false) },
	Subs: map[string]kind.Sub[*corev1.Namespace]{
		"status": {
			Update: func(n, old *corev1.Namespace) { n.Spec = old.Spec },
			Validate: func(n, _ *corev1.Namespace) field.ErrorList {
				return collect(field.NewPath("status"), func(p place) { checkPhase(p, n) })
			},
		},
		"finalize": {
			Update:   func(n, old *corev1.Namespace) { n.Status = old.Status },
			Validate: func(n, _ *corev1.Namespace) field.ErrorList { return checkFinalizers(n, true) },
		},
	},
	Fields: func(n *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name} // "name" was served by mistake once, and is kept
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.String("Status", "The status of the namespace"), column.Age},
	Row: func(n *corev1.Namespace) []any {
		return []any{n.Name, string(n.Status.Phase), column.Since(n.CreationTimestamp)}
	},
})

// checkFinalizers checks the finalizers of the spec; messages name the one only
// where finalize is asked for.
func checkFinalizers(n *corev1.Namespace, finalize bool) field.ErrorList {
	return collect(field.NewPath("spec", "finalizers"), func(p place) {
		for i, f := range n.Spec.Finalizers {
			at := p
			if finalize {
				at = p.index(i)
			}
			at.add(validation.ValidateFinalizerName(string(f), at.path)...)
			if f != corev1.FinalizerKubernetes && f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents && !strings.Contains(string(f), "/") {
				at.invalid("", string(f), "name is neither a standard finalizer name nor is it fully qualified")
			}
		}
	})
}

func checkPhase(p place, n *corev1.Namespace) {
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		p.invalid("Phase", n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		p.invalid("Phase", n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
}
