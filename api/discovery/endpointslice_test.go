package discovery

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff/api/kind/kindtest"
)

const valid = `
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}, {name: https, port: 443, appProtocol: kubernetes.io/wss}]
endpoints:
- {addresses: [10.0.0.1], nodeName: n1, hints: {forZones: [{name: a}]}, conditions: {ready: true}}
- {addresses: [10.0.0.2], hostname: web-1}
`

func TestEndpointSlice(t *testing.T) {
	kindtest.Holds(t, EndpointSlice, valid)
	type S = *discoveryv1.EndpointSlice
	s := kindtest.From[S](t, EndpointSlice, valid)
	if *s.Ports[0].Name != "" || *s.Ports[0].Protocol != corev1.ProtocolTCP {
		t.Errorf("defaults of a port: %+v", s.Ports[0])
	}
	if row := EndpointSlice.Row(s); row[2] != "80,443" || row[3] != "10.0.0.1,10.0.0.2" {
		t.Errorf("row %v", row)
	}
	many := func(n int) (list []discoveryv1.Endpoint) {
		for range n {
			list = append(list, discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}})
		}
		return list
	}
	kindtest.Refuses(t, EndpointSlice, valid, []kindtest.Case[S]{
		kindtest.When("no type", func(s S) { s.AddressType = "" }, "Required addressType"),
		kindtest.When("type", func(s S) { s.AddressType = "IPX" }, `NotSupported addressType: supported values: "FQDN", "IPv4", "IPv6"`),
		kindtest.When("too many", func(s S) { s.Endpoints = many(1001) }, "TooMany endpoints"),
		kindtest.When("no address", func(s S) { s.Endpoints[0].Addresses = nil }, "Required endpoints[0].addresses"),
		kindtest.When("many addresses", func(s S) {
			for range 101 {
				s.Endpoints[0].Addresses = append(s.Endpoints[0].Addresses, "10.0.0.1")
			}
		}, "TooMany endpoints[0].addresses"),
		kindtest.When("IPv6 in IPv4", func(s S) { s.Endpoints[0].Addresses[0] = "fd00::1" }, "Invalid endpoints[0].addresses: must be an IPv4 address"),
		kindtest.When("IPv4 in IPv6", func(s S) { s.AddressType = "IPv6"; s.Endpoints = s.Endpoints[:1] }, "Invalid endpoints[0].addresses: must be an IPv6 address"),
		kindtest.When("IPv6", func(s S) {
			s.AddressType = "IPv6"
			s.Endpoints = s.Endpoints[:1]
			s.Endpoints[0].Addresses[0] = "fd00::"
		}),
		kindtest.When("not canonical IPv6", func(s S) {
			s.AddressType, s.Endpoints = "IPv6", s.Endpoints[:1]
			s.Endpoints[0].Addresses[0] = "fd00::0:1"
		}, "Invalid endpoints[0].addresses[0]"),
		kindtest.When("FQDN", func(s S) { s.AddressType = "FQDN"; s.Endpoints[0].Addresses[0] = "example" }, "Invalid endpoints[0].addresses[0]"),
		kindtest.When("node", func(s S) { s.Endpoints[0].NodeName = new("A") }, "Invalid endpoints[0].nodeName"),
		kindtest.When("hostname", func(s S) { s.Endpoints[0].Hostname = new("a.b") }, "Invalid endpoints[0].hostname"),
		kindtest.When("hints", func(s S) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}, {Name: "!"}},
				ForNodes: []discoveryv1.ForNode{{Name: "n"}, {Name: "n"}, {Name: "A"}}}
		}, "Duplicate endpoints[0].hints.forZones[1].name", "Invalid endpoints[0].hints.forZones[2].name",
			"Duplicate endpoints[0].hints.forNodes[1].name", "Invalid endpoints[0].hints.forNodes[2].name"),
		kindtest.When("many hints", func(s S) { s.Endpoints[0].Hints.ForZones = make([]discoveryv1.ForZone, 9) }, "TooMany endpoints[0].hints.forZones"),
		kindtest.When("ports", func(s S) {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new("https"), Protocol: new(corev1.ProtocolUDP)},
				discoveryv1.EndpointPort{Name: new("A"), Protocol: new(corev1.Protocol("x")), AppProtocol: new("!")},
				discoveryv1.EndpointPort{Name: new("none")})
		}, "Duplicate ports[2].name", "Invalid ports[3].name", "NotSupported ports[3].protocol", "Invalid ports[3].appProtocol", "Required ports[4].protocol"),
		kindtest.When("no ports", func(s S) { s.Ports = nil }),
	})
	kindtest.RefusesUpdate(t, EndpointSlice, valid, []kindtest.Case[S]{
		kindtest.When("type", func(s S) { s.AddressType, s.Endpoints = "IPv6", nil }, "Invalid addressType: field is immutable"),
	})
	bad := kindtest.From[S](t, EndpointSlice, valid)
	bad.Endpoints[0].Addresses = nil
	if errs := EndpointSlice.ValidateUpdate(bad.DeepCopy(), bad); len(errs) > 0 {
		t.Errorf("what is stored cannot stay: %v", errs.ToAggregate())
	}
	bad.Endpoints[0].DeprecatedTopology = map[string]string{"kubernetes.io/hostname": "n1"}
	bad.Endpoints[0].NodeName = nil
	next := bad.DeepCopy()
	next.Endpoints[1].Hostname = nil
	EndpointSlice.Update(next, bad)
	if next.Endpoints[0].DeprecatedTopology != nil || next.Endpoints[0].NodeName == nil || *next.Endpoints[0].NodeName != "n1" {
		t.Errorf("deprecated topology: %+v", next.Endpoints[0])
	}
}
