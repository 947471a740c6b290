package endpoints

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	mirrorManager = "endpointslicemirroring-controller.k8s.io"
	// mostMirrored is how many addresses of a subset are mirrored, all in one slice.
	mostMirrored = 1000
)

// Mirror is the row that mirrors Endpoints without a selector into slices, since
// whoever leads traffic reads slices only. Its keys are Endpoints.
func Mirror() loop.Controller {
	return loop.Controller{
		Name:    "endpointslicemirroring-controller",
		Reads:   []*api.Resource{api.For[*corev1.Endpoints](), api.For[*corev1.Service](), api.For[*discoveryv1.EndpointSlice]()},
		Writes:  []string{"endpointslices"},
		Indexes: []client.Index{slicesByService()},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if s, ok := c.Object().(*discoveryv1.EndpointSlice); ok {
				if s.Labels[discoveryv1.LabelManagedBy] != mirrorManager {
					return nil
				}
				return []loop.Key{{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}}
			}
			return []loop.Key{loop.KeyOf(c.Object())}
		},
		Decide: decideMirror,
	}
}

func decideMirror(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	have := slicesOf(v, mirrorManager, key.Namespace, key.Name)
	e, ok := client.Find[*corev1.Endpoints](v, key.Namespace, key.Name)
	s, hasService := client.Find[*corev1.Service](v, key.Namespace, key.Name)
	if !ok || !hasService || s.Spec.Selector != nil || e.Labels[discoveryv1.LabelSkipMirror] == "true" || isLock(e) || e.DeletionTimestamp != nil {
		var plan loop.Plan
		for _, slice := range have {
			plan.Writes = append(plan.Writes, loop.Delete(slice))
		}
		return plan, nil
	}
	p := packer{
		most:  mostMirrored,
		empty: func(family discoveryv1.AddressType) *discoveryv1.EndpointSlice { return mirrorOf(e, family) },
		mine:  func(slice *discoveryv1.EndpointSlice) bool { return loop.ControlledBy(slice, e.UID) },
	}
	want, invalid, skipped := mirrored(e)
	plan := loop.Plan{Writes: sliceWrites(p.pack(have, want), e)}
	if len(plan.Writes) > 0 && invalid > 0 {
		plan.Events = append(plan.Events, loop.Warning(e, "InvalidIPAddress", fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)))
	}
	if len(plan.Writes) > 0 && skipped > 0 {
		plan.Events = append(plan.Events, loop.Warning(e, "TooManyAddressesToMirror", fmt.Sprintf("A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", mostMirrored, skipped)))
	}
	return plan, nil
}

// mirrorOf is an empty slice that mirrors the Endpoints.
func mirrorOf(e *corev1.Endpoints, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	labels, annotations := map[string]string{}, map[string]string{}
	maps.Copy(labels, e.Labels)
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = e.Name, mirrorManager
	maps.Copy(annotations, e.Annotations)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: namePrefix(e.Name), Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, api.Of(e).GVK())},
		},
		AddressType: family,
	}
}

// mirrored makes groups of the subsets: those that share ports are one.
func mirrored(e *corev1.Endpoints) (out []group, invalid, skipped int) {
	at := map[string]int{}
	for _, subset := range e.Subsets {
		ports := []discoveryv1.EndpointPort{}
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
		taken := 0
		add := func(a corev1.EndpointAddress, ready bool) {
			addr, err := netip.ParseAddr(a.IP)
			switch {
			case err != nil:
				invalid++
				return
			case taken >= mostMirrored:
				skipped++
				return
			}
			taken++
			family := discoveryv1.AddressTypeIPv4
			if addr.Unmap().Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			key := portsKey(family, ports)
			i, known := at[key]
			if !known {
				i = len(out)
				at[key] = i
				out = append(out, group{family: family, ports: ports})
			}
			end := discoveryv1.Endpoint{Addresses: []string{addr.Unmap().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName}
			if a.Hostname != "" {
				end.Hostname = &a.Hostname
			}
			out[i].endpoints = append(out[i].endpoints, end)
		}
		for _, a := range subset.Addresses {
			add(a, true)
		}
		for _, a := range subset.NotReadyAddresses {
			add(a, false)
		}
	}
	return out, invalid, skipped
}
