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
		kindtest.When("empty", func(i I) { i.Spec.Rules = nil }, "Invalid spec: either `defaultBackend` or `rules` must be specified"),
		kindtest.When("host", func(i I) { i.Spec.Rules[0].Host = "10.0.0.1" }, "Invalid spec.rules[0].host: must be a DNS name, not an IP address"),
		kindtest.When("wildcard", func(i I) { i.Spec.Rules[0].Host = "*.*.com" }, "Invalid spec.rules[0].host"),
		kindtest.When("no paths", func(i I) { i.Spec.Rules[0].HTTP.Paths = nil }, "Required spec.rules[0].http.paths"),
		kindtest.When("no type", func(i I) { path(i).PathType = nil }, "Required spec.rules[0].http.paths[0].pathType"),
		kindtest.When("type", func(i I) { path(i).PathType = new(networkingv1.PathType("x")) },
			`NotSupported spec.rules[0].http.paths[0].pathType: supported values: "Exact", "ImplementationSpecific", "Prefix"`),
		kindtest.When("path", func(i I) { path(i).Path = "a//b/.." }, "Invalid spec.rules[0].http.paths[0].path: must be an absolute path",
			"Invalid spec.rules[0].http.paths[0].path: must not contain '//'", "Invalid spec.rules[0].http.paths[0].path: cannot end with '/..'"),
		kindtest.When("no backend", func(i I) { path(i).Backend = networkingv1.IngressBackend{} }, "Invalid spec.rules[0].http.paths[0].backend: resource or service backend is required"),
		kindtest.When("both backends", func(i I) { path(i).Backend.Resource = &corev1.TypedLocalObjectReference{} },
			"Invalid spec.rules[0].http.paths[0].backend: cannot set both resource and service backends"),
		kindtest.When("no port", func(i I) { path(i).Backend.Service.Port.Number = 0 }, "Required spec.rules[0].http.paths[0].backend: port name or number is required"),
		kindtest.When("two ports", func(i I) { path(i).Backend.Service.Port.Name = "x" }, "Invalid spec.rules[0].http.paths[0].backend: cannot set both port name & port number"),
		kindtest.When("bad port", func(i I) { path(i).Backend.Service.Port.Number = 70000 }, "Invalid spec.rules[0].http.paths[0].backend.service.port.number"),
		kindtest.When("service", func(i I) { path(i).Backend.Service.Name = "" }, "Required spec.rules[0].http.paths[0].backend.service.name"),
		kindtest.When("resource", func(i I) { i.Spec.Rules[1].HTTP.Paths[0].Backend.Resource.Kind = "" }, "Required spec.rules[1].http.paths[0].backend.resource.kind"),
		kindtest.When("tls", func(i I) { i.Spec.TLS[0] = networkingv1.IngressTLS{Hosts: []string{"A"}, SecretName: "A"} },
			"Invalid spec.tls[0].hosts[0]", "Invalid spec.tls[0].secretName"),
		kindtest.When("class", func(i I) { i.Spec.IngressClassName = new("A") }, "Invalid spec.ingressClassName"),
		kindtest.When("class twice", func(i I) { i.Annotations = map[string]string{classAnnotation: "x"} },
			"Invalid annotations.kubernetes.io/ingress.class: must match `ingressClassName` when both are specified"),
	})
	kindtest.RefusesSub(t, Ingress, "status", valid, []kindtest.Case[I]{
		kindtest.When("name", func(i I) {
			i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{Hostname: "A"}, {Hostname: "10.0.0.1"}, {Hostname: "a.b"}}
		}, "Invalid status.loadBalancer.ingress[0].hostname", "Invalid status.loadBalancer.ingress[1].hostname: must be a DNS name, not an IP address"),
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
		kindtest.When("controller", func(c C) { c.Spec.Controller = "nginx" }, "Invalid spec.controller"),
		kindtest.When("no controller", func(c C) { c.Spec.Controller = "" }, "Required spec.controller"),
		kindtest.When("parameters", func(c C) { c.Spec.Parameters = &networkingv1.IngressClassParametersReference{APIGroup: new("A")} },
			"Invalid spec.parameters.apiGroup", "Required spec.parameters.kind", "Required spec.parameters.name", "Required spec.parameters.scope"),
		kindtest.When("scope", func(c C) { *c.Spec.Parameters.Scope = "x" }, "NotSupported spec.parameters.scope"),
		kindtest.When("namespace missing", func(c C) { *c.Spec.Parameters.Scope = "Namespace" }, "Required spec.parameters.namespace"),
		kindtest.When("namespace too much", func(c C) { c.Spec.Parameters.Namespace = new("a") }, "Forbidden spec.parameters.namespace"),
	})
	kindtest.RefusesUpdate(t, IngressClass, valid, []kindtest.Case[C]{
		kindtest.When("parameters", func(c C) { c.Spec.Parameters = nil }),
		kindtest.When("controller", func(c C) { c.Spec.Controller = "a.b/c" }, "Invalid spec.controller: field is immutable"),
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
		kindtest.When("selector", func(p P) { p.Spec.PodSelector.MatchLabels["app"] = "!" }, "Invalid spec.podSelector.matchLabels"),
		kindtest.When("protocol", func(p P) { *port(p).Protocol = "ICMP" }, "NotSupported spec.ingress[0].ports[0].protocol"),
		kindtest.When("port", func(p P) { port(p).Port = new(intstr.FromInt32(0)) }, "Invalid spec.ingress[0].ports[0].port"),
		kindtest.When("range", func(p P) { port(p).EndPort = new(int32(7)) }, "Invalid spec.ingress[0].ports[0].endPort: must be greater than or equal to `port`"),
		kindtest.When("range of a name", func(p P) { port(p).Port = new(intstr.FromString("x")) }, "Invalid spec.ingress[0].ports[0].endPort"),
		kindtest.When("range of nothing", func(p P) { port(p).Port = nil }, "Invalid spec.ingress[0].ports[0].endPort"),
		kindtest.When("no peer", func(p P) { p.Spec.Ingress[0].From[0] = networkingv1.NetworkPolicyPeer{} }, "Required spec.ingress[0].from[0]: must specify a peer"),
		kindtest.When("two peers", func(p P) { p.Spec.Ingress[0].From[1].PodSelector = &metav1.LabelSelector{} }, "Forbidden spec.ingress[0].from[1]"),
		kindtest.When("no block", func(p P) { p.Spec.Ingress[0].From[1].IPBlock.CIDR = "" }, "Required spec.ingress[0].from[1].ipBlock.cidr"),
		kindtest.When("except", func(p P) { p.Spec.Ingress[0].From[1].IPBlock.Except = []string{"11.0.0.0/8"} },
			"Invalid spec.ingress[0].from[1].ipBlock.except[0]: must be a strict subset of `cidr`"),
		kindtest.When("types", func(p P) { p.Spec.PolicyTypes[1] = "x" }, "NotSupported spec.policyTypes[1]"),
		kindtest.When("three types", func(p P) { p.Spec.PolicyTypes = make([]networkingv1.PolicyType, 3) }, "Invalid spec.policyTypes"),
	})
}

func TestIPAddressAndServiceCIDR(t *testing.T) {
	const address = `{metadata: {name: 10.0.0.1}, spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}}`
	kindtest.Holds(t, IPAddress, address)
	type A = *networkingv1.IPAddress
	kindtest.Refuses(t, IPAddress, address, []kindtest.Case[A]{
		kindtest.When("no parent", func(a A) { a.Spec.ParentRef = nil }, "Required spec.parentRef"),
		kindtest.When("parent", func(a A) { a.Spec.ParentRef = &networkingv1.ParentReference{Group: "A", Namespace: "a/b"} },
			"Invalid spec.parentRef.group", "Required spec.parentRef.resource", "Required spec.parentRef.name", "Invalid spec.parentRef.namespace"),
	})
	kindtest.RefusesUpdate(t, IPAddress, address, []kindtest.Case[A]{
		kindtest.When("parent", func(a A) { a.Spec.ParentRef.Name = "x" }, "Invalid spec.parentRef: field is immutable"),
	})
	if IPAddress.ValidateName("10.0.0.01", false) == nil || IPAddress.ValidateName("a", false) == nil || IPAddress.ValidateName("fd00::1", false) != nil {
		t.Error("names of addresses")
	}

	const ranges = `{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}`
	kindtest.Holds(t, ServiceCIDR, ranges)
	type C = *networkingv1.ServiceCIDR
	kindtest.Refuses(t, ServiceCIDR, ranges, []kindtest.Case[C]{
		kindtest.When("none", func(c C) { c.Spec.CIDRs = nil }, "Required spec.cidrs"),
		kindtest.When("three", func(c C) { c.Spec.CIDRs = []string{"a", "b", "c"} }, "Invalid spec.cidrs"),
		kindtest.When("same family", func(c C) { c.Spec.CIDRs = append(c.Spec.CIDRs, "10.0.0.0/16") }, "Invalid spec.cidrs"),
		kindtest.When("bad", func(c C) { c.Spec.CIDRs[0] = "10.96.0.1/16" }, "Invalid spec.cidrs[0]"),
	})
	kindtest.RefusesUpdate(t, ServiceCIDR, ranges, []kindtest.Case[C]{
		kindtest.When("other family", func(c C) { c.Spec.CIDRs = append(c.Spec.CIDRs, "fd00::/108") }),
		kindtest.When("change", func(c C) { c.Spec.CIDRs[0] = "10.0.0.0/16" }, "Invalid spec.cidrs[0]: field is immutable"),
		kindtest.When("fewer", func(c C) { c.Spec.CIDRs = nil }, "Invalid spec.cidrs: field is immutable"),
	})
}
