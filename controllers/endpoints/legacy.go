package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	managedBy     = "endpoints.kubernetes.io/managed-by"
	legacyManager = "endpoint-controller"
	// mostInEndpoints is how many addresses an Endpoints object has at most.
	mostInEndpoints = 1000
)

// Legacy is the row of Endpoints. Its keys are services.
func Legacy() loop.Controller {
	return loop.Controller{
		Name:    "endpoint-controller",
		Reads:   []*api.Resource{api.For[*corev1.Service](), api.For[*corev1.Pod](), api.For[*corev1.Endpoints]()},
		Writes:  []string{"endpoints"},
		Indexes: indexes(),
		Keys: func(v *client.View, c client.Change) []loop.Key {
			if c.Resource == api.For[*corev1.Pod]() {
				return keysOfPod(v, c)
			}
			return []loop.Key{loop.KeyOf(c.Object())}
		},
		Decide: decideLegacy,
	}
}

func decideLegacy(v *client.View, key loop.Key, _ time.Time, m loop.Memory) (plan loop.Plan, _ loop.Memory) {
	h, known := m.(history)
	have, exists := client.Find[*corev1.Endpoints](v, key.Namespace, key.Name)
	s, ok := client.Find[*corev1.Service](v, key.Namespace, key.Name)
	if !ok {
		// Endpoints may be written before their service: only those are deleted whose
		// service was there, or that we made.
		if exists && !isLock(have) && (known || have.Labels[managedBy] == legacyManager) {
			plan.Writes = append(plan.Writes, loop.Delete(have))
		}
		return plan, nil
	}
	if !selects(s) {
		return plan, history{pods: map[string]time.Time{}}
	}
	pods := podsOf(v, s)
	trigger, h := h.trigger(s, pods)
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}}
	if exists {
		next = have.DeepCopy()
	}
	var truncated bool
	next.Subsets, truncated = truncate(subsets(s, pods))
	next.Labels = map[string]string{}
	maps.Copy(next.Labels, s.Labels)
	delete(next.Labels, corev1.IsHeadlessService)
	if headless(s) {
		next.Labels[corev1.IsHeadlessService] = ""
	}
	next.Labels[managedBy] = legacyManager
	if truncated {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	} else {
		delete(next.Annotations, corev1.EndpointsOverCapacity)
	}
	var w loop.Write
	switch {
	case !exists && s.DeletionTimestamp != nil:
		return plan, h
	case !exists:
		setTrigger(next, trigger)
		w = loop.Create(next)
	case apiequality.Semantic.DeepEqual(have.Subsets, next.Subsets) && maps.Equal(have.Labels, next.Labels) && maps.Equal(have.Annotations, next.Annotations):
		return plan, h
	default:
		setTrigger(next, trigger)
		w = loop.Update(next)
	}
	w.Failed = func(err error) loop.Event {
		if exists {
			return loop.Warning(next, "FailedToUpdateEndpoint", fmt.Sprintf("Failed to update endpoint %s/%s: %v", s.Namespace, s.Name, err))
		}
		return loop.Warning(next, "FailedToCreateEndpoint", fmt.Sprintf("Failed to create endpoint for service %s/%s: %v", s.Namespace, s.Name, err))
	}
	plan.Writes = append(plan.Writes, w)
	return plan, h
}

// isLock tells whether the object is somebody's leader election.
func isLock(e *corev1.Endpoints) bool {
	_, ok := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return ok
}

// subsets groups the service's addresses by the ports that lead to them.
func subsets(s *corev1.Service, pods []*corev1.Pod) (out []corev1.EndpointSubset) {
	byPorts := map[string]*corev1.EndpointSubset{}
	v6 := len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol || len(s.Spec.IPFamilies) == 0 && families(s)[0] == corev1.IPv6Protocol
	for _, pod := range pods {
		addresses := addressesOf(pod, v6)
		if !reachable(pod) || len(addresses) == 0 || pod.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses {
			continue
		}
		ports, ok := legacyPorts(s, pod)
		if !ok {
			continue
		}
		key := fmt.Sprintf("%#v", portTexts(ports))
		if byPorts[key] == nil {
			byPorts[key] = &corev1.EndpointSubset{Ports: ports}
		}
		address := corev1.EndpointAddress{IP: addresses[0], Hostname: hostnameOf(pod, s), TargetRef: refTo(pod)}
		if name := pod.Spec.NodeName; name != "" {
			address.NodeName = &name
		}
		if _, ready := workload.ReadySince(pod); ready || s.Spec.PublishNotReadyAddresses {
			byPorts[key].Addresses = append(byPorts[key].Addresses, address)
		} else {
			byPorts[key].NotReadyAddresses = append(byPorts[key].NotReadyAddresses, address)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		subset := byPorts[key]
		slices.SortStableFunc(subset.Addresses, compareAddresses)
		slices.SortStableFunc(subset.NotReadyAddresses, compareAddresses)
		out = append(out, *subset)
	}
	return out
}

func compareAddresses(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

// legacyPorts are the service's ports on the pod; false: it has none of those that
// the service asks for.
func legacyPorts(s *corev1.Service, pod *corev1.Pod) (out []corev1.EndpointPort, ok bool) {
	for _, port := range s.Spec.Ports {
		if n, found := portOf(pod, port); found {
			out = append(out, corev1.EndpointPort{Name: port.Name, Port: n, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
		}
	}
	slices.SortStableFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out, len(out) > 0 || len(s.Spec.Ports) == 0 && headless(s)
}

func portTexts(ports []corev1.EndpointPort) (out []string) {
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%s %d %s %s", p.Name, p.Port, p.Protocol, orNone(p.AppProtocol)))
	}
	return out
}

// truncate leaves out what exceeds the capacity: those that are not ready first,
// then from each subset its share.
func truncate(all []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) {
	ready, not := 0, 0
	for _, s := range all {
		ready, not = ready+len(s.Addresses), not+len(s.NotReadyAddresses)
	}
	if ready+not <= mostInEndpoints {
		return all, false
	}
	roomReady, roomNot := min(ready, mostInEndpoints), max(0, mostInEndpoints-ready)
	shareOf := func(n, total, room, left int) int {
		if total == 0 {
			return 0
		}
		return min(left, (n*room+total-1)/total)
	}
	leftReady, leftNot := roomReady, roomNot
	for i := range all {
		a := shareOf(len(all[i].Addresses), ready, roomReady, leftReady)
		b := shareOf(len(all[i].NotReadyAddresses), not, roomNot, leftNot)
		leftReady, leftNot = leftReady-a, leftNot-b
		all[i].Addresses, all[i].NotReadyAddresses = all[i].Addresses[:a], all[i].NotReadyAddresses[:b]
	}
	return slices.DeleteFunc(all, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 }), true
}
