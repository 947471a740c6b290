//go:build linux

package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/knftables"
)

var testConfig = &Config{
	NodeName:      "n1",
	ClusterCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.64.0.0/16")},
	ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/16")},
	NodeLocal:     []netip.Addr{netip.MustParseAddr("10.128.0.10")},
}

var testNode = nodeInfo{name: "n1", zone: "a", ips: []netip.Addr{netip.MustParseAddr("10.63.0.2")}}

func web(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.128.0.5", ClusterIPs: []string{"10.128.0.5"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}
	if change != nil {
		change(s)
	}
	return s
}

// slice has endpoints written as "10.64.1.2 node=n1 zone=a unready serving terminating fornode=n1".
func slice(name string, port int32, portName string, protocol corev1.Protocol, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}
	yes, no := true, false
	for _, text := range endpoints {
		words := strings.Fields(text)
		e := discoveryv1.Endpoint{Addresses: words[:1], Hints: &discoveryv1.EndpointHints{}}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "node":
				e.NodeName = &value
			case "zone":
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: value})
			case "fornode":
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: value})
			case "unready":
				e.Conditions.Ready, e.Conditions.Serving = &no, &no
			case "ending": // terminating, and still serving
				e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating = &no, &yes, &yes
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func web80(endpoints ...string) *discoveryv1.EndpointSlice {
	return slice("web-1", 8080, "http", corev1.ProtocolTCP, endpoints...)
}

// shown is a part without the hashes of its names.
func shown(p *part) string {
	var lines []string
	for e, v := range p.elements {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s -> %s", e.in, e.key, v)))
	}
	for name, rules := range p.chains {
		lines = append(lines, name+": "+strings.Join(rules, "; "))
	}
	for name, timeout := range p.affinities {
		lines = append(lines, name+" "+timeout.String())
	}
	return regexp.MustCompile(`-[0-9a-f]{12}-default/web`).ReplaceAllString(strings.Join(lines, "\n"), "")
}

func TestParts(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	nodePort := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	}
	for _, c := range []struct {
		name       string
		service    *corev1.Service
		slice      *discoveryv1.EndpointSlice
		want, none []string
	}{
		{"a cluster address leads to all endpoints", web(nil), web80("10.64.1.2", "10.64.2.2"), []string{
			"service-ips: 10.128.0.5 . tcp . 80 -> goto svc/tcp/http",
			"svc/tcp/http: meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.64.1.2 . 8080, 1 : 10.64.2.2 . 8080 }",
			"cluster-ips: 10.128.0.5 ->", "hairpin: 10.64.1.2 . 10.64.1.2 ->"}, []string{"refused"}},
		{"without endpoints it is rejected", web(nodePort), web80("10.64.1.2 unready"), []string{
			"refused-ips: 10.128.0.5 . tcp . 80 -> goto reject-it", "refused-nodeports: tcp . 30080 -> goto reject-it"}, []string{"service-ips", "svc/"}},
		{"where none is ready, those that end still serve", web(nil), web80("10.64.1.2 ending", "10.64.2.2 unready"), []string{
			"svc/tcp/http: meta l4proto tcp dnat to 10.64.1.2:8080"}, nil},
		{"those that end do not serve beside ready ones", web(nil), web80("10.64.1.2 ending", "10.64.2.2"), []string{
			"svc/tcp/http: meta l4proto tcp dnat to 10.64.2.2:8080"}, nil},
		{"zone hints are followed", web(nil), web80("10.64.1.2 zone=a", "10.64.2.2 zone=b"), []string{"dnat to 10.64.1.2:8080"}, []string{"10.64.2.2 . 8080"}},
		{"zone hints are ignored if an endpoint has none", web(nil), web80("10.64.1.2 zone=a", "10.64.2.2"), []string{"mod 2"}, nil},
		{"zone hints are ignored if none is for this zone", web(nil), web80("10.64.1.2 zone=b", "10.64.2.2 zone=b"), []string{"mod 2"}, nil},
		{"node hints win over zone hints", web(nil), web80("10.64.1.2 zone=a fornode=n1", "10.64.1.3 zone=a fornode=n2"), []string{"dnat to 10.64.1.2:8080"}, nil},
		{"a node port is masqueraded", web(nodePort), web80("10.64.1.2"), []string{
			"service-nodeports: tcp . 30080 -> goto ext/tcp/http", "ext/tcp/http: jump mark-for-masquerade; goto svc/tcp/http"}, nil},
		{"externalTrafficPolicy Local keeps the client's address", web(func(s *corev1.Service) {
			nodePort(s)
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), web80("10.64.1.2 node=n1", "10.64.2.2 node=n2"), []string{
			"ext/tcp/http: ip saddr @cluster-cidrs goto svc/tcp/http; fib saddr type local jump mark-for-masquerade; fib saddr type local goto svc/tcp/http; goto local/tcp/http",
			"local/tcp/http: meta l4proto tcp dnat to 10.64.1.2:8080", "mod 2"}, nil},
		{"externalTrafficPolicy Local drops where there is no endpoint", web(func(s *corev1.Service) {
			nodePort(s)
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), web80("10.64.2.2 node=n2"), []string{"goto svc/tcp/http; drop"}, []string{"local/tcp"}},
		{"internalTrafficPolicy Local", web(func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }), web80("10.64.1.2 node=n1", "10.64.2.2 node=n2"),
			[]string{"10.128.0.5 . tcp . 80 -> goto local/tcp/http", "dnat to 10.64.1.2:8080"}, []string{"svc/"}},
		{"internalTrafficPolicy Local drops where there is no endpoint", web(func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }),
			web80("10.64.2.2 node=n2"), []string{"refused-ips: 10.128.0.5 . tcp . 80 -> drop"}, nil},
		{"external and load balancer addresses", web(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeLoadBalancer, []string{"192.0.2.1"}
			proxied := corev1.LoadBalancerIPModeProxy
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.2"}, {IP: "192.0.2.3", IPMode: &proxied}, {Hostname: "x"}}
			s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24", "203.0.113.0/25"}
		}), web80("10.64.1.2"), []string{
			"service-ips: 192.0.2.1 . tcp . 80 -> goto ext", "service-ips: 192.0.2.2 . tcp . 80 -> goto ext",
			"firewall-ips: 192.0.2.2 . tcp . 80 -> jump fw/tcp/http", "fw/tcp/http: ip saddr != { 203.0.113.0/24 } drop"}, []string{"192.0.2.3", "firewall-ips: 192.0.2.1"}},
		{"session affinity", web(func(s *corev1.Service) {
			seconds := int32(60)
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}), web80("10.64.1.2", "10.64.2.2"), []string{
			"svc/tcp/http: ip saddr @aff/tcp/http goto ep/tcp/http; ip saddr @aff/tcp/http goto ep/tcp/http; numgen random mod 2 vmap",
			"ep/tcp/http: update @aff/tcp/http { ip saddr }; meta l4proto tcp dnat to 10.64.1.2:8080", "aff/tcp/http 1m0s"}, nil},
		{"what a program of the node serves is left alone", web(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.128.0.10", []string{"10.128.0.10"} }),
			web80(), nil, []string{"10.128.0.10"}},
		{"a port of another name is not used", web(nil), slice("x", 9, "metrics", corev1.ProtocolTCP, "10.64.1.2"), []string{"refused-ips"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := shown(partOfService(testConfig, knftables.IPv4Family, testNode, c.service, []*discoveryv1.EndpointSlice{c.slice}))
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("misses %q in\n%s", want, got)
				}
			}
			for _, not := range c.none {
				if strings.Contains(got, not) {
					t.Errorf("has %q in\n%s", not, got)
				}
			}
		})
	}
}

// Whatever happens to services, what single transactions leave behind is what
// one writing of everything gives.
func TestIncrementalIsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fake := knftables.NewFake(knftables.IPv4Family, "skiff-proxy")
		step := newTable(knftables.IPv4Family, fake, testConfig)
		services := map[types.NamespacedName]*part{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			changed := map[types.NamespacedName]*part{nodePart: partOfNode(knftables.IPv4Family, testNode)}
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				name := types.NamespacedName{Namespace: "default", Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")}
				changed[name] = drawPart(t, name.Name)
				services[name] = changed[name]
			}
			if rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
				step.forget()
			}
			if err := step.write(context.Background(), changed); err != nil {
				t.Fatal(err)
			}
			services[nodePart] = changed[nodePart]
		}
		fresh := knftables.NewFake(knftables.IPv4Family, "skiff-proxy")
		if err := newTable(knftables.IPv4Family, fresh, testConfig).write(context.Background(), services); err != nil {
			t.Fatal(err)
		}
		if got, want := dump(fake), dump(fresh); got != want {
			t.Fatalf("step by step:\n%s\nat once:\n%s", got, want)
		}
	})
}

// dump is the table with its elements in order: those of a set have none.
func dump(fake *knftables.Fake) string {
	var elements, others []string
	for _, line := range strings.Split(fake.Dump(), "\n") {
		if strings.HasPrefix(line, "add element") {
			elements = append(elements, line)
		} else {
			others = append(others, line)
		}
	}
	slices.Sort(elements)
	return strings.Join(append(others, elements...), "\n")
}

func drawPart(t *rapid.T, name string) *part {
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		return &part{}
	}
	s := web(func(s *corev1.Service) {
		s.Name = name
		s.Spec.ClusterIP = rapid.SampledFrom([]string{"10.128.0.5", "10.128.0.6"}).Draw(t, "cluster IP") // they do collide
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		s.Spec.ExternalIPs = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2"}), 0, 2, rapid.ID[string]).Draw(t, "external IPs")
		s.Spec.Ports[0].NodePort = rapid.SampledFrom([]int32{0, 30001, 30002}).Draw(t, "node port")
		if rapid.Bool().Draw(t, "udp") {
			s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
		}
		if rapid.Bool().Draw(t, "affinity") {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		if rapid.Bool().Draw(t, "local") {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	})
	endpoints := rapid.SliceOfN(rapid.SampledFrom([]string{"10.64.1.2 node=n1", "10.64.1.3 node=n1 ending", "10.64.2.2 node=n2", "10.64.2.3 unready"}), 0, 4).Draw(t, "endpoints")
	return partOfService(testConfig, knftables.IPv4Family, testNode, s,
		[]*discoveryv1.EndpointSlice{slice("x", 8080, "http", protocolOf(s.Spec.Ports[0]), endpoints...)})
}
