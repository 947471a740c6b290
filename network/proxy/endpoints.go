//go:build linux

package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// nodeInfo is what the rules depend on of this node.
type nodeInfo struct {
	name, zone string
	ips        []netip.Addr
}

func (n nodeInfo) equal(o nodeInfo) bool {
	return n.name == o.name && n.zone == o.zone && slices.Equal(n.ips, o.ips)
}

// endpoint is one address of a slice, for one port.
type endpoint struct {
	at                 netip.AddrPort
	local              bool
	ready, terminating bool     // an endpoint that is neither serves no traffic
	zones, nodes       []string // hints: whom it should serve
}

// collect finds the usable endpoints of a service port: the ready ones, and those
// that end but still serve. Each address is there once; the order is fixed.
func collect(port corev1.ServicePort, is4 bool, node nodeInfo, parts []*discoveryv1.EndpointSlice) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for _, slice := range parts {
		if is4 != (slice.AddressType == discoveryv1.AddressTypeIPv4) || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		number, ok := portOf(slice, port)
		if !ok {
			continue
		}
		for _, e := range slice.Endpoints {
			usable := fromSlice(e, node)
			if !usable.ready && !usable.terminating || len(e.Addresses) == 0 {
				continue
			}
			// Addresses of one endpoint are the same thing; the first one is used.
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || ip.Is4() != is4 {
				continue
			}
			usable.at = netip.AddrPortFrom(ip, number)
			if old, twice := found[usable.at]; !twice || usable.ready && !old.ready {
				found[usable.at] = usable
			}
		}
	}
	all := make([]endpoint, 0, len(found))
	for _, e := range found {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b endpoint) int { return a.at.Compare(b.at) })
	return all
}

// fromSlice reads the conditions. "nil should be interpreted as true" for ready
// and serving, as false for terminating (EndpointConditions).
func fromSlice(e discoveryv1.Endpoint, node nodeInfo) endpoint {
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := ready
	if e.Conditions.Serving != nil {
		serving = *e.Conditions.Serving
	}
	ends := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	usable := endpoint{ready: ready, terminating: serving && ends, local: e.NodeName != nil && *e.NodeName == node.name}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			usable.zones = append(usable.zones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			usable.nodes = append(usable.nodes, n.Name)
		}
	}
	return usable
}

// portOf finds the slice's port of that name.
func portOf(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if name == port.Name && protocol == protocolOf(port) && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func protocolOf(port corev1.ServicePort) corev1.Protocol {
	if port.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return port.Protocol
}

// everywhere chooses among all endpoints: the ready ones, near ones where hints
// say so; where none is ready, those that end but still serve.
func everywhere(all []endpoint, node nodeInfo) []endpoint {
	ready := where(all, func(e endpoint) bool { return e.ready })
	if len(ready) == 0 {
		return all
	}
	return near(ready, node)
}

// onNode chooses among the node's own endpoints in the same way.
func onNode(all []endpoint) []endpoint {
	local := where(all, func(e endpoint) bool { return e.local })
	if ready := where(local, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return ready
	}
	return local
}

// near follows hints, if every endpoint has some and some endpoint is for this
// node, or else for its zone.
func near(ready []endpoint, node nodeInfo) []endpoint {
	for _, hint := range []struct {
		of   func(endpoint) []string
		here string
	}{
		{func(e endpoint) []string { return e.nodes }, node.name},
		{func(e endpoint) []string { return e.zones }, node.zone},
	} {
		if hint.here == "" || slices.ContainsFunc(ready, func(e endpoint) bool { return len(hint.of(e)) == 0 }) {
			continue
		}
		if here := where(ready, func(e endpoint) bool { return slices.Contains(hint.of(e), hint.here) }); len(here) > 0 {
			return here
		}
	}
	return ready
}

func where(all []endpoint, ok func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range all {
		if ok(e) {
			out = append(out, e)
		}
	}
	return out
}
