package networking

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api/kind/kindtest"
)

func TestIngress(t *testing.T) {
	const valid = `
metadata: {name: web, namespace: default}
spec:
  ingressClassName: nginx
  tls: [{hosts: [a.example.com, "*.b.example.com"], secretName: cert}]
  rules:
  - host: a.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: 1web, port: {number: 80}}}}]}
  - http: {paths: [{pathType: ImplementationSpecific, backend: {resource: {apiGroup: a.b, kind: Bucket, name: x}}}]}
`
	kindtest.Holds(t, Ingress, valid)
	type I = *networkingv1.Ingress
	path := func(i I) *networkingv1.HTTPIngressPath { return &i.Spec.Rules[0].HTTP.Paths[0] }
	kindtest.Refuses(t, Ingress, valid, []kindtest.Case[I]{
		{"empty", func(i I) { i.Spec.Rules = nil }, []string{"Invalid spec: either `defaultBackend` or `rules` must be specified"}},
		{"host", func(i I) { i.Spec.Rules[0].Host = "10.0.0.1" }, []string{"Invalid spec.rules[0].host: must be a DNS name, not an IP address"}},
		{"wildcard", func(i I) { i.Spec.Rules[0].Host = "*.*.com" }, []string{"Invalid spec.rules[0].host"}},
		{"no paths", func(i I) { i.Spec.Rules[0].HTTP.Paths = nil }, []string{"Required spec.rules[0].http.paths"}},
		{"no type", func(i I) { path(i).PathType = nil }, []string{"Required spec.rules[0].http.paths[0].pathType"}},
		{"type", func(i I) { path(i).PathType = new(networkingv1.PathType("x")) },
			[]string{`NotSupported spec.rules[0].http.paths[0].pathType: supported values: "Exact", "ImplementationSpecific", "Prefix"`}},
		{"path", func(i I) { path(i).Path = "a//b/.." }, []string{"Invalid spec.rules[0].http.paths[0].path: must be an absolute path",
			"Invalid spec.rules[0].http.paths[0].path: must not contain '//'", "Invalid spec.rules[0].http.paths[0].path: cannot end with '/..'"}},
		{"no backend", func(i I) { path(i).Backend = networkingv1.IngressBackend{} }, []string{"Invalid spec.rules[0].http.paths[0].backend: resource or service backend is required"}},
		{"both backends", func(i I) { path(i).Backend.Resource = &corev1.TypedLocalObjectReference{} },
			[]string{"Invalid spec.rules[0].http.paths[0].backend: cannot set both resource and service backends"}},
		{"no port", func(i I) { path(i).Backend.Service.Port.Number = 0 }, []string{"Required spec.rules[0].http.paths[0].backend: port name or number is required"}},
		{"two ports", func(i I) { path(i).Backend.Service.Port.Name = "x" }, []string{"Invalid spec.rules[0].http.paths[0].backend: cannot set both port name & port number"}},
		{"bad port", func(i I) { path(i).Backend.Service.Port.Number = 70000 }, []string{"Invalid spec.rules[0].http.paths[0].backend.service.port.number"}},
		{"service", func(i I) { path(i).Backend.Service.Name = "" }, []string{"Required spec.rules[0].http.paths[0].backend.service.name"}},
		{"resource", func(i I) { i.Spec.Rules[1].HTTP.Paths[0].Backend.Resource.Kind = "" }, []string{"Required spec.rules[1].http.paths[0].backend.resource.kind"}},
		{"tls", func(i I) { i.Spec.TLS[0] = networkingv1.IngressTLS{Hosts: []string{"A"}, SecretName: "A"} },
			[]string{"Invalid spec.tls[0].hosts[0]", "Invalid spec.tls[0].secretName"}},
		{"class", func(i I) { i.Spec.IngressClassName = new("A") }, []string{"Invalid spec.ingressClassName"}},
		{"class twice", func(i I) { i.Annotations = map[string]string{classAnnotation: "x"} },
			[]string{"Invalid annotations.kubernetes.io/ingress.class: must match `ingressClassName` when both are specified"}},
	})
	kindtest.RefusesSub(t, Ingress, "status", valid, []kindtest.Case[I]{
		{"name", func(i I) {
			i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{Hostname: "A"}, {Hostname: "10.0.0.1"}, {Hostname: "a.b"}}
		}, []string{"Invalid status.loadBalancer.ingress[0].hostname", "Invalid status.loadBalancer.ingress[1].hostname: must be a DNS name, not an IP address"}},
	})
	old := kindtest.From[I](t, Ingress, valid)
	old.Spec.TLS[0].SecretName = "A"
	if errs := Ingress.ValidateUpdate(old.DeepCopy(), old); len(errs) > 0 {
		t.Errorf("a stored secret name is refused: %v", errs.ToAggregate())
	}
	i := kindtest.From[I](t, Ingress, valid)
	i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "10.0.0.2"}, {IP: "10.0.0.1"}, {Hostname: "h"}}
	if row := Ingress.Row(i); row[1] != "nginx" || row[2] != "a.example.com" || row[3] != "10.0.0.1,10.0.0.2,h" || row[4] != "80, 443" {
		t.Errorf("row %v", row)
	}
	for _, h := range []string{"b", "c", "d"} {
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: h})
	}
	if got := hostsCell(i.Spec.Rules); got != "a.example.com,b,c + 2 more..." {
		t.Errorf("hosts %s", got)
	}
	i.Annotations, i.Spec.IngressClassName = map[string]string{classAnnotation: "x"}, nil
	if got := Ingress.Warn(i, nil); len(got) != 1 {
		t.Errorf("warnings %q", got)
	}
}

func TestIngressClass(t *testing.T) {
	const valid = `{metadata: {name: nginx}, spec: {controller: k8s.io/nginx, parameters: {apiGroup: a.b, kind: P, name: x}}}`
	kindtest.Holds(t, IngressClass, valid)
	type C = *networkingv1.IngressClass
	c := kindtest.From[C](t, IngressClass, valid)
	if *c.Spec.Parameters.Scope != "Cluster" || IngressClass.Row(c)[2] != "P.a.b/x" {
		t.Errorf("%+v", c.Spec.Parameters)
	}
	kindtest.Refuses(t, IngressClass, valid, []kindtest.Case[C]{
		{"controller", func(c C) { c.Spec.Controller = "nginx" }, []string{"Invalid spec.controller"}},
		{"no controller", func(c C) { c.Spec.Controller = "" }, []string{"Required spec.controller"}},
		{"parameters", func(c C) { c.Spec.Parameters = &networkingv1.IngressClassParametersReference{APIGroup: new("A")} },
			[]string{"Invalid spec.parameters.apiGroup", "Required spec.parameters.kind", "Required spec.parameters.name", "Required spec.parameters.scope"}},
		{"scope", func(c C) { *c.Spec.Parameters.Scope = "x" }, []string{"NotSupported spec.parameters.scope"}},
		{"namespace missing", func(c C) { *c.Spec.Parameters.Scope = "Namespace" }, []string{"Required spec.parameters.namespace"}},
		{"namespace too much", func(c C) { c.Spec.Parameters.Namespace = new("a") }, []string{"Forbidden spec.parameters.namespace"}},
	})
	kindtest.RefusesUpdate(t, IngressClass, valid, []kindtest.Case[C]{
		{"parameters", func(c C) { c.Spec.Parameters = nil }, nil},
		{"controller", func(c C) { c.Spec.Controller = "a.b/c" }, []string{"Invalid spec.controller: field is immutable"}},
	})
}

func TestNetworkPolicy(t *testing.T) {
	const valid = `
metadata: {name: p, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80, endPort: 90}], from: [{podSelector: {}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
  egress: [{ports: [{port: dns, protocol: UDP}]}]
`
	kindtest.Holds(t, NetworkPolicy, valid)
	type P = *networkingv1.NetworkPolicy
	p := kindtest.From[P](t, NetworkPolicy, valid)
	if len(p.Spec.PolicyTypes) != 2 || *p.Spec.Ingress[0].Ports[0].Protocol != "TCP" {
		t.Errorf("defaults %+v", p.Spec)
	}
	if got := kindtest.From[P](t, NetworkPolicy, `{}`).Spec.PolicyTypes; len(got) != 1 || got[0] != "Ingress" {
		t.Errorf("types of an empty policy: %v", got)
	}
	port := func(p P) *networkingv1.NetworkPolicyPort { return &p.Spec.Ingress[0].Ports[0] }
	kindtest.Refuses(t, NetworkPolicy, valid, []kindtest.Case[P]{
		{"selector", func(p P) { p.Spec.PodSelector.MatchLabels["app"] = "!" }, []string{"Invalid spec.podSelector.matchLabels"}},
		{"protocol", func(p P) { *port(p).Protocol = "ICMP" }, []string{"NotSupported spec.ingress[0].ports[0].protocol"}},
		{"port", func(p P) { port(p).Port = new(intstr.FromInt32(0)) }, []string{"Invalid spec.ingress[0].ports[0].port"}},
		{"range", func(p P) { port(p).EndPort = new(int32(7)) }, []string{"Invalid spec.ingress[0].ports[0].endPort: must be greater than or equal to `port`"}},
		{"range of a name", func(p P) { port(p).Port = new(intstr.FromString("x")) }, []string{"Invalid spec.ingress[0].ports[0].endPort"}},
		{"range of nothing", func(p P) { port(p).Port = nil }, []string{"Invalid spec.ingress[0].ports[0].endPort"}},
		{"no peer", func(p P) { p.Spec.Ingress[0].From[0] = networkingv1.NetworkPolicyPeer{} }, []string{"Required spec.ingress[0].from[0]: must specify a peer"}},
		{"two peers", func(p P) { p.Spec.Ingress[0].From[1].PodSelector = &metav1.LabelSelector{} }, []string{"Forbidden spec.ingress[0].from[1]"}},
		{"no block", func(p P) { p.Spec.Ingress[0].From[1].IPBlock.CIDR = "" }, []string{"Required spec.ingress[0].from[1].ipBlock.cidr"}},
		{"except", func(p P) { p.Spec.Ingress[0].From[1].IPBlock.Except = []string{"11.0.0.0/8"} },
			[]string{"Invalid spec.ingress[0].from[1].ipBlock.except[0]: must be a strict subset of `cidr`"}},
		{"types", func(p P) { p.Spec.PolicyTypes[1] = "x" }, []string{"NotSupported spec.policyTypes[1]"}},
		{"three types", func(p P) { p.Spec.PolicyTypes = make([]networkingv1.PolicyType, 3) }, []string{"Invalid spec.policyTypes"}},
	})
}

func TestIPAddressAndServiceCIDR(t *testing.T) {
	const address = `{metadata: {name: 10.0.0.1}, spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}}`
	kindtest.Holds(t, IPAddress, address)
	type A = *networkingv1.IPAddress
	kindtest.Refuses(t, IPAddress, address, []kindtest.Case[A]{
		{"no parent", func(a A) { a.Spec.ParentRef = nil }, []string{"Required spec.parentRef"}},
		{"parent", func(a A) { a.Spec.ParentRef = &networkingv1.ParentReference{Group: "A", Namespace: "a/b"} },
			[]string{"Invalid spec.parentRef.group", "Required spec.parentRef.resource", "Required spec.parentRef.name", "Invalid spec.parentRef.namespace"}},
	})
	kindtest.RefusesUpdate(t, IPAddress, address, []kindtest.Case[A]{
		{"parent", func(a A) { a.Spec.ParentRef.Name = "x" }, []string{"Invalid spec.parentRef: field is immutable"}},
	})
	if IPAddress.ValidateName("10.0.0.01", false) == nil || IPAddress.ValidateName("a", false) == nil || IPAddress.ValidateName("fd00::1", false) != nil {
		t.Error("names of addresses")
	}

	const ranges = `{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}`
	kindtest.Holds(t, ServiceCIDR, ranges)
	type C = *networkingv1.ServiceCIDR
	kindtest.Refuses(t, ServiceCIDR, ranges, []kindtest.Case[C]{
		{"none", func(c C) { c.Spec.CIDRs = nil }, []string{"Required spec.cidrs"}},
		{"three", func(c C) { c.Spec.CIDRs = []string{"a", "b", "c"} }, []string{"Invalid spec.cidrs"}},
		{"same family", func(c C) { c.Spec.CIDRs = append(c.Spec.CIDRs, "10.0.0.0/16") }, []string{"Invalid spec.cidrs"}},
		{"bad", func(c C) { c.Spec.CIDRs[0] = "10.96.0.1/16" }, []string{"Invalid spec.cidrs[0]"}},
	})
	kindtest.RefusesUpdate(t, ServiceCIDR, ranges, []kindtest.Case[C]{
		{"other family", func(c C) { c.Spec.CIDRs = append(c.Spec.CIDRs, "fd00::/108") }, nil},
		{"change", func(c C) { c.Spec.CIDRs[0] = "10.0.0.0/16" }, []string{"Invalid spec.cidrs[0]: field is immutable"}},
		{"fewer", func(c C) { c.Spec.CIDRs = nil }, []string{"Invalid spec.cidrs: field is immutable"}},
	})
}
