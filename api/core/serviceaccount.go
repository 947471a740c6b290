package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api/column"
	"skiff/api/kind"
)

// ServiceAccount is the kind of an identity for pods.
var ServiceAccount = kind.Of(kind.Spec[*corev1.ServiceAccount]{
	NameOnUpdate: true,
	New:          func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
	NewList:      func() runtime.Object { return &corev1.ServiceAccountList{} },
	Create:       keepSecretNames,
	Update:       func(s, _ *corev1.ServiceAccount) { keepSecretNames(s) },
	Warn: func(s, old *corev1.ServiceAccount) []string {
		const key = "kubernetes.io/enforce-mountable-secrets"
		had := false
		if old != nil {
			_, had = old.Annotations[key]
		}
		if _, ok := s.Annotations[key]; ok && !had {
			return []string{"metadata.annotations[" + key + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.Age},
	Row:     func(s *corev1.ServiceAccount) []any { return []any{s.Name, column.Since(s.CreationTimestamp)} },
})

// keepSecretNames drops what a reference to a secret has beside the name.
func keepSecretNames(s *corev1.ServiceAccount) {
	for i, secret := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: secret.Name}
	}
}

// ComponentStatus is the kind of a report on a part of the control plane. It is
// made when it is asked for, and never stored.
var ComponentStatus = kind.Of(kind.Spec[*corev1.ComponentStatus]{
	New:     func() *corev1.ComponentStatus { return &corev1.ComponentStatus{} },
	NewList: func() runtime.Object { return &corev1.ComponentStatusList{} },
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Status", "Status of the component conditions"),
		column.String("Message", "Message of the component conditions"),
		column.String("Error", "Error of the component conditions"),
	},
	Row: func(s *corev1.ComponentStatus) []any {
		for _, c := range s.Conditions {
			if c.Type != corev1.ComponentHealthy {
				continue
			}
			if c.Status == corev1.ConditionTrue {
				return []any{s.Name, "Healthy", c.Message, c.Error}
			}
			return []any{s.Name, "Unhealthy", c.Message, c.Error}
		}
		return []any{s.Name, "Unknown", "", ""}
	},
})
