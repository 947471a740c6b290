package endpoints

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	slicesManager = "endpointslice-controller.k8s.io"
	mostInSlice   = 100
)

// Slices is the row of EndpointSlices. Its keys are services.
func Slices() loop.Controller {
	return loop.Controller{
		Name:    "endpointslice-controller",
		Reads:   []*api.Resource{api.For[*corev1.Service](), api.For[*corev1.Pod](), api.For[*corev1.Node](), api.For[*discoveryv1.EndpointSlice]()},
		Writes:  []string{"endpointslices"},
		Indexes: append(indexes(), slicesByService()),
		Keys: func(v *client.View, c client.Change) []loop.Key {
			switch obj := c.Object().(type) {
			case *corev1.Pod:
				return keysOfPod(v, c)
			case *corev1.Node:
				return keysOfNode(v, c)
			case *discoveryv1.EndpointSlice:
				if name := obj.Labels[discoveryv1.LabelServiceName]; name != "" && obj.Labels[discoveryv1.LabelManagedBy] == slicesManager {
					return []loop.Key{{Namespace: obj.Namespace, Name: name}}
				}
				return nil
			}
			return []loop.Key{loop.KeyOf(c.Object())}
		},
		Decide: decideSlices,
	}
}

const slicesOfService = "slices by service"

// slicesByService finds slices by manager, namespace and service.
func slicesByService() client.Index {
	return client.Index{Name: slicesOfService, Resource: api.For[*discoveryv1.EndpointSlice](), Keys: func(obj api.Object) []string {
		l := obj.GetLabels()
		return []string{l[discoveryv1.LabelManagedBy] + " " + obj.GetNamespace() + "/" + l[discoveryv1.LabelServiceName]}
	}}
}

// slicesOf lists the slices of a service that a manager made and nobody deletes.
func slicesOf(v *client.View, manager, namespace, service string) (out []*discoveryv1.EndpointSlice) {
	for s := range client.By[*discoveryv1.EndpointSlice](v, slicesOfService, manager+" "+namespace+"/"+service) {
		if s.DeletionTimestamp == nil {
			out = append(out, s)
		}
	}
	return out
}

// keysOfNode lists the services with pods on a node that came, went or moved.
func keysOfNode(v *client.View, c client.Change) (keys []loop.Key) {
	if c.Old != nil && c.New != nil && zoneOf(c.Old) == zoneOf(c.New) {
		return nil
	}
	for pod := range workload.PodsOn(v, c.Object().GetName()) {
		keys = append(keys, servicesOf(v, pod)...)
	}
	return keys
}

func zoneOf(node api.Object) string { return node.GetLabels()[corev1.LabelTopologyZone] }

func decideSlices(v *client.View, key loop.Key, _ time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	s, ok := client.Find[*corev1.Service](v, key.Namespace, key.Name)
	if !ok || !selects(s) {
		return loop.Plan{}, nil // its slices go with it; those of one without selector are others' to write
	}
	pods := podsOf(v, s)
	h, _ := m.(history)
	trigger, h := h.trigger(s, pods)
	p := packer{
		most:  mostInSlice,
		empty: func(family discoveryv1.AddressType) *discoveryv1.EndpointSlice { return sliceFor(s, family) },
		mine: func(slice *discoveryv1.EndpointSlice) bool {
			return loop.ControlledBy(slice, s.UID) && supports(s, slice.AddressType)
		},
	}
	var want []group
	for _, family := range families(s) {
		p.families = append(p.families, addressType(family))
		want = append(want, groups(v, s, pods, family)...)
	}
	plan := p.pack(slicesOf(v, slicesManager, s.Namespace, s.Name), want)
	if s.DeletionTimestamp != nil {
		plan.create = nil // the garbage collector is taking them away
	}
	for _, slice := range append(plan.create, plan.update...) {
		setTrigger(slice, trigger)
	}
	return loop.Plan{Writes: sliceWrites(plan, s)}, h
}

// sliceWrites turns a packing into writes; what refuses them is told of about.
func sliceWrites(p packing, about api.Object) (writes []loop.Write) {
	for _, slice := range p.create {
		writes = append(writes, loop.Create(slice))
	}
	for _, slice := range p.update {
		writes = append(writes, loop.Update(slice))
	}
	for _, slice := range p.remove {
		w := loop.Delete(slice)
		w.Stage = 1 // so that an endpoint that moves is never nowhere
		writes = append(writes, w)
	}
	for i := range writes {
		writes[i].Failed = func(err error) loop.Event {
			return loop.Warning(about, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service "+about.GetNamespace()+"/"+about.GetName()+": "+err.Error())
		}
	}
	return writes
}

func setTrigger(obj api.Object, at time.Time) {
	annotations := maps.Clone(obj.GetAnnotations())
	if at.IsZero() {
		delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[corev1.EndpointsLastChangeTriggerTime] = at.UTC().Format(time.RFC3339Nano)
	}
	obj.SetAnnotations(annotations)
}

func addressType(family corev1.IPFamily) discoveryv1.AddressType {
	if family == corev1.IPv6Protocol {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

func supports(s *corev1.Service, t discoveryv1.AddressType) bool {
	for _, family := range families(s) {
		if addressType(family) == t {
			return true
		}
	}
	return false
}

// sliceFor is an empty slice of the service.
func sliceFor(s *corev1.Service, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	labels := map[string]string{}
	for k, v := range s.Labels {
		if k != corev1.IsHeadlessService {
			labels[k] = v
		}
	}
	if headless(s) {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = s.Name, slicesManager
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, GenerateName: namePrefix(s.Name), Labels: labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, api.Of(s).GVK())},
		},
		AddressType: family,
	}
}

func namePrefix(service string) string {
	if prefix := service + "-"; len(validation.NameIsDNSSubdomain(prefix, true)) == 0 {
		return prefix
	}
	return service
}

// groups makes the service's endpoints of a family.
func groups(v *client.View, s *corev1.Service, pods []*corev1.Pod, family corev1.IPFamily) (out []group) {
	at := map[string]int{}
	for _, pod := range pods {
		if !reachable(pod) {
			continue
		}
		ports := portsOf(s, pod)
		key := portsKey("", ports)
		i, known := at[key]
		if !known {
			i = len(out)
			at[key] = i
			out = append(out, group{family: addressType(family), ports: ports})
		}
		if e, ok := endpointOf(v, s, pod, family == corev1.IPv6Protocol); ok {
			out[i].endpoints = append(out[i].endpoints, e)
		}
	}
	return out
}

func portsOf(s *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for _, port := range s.Spec.Ports {
		if n, ok := portOf(pod, port); ok {
			out = append(out, discoveryv1.EndpointPort{Name: &port.Name, Port: &n, Protocol: &port.Protocol, AppProtocol: port.AppProtocol})
		}
	}
	return out
}

// endpointOf makes the pod's endpoint. A pod whose node is gone is none, unless
// the service wants all: it is about to be deleted.
func endpointOf(v *client.View, s *corev1.Service, pod *corev1.Pod, v6 bool) (e discoveryv1.Endpoint, ok bool) {
	node, exists := client.Find[*corev1.Node](v, "", pod.Spec.NodeName)
	if !exists && !s.Spec.PublishNotReadyAddresses {
		return e, false
	}
	_, serving := workload.ReadySince(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e = discoveryv1.Endpoint{
		Addresses:  addressesOf(pod, v6),
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  refTo(pod),
	}
	if name := pod.Spec.NodeName; name != "" {
		e.NodeName = &name
	}
	if exists && zoneOf(node) != "" {
		zone := zoneOf(node)
		e.Zone = &zone
	}
	if name := hostnameOf(pod, s); name != "" {
		e.Hostname = &name
	}
	if ready {
		e.Hints = hints(s, &e)
	}
	return e, len(e.Addresses) > 0
}

// hints say from where an endpoint is preferred: spec.trafficDistribution.
func hints(s *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if s.Spec.TrafficDistribution == nil {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *s.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}
