// Package loadbalancer gives services of type LoadBalancer the addresses of the
// nodes: every node's service proxy takes what is sent to the service's ports
// there. Services with a loadBalancerClass are somebody else's.
package loadbalancer

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "service-controller",
		Reads:  []*api.Resource{api.For[*corev1.Service](), api.For[*corev1.Node]()},
		Writes: []string{"services/status"},
		Keys:   keys,
		Decide: Decide,
	}
}

// keys: a service concerns itself; a node whose addresses or fitness changed, all
// balanced services.
func keys(v *client.View, c client.Change) (out []loop.Key) {
	if c.Resource == api.For[*corev1.Service]() {
		return []loop.Key{loop.KeyOf(c.Object())}
	}
	if c.Old != nil && c.New != nil && slices.Equal(addresses(c.Old.(*corev1.Node)), addresses(c.New.(*corev1.Node))) {
		return nil
	}
	for service := range client.All[*corev1.Service](v, "") {
		if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
			out = append(out, loop.KeyOf(service))
		}
	}
	return out
}

// addresses of a node that takes traffic, nil if it does not.
func addresses(node *corev1.Node) (ips []string) {
	if _, out := node.Labels[corev1.LabelNodeExcludeBalancers]; out || node.DeletionTimestamp != nil {
		return nil
	}
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return nil
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type == kind {
				ips = append(ips, a.Address)
			}
		}
		if len(ips) > 0 {
			return ips
		}
	}
	return nil
}

// Decide sets the service's addresses.
func Decide(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	service, ok := client.Find[*corev1.Service](v, key.Namespace, key.Name)
	if !ok || service.Spec.LoadBalancerClass != nil || service.DeletionTimestamp != nil {
		return loop.Plan{}, nil
	}
	next := service.DeepCopy()
	next.Status.LoadBalancer.Ingress = nil
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
		direct := corev1.LoadBalancerIPModeVIP
		for node := range client.All[*corev1.Node](v, "") {
			for _, ip := range addresses(node) {
				next.Status.LoadBalancer.Ingress = append(next.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: &direct})
			}
		}
	}
	if apiequality.Semantic.DeepEqual(service.Status, next.Status) {
		return loop.Plan{}, nil
	}
	w := loop.UpdateStatus(next)
	w.Optional = true
	return loop.Plan{Writes: []loop.Write{w}}, nil
}
