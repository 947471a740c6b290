// Package endpoints says where services lead: from services and pods it makes
// EndpointSlices (slices.go, packed by pack.go) and the older Endpoints
// (legacy.go), and it mirrors Endpoints that people write into slices
// (mirror.go). It never looks at what has no selector, but to mirror it.
package endpoints

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	podsByLabel        = "pods by label"
	servicesBySelector = "services by selector"
)

// indexes find pods of services and services of pods by one label of the
// selector, the first in order; the rest is compared.
func indexes() []client.Index {
	return []client.Index{
		{Name: podsByLabel, Resource: api.For[*corev1.Pod](), Keys: func(obj api.Object) (keys []string) {
			for k, v := range obj.GetLabels() {
				keys = append(keys, labelKey(obj.GetNamespace(), k, v))
			}
			return keys
		}},
		{Name: servicesBySelector, Resource: api.For[*corev1.Service](), Keys: func(obj api.Object) []string {
			if k, v, ok := firstOf(obj.(*corev1.Service)); ok {
				return []string{labelKey(obj.GetNamespace(), k, v)}
			}
			return nil
		}},
		workload.PodsByNode(),
	}
}

func labelKey(namespace, k, v string) string { return namespace + "/" + k + "=" + v }

func firstOf(s *corev1.Service) (k, v string, ok bool) {
	if !selects(s) || len(s.Spec.Selector) == 0 {
		return "", "", false
	}
	k = slices.Min(slices.Collect(maps.Keys(s.Spec.Selector)))
	return k, s.Spec.Selector[k], true
}

// selects tells whether the service's endpoints are made from pods.
func selects(s *corev1.Service) bool {
	return s.Spec.Selector != nil && s.Spec.Type != corev1.ServiceTypeExternalName
}

// podsOf lists the pods that the service selects, in order of names.
func podsOf(v *client.View, s *corev1.Service) (pods []*corev1.Pod) {
	key, value, ok := firstOf(s)
	if !ok { // an empty selector selects all
		return slices.Collect(client.All[*corev1.Pod](v, s.Namespace))
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	for pod := range client.By[*corev1.Pod](v, podsByLabel, labelKey(s.Namespace, key, value)) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// servicesOf lists the keys of services that select the pod.
func servicesOf(v *client.View, pod *corev1.Pod) (keys []loop.Key) {
	for k, value := range pod.Labels {
		for s := range client.By[*corev1.Service](v, servicesBySelector, labelKey(pod.Namespace, k, value)) {
			if labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				keys = append(keys, loop.KeyOf(s))
			}
		}
	}
	return keys
}

// keysOfPod lists the services that a pod's change concerns.
func keysOfPod(v *client.View, c client.Change) []loop.Key {
	before, _ := c.Old.(*corev1.Pod)
	after, _ := c.New.(*corev1.Pod)
	switch {
	case before == nil:
		return servicesOf(v, after)
	case after == nil:
		return servicesOf(v, before)
	case !differs(before, after):
		return nil
	case maps.Equal(before.Labels, after.Labels):
		return servicesOf(v, after)
	}
	return append(servicesOf(v, before), servicesOf(v, after)...)
}

// differs tells whether a pod's change may change endpoints.
func differs(a, b *corev1.Pod) bool {
	sinceA, readyA := workload.ReadySince(a)
	sinceB, readyB := workload.ReadySince(b)
	return readyA != readyB || !sinceA.Equal(sinceB) ||
		a.UID != b.UID ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		workload.Finished(a) != workload.Finished(b) ||
		a.Spec.NodeName != b.Spec.NodeName || a.Spec.Hostname != b.Spec.Hostname || a.Spec.Subdomain != b.Spec.Subdomain ||
		!slices.Equal(a.Status.PodIPs, b.Status.PodIPs) ||
		!maps.Equal(a.Labels, b.Labels)
}

// reachable tells whether the pod can be an endpoint at all.
func reachable(pod *corev1.Pod) bool {
	return !workload.Finished(pod) && len(pod.Status.PodIPs) > 0
}

// addressesOf lists the pod's addresses of a family, in their canonical form.
func addressesOf(pod *corev1.Pod, v6 bool) (out []string) {
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err == nil && addr.Unmap().Is6() == v6 {
			out = append(out, addr.Unmap().String())
		}
	}
	return out
}

// families of the service: IPv4, IPv6, or both.
func families(s *corev1.Service) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) > 0 {
		return s.Spec.IPFamilies
	}
	if headless(s) { // written before families were
		return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	if addr, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil && addr.Is6() {
		return []corev1.IPFamily{corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}

func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone
}

// hostnameOf is the name under the service by which the pod is found, or "".
func hostnameOf(pod *corev1.Pod, s *corev1.Service) string {
	if pod.Spec.Subdomain == s.Name {
		return pod.Spec.Hostname
	}
	return ""
}

func refTo(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}

// portOf finds the pod's port that a service's port leads to.
func portOf(pod *corev1.Pod, port corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	named := func(c corev1.Container) (int32, bool) {
		for _, p := range c.Ports {
			if p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
				return p.ContainerPort, true
			}
		}
		return 0, false
	}
	for _, c := range pod.Spec.Containers {
		if n, ok := named(c); ok {
			return n, true
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n, ok := named(c); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// history is the memory of a service: the times that have been told of already.
type history struct {
	service time.Time
	pods    map[string]time.Time
}

// trigger is the time of the earliest change that is not told of yet, from which
// consumers measure how long a change took to reach them; zero: there is none.
func (h history) trigger(s *corev1.Service, pods []*corev1.Pod) (at time.Time, next history) {
	next = history{service: s.CreationTimestamp.Time, pods: map[string]time.Time{}}
	earliest := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, pod := range pods {
		c := workload.Condition(pod, corev1.PodReady)
		if c == nil || c.LastTransitionTime.IsZero() {
			continue
		}
		next.pods[pod.Name] = c.LastTransitionTime.Time
		if c.LastTransitionTime.After(h.pods[pod.Name]) {
			earliest(c.LastTransitionTime.Time)
		}
	}
	if h.pods == nil { // new to us
		return next.service, next
	}
	if next.service.After(h.service) {
		earliest(next.service)
	}
	return at, next
}
