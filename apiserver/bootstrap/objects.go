// Package bootstrap knows the objects that every cluster starts with: system
// namespaces, roles and bindings, priority classes, flow schemas, the default
// service network. apiserver writes them at start; this package only makes them.
package bootstrap

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrol "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"skiff/api"
)

// Namespaces that exist from the start.
func Namespaces() (objects []api.Object) {
	for _, name := range []string{
		metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault,
	} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return objects
}

// systemCritical is the priority from which on only the system's own classes
// are; scheduling.k8s.io documents it as 2,000,000,000.
const systemCritical = 2_000_000_000

// PriorityClasses that exist from the start.
func PriorityClasses() []api.Object {
	return []api.Object{
		&schedulingv1.PriorityClass{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       systemCritical + 1000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		&schedulingv1.PriorityClass{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       systemCritical,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

// FlowControl returns the priority levels and flow schemas that upstream's
// library defines, mandatory ones first.
func FlowControl() (objects []api.Object) {
	for _, p := range flowcontrol.MandatoryPriorityLevelConfigurations {
		objects = append(objects, p.DeepCopy())
	}
	for _, p := range flowcontrol.SuggestedPriorityLevelConfigurations {
		objects = append(objects, p.DeepCopy())
	}
	for _, f := range flowcontrol.MandatoryFlowSchemas {
		objects = append(objects, f.DeepCopy())
	}
	for _, f := range flowcontrol.SuggestedFlowSchemas {
		objects = append(objects, f.DeepCopy())
	}
	return objects
}

// ServiceNetwork is the ServiceCIDR "kubernetes", from which addresses of
// services are taken. cidrs holds one range, or two of different families.
func ServiceNetwork(cidrs []string) api.Object {
	return &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: cidrs},
	}
}
