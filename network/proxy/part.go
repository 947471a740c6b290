//go:build linux

package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// part is what one service (or the node) adds to a table.
type part struct {
	chains     map[string][]string           // name → rules
	affinities map[string]time.Duration      // set of clients of an endpoint → how long they stay
	elements   map[element]string            // → value; "" in sets
	udp        map[frontend][]netip.AddrPort // where UDP frontends lead
}

// element is a key of a set or map that services share.
type element struct{ in, key string }

// frontend is what clients send to. An invalid address means any address of the
// node (a node port).
type frontend struct {
	ip   netip.Addr
	port uint16
}

// nodePart is the name of the node's own part: no service can have it.
var nodePart = types.NamespacedName{}

func is4(family knftables.Family) bool { return family == knftables.IPv4Family }

func partOfNode(family knftables.Family, node nodeInfo) *part {
	p := &part{elements: map[element]string{}}
	for _, ip := range node.ips {
		if ip.Is4() == is4(family) && !ip.IsLoopback() {
			p.elements[element{setNodeIPs, ip.String()}] = ""
		}
	}
	return p
}

// served tells whether the service is the proxy's business.
func served(s *corev1.Service) bool {
	return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && s.Spec.Type != corev1.ServiceTypeExternalName &&
		s.Labels["service.kubernetes.io/service-proxy-name"] == ""
}

func externalLocal(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) bool {
	return s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
}

// partOfService is the proxy's decision: same input, same part.
func partOfService(c *Config, family knftables.Family, node nodeInfo, service *corev1.Service, slices []*discoveryv1.EndpointSlice) *part {
	p := &part{chains: map[string][]string{}, affinities: map[string]time.Duration{}, elements: map[element]string{}, udp: map[frontend][]netip.AddrPort{}}
	for _, port := range service.Spec.Ports {
		w := portWriter{part: p, c: c, family: family, service: service, port: port, protocol: strings.ToLower(string(protocolOf(port)))}
		all := collect(port, is4(family), node, slices)
		w.everywhere, w.onNode = everywhere(all, node), onNode(all)
		w.write()
	}
	return p
}

// portWriter makes the part of one service port.
type portWriter struct {
	*part
	c                  *Config
	family             knftables.Family
	service            *corev1.Service
	port               corev1.ServicePort
	protocol           string
	everywhere, onNode []endpoint
}

func (w *portWriter) write() {
	internal, external := w.frontends()
	if len(internal)+len(external) == 0 && w.port.NodePort == 0 {
		return
	}
	inside, outside := w.verdicts(len(external) > 0 || w.port.NodePort != 0)
	for _, ip := range internal {
		w.elements[element{setClusterIPs, ip.String()}] = ""
		w.lead(ip, inside)
	}
	for _, ip := range external {
		w.lead(ip, outside)
	}
	w.leadNodePort(outside)
	w.firewall()
	w.noteUDP(internal, external)
}

// frontends are the service's addresses of this family.
func (w *portWriter) frontends() (internal, external []netip.Addr) {
	add := func(to []netip.Addr, s string) []netip.Addr {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Is4() != is4(w.family) || ip.IsLoopback() || slices.Contains(w.c.NodeLocal, ip) || slices.Contains(to, ip) {
			return to
		}
		return append(to, ip)
	}
	clusterIPs := w.service.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{w.service.Spec.ClusterIP}
	}
	for _, s := range clusterIPs {
		internal = add(internal, s)
	}
	for _, s := range w.service.Spec.ExternalIPs {
		external = add(external, s)
	}
	for _, s := range w.loadBalancerIPs() {
		external = add(external, s)
	}
	return internal, external
}

func (w *portWriter) loadBalancerIPs() (ips []string) {
	if w.service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	for _, ingress := range w.service.Status.LoadBalancer.Ingress {
		if ingress.IP != "" && (ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP) {
			ips = append(ips, ingress.IP)
		}
	}
	return ips
}

// verdict says what happens to packets of a frontend: they go to a chain, or are
// refused before.
type verdict struct{ chain, refuse string }

// verdicts makes the chains and says which frontends go where.
func (w *portWriter) verdicts(hasExternal bool) (inside, outside verdict) {
	if len(w.everywhere) == 0 {
		refuse := verdict{refuse: "goto " + chainReject}
		return refuse, refuse
	}
	all, local := w.name("svc"), w.name("local")
	needAll := !internalLocal(w.service) || hasExternal
	if needAll {
		w.balance(all, w.everywhere)
	}
	needLocal := internalLocal(w.service) || hasExternal && externalLocal(w.service)
	if needLocal && len(w.onNode) > 0 {
		w.balance(local, w.onNode)
	}
	inside = verdict{chain: all}
	if internalLocal(w.service) {
		inside = verdict{chain: local}
		if len(w.onNode) == 0 {
			inside = verdict{refuse: "drop"}
		}
	}
	if hasExternal {
		outside = verdict{chain: w.name("ext")}
		w.chains[outside.chain] = w.externalRules(all, local)
	}
	return inside, outside
}

// externalRules are for packets to node ports and external addresses. The
// client's address is kept only where the endpoint is on this node for sure.
func (w *portWriter) externalRules(all, local string) []string {
	if !externalLocal(w.service) {
		return []string{"jump " + chainMark, "goto " + all}
	}
	var rules []string
	if len(disjoint(w.c.ClusterCIDRs, is4(w.family))) > 0 {
		// Pods use a service as if by its cluster address.
		rules = append(rules, w.ip()+" saddr @"+setClusterCIDRs+" goto "+all)
	}
	rules = append(rules, "fib saddr type local jump "+chainMark, "fib saddr type local goto "+all)
	if len(w.onNode) == 0 {
		return append(rules, "drop")
	}
	return append(rules, "goto "+local)
}

func (w *portWriter) ip() string {
	if is4(w.family) {
		return "ip"
	}
	return "ip6"
}

// name is the name of a chain of this port: a hash, and what it stands for.
func (w *portWriter) name(kind string, more ...string) string {
	port := w.port.Name
	if port == "" {
		port = strconv.Itoa(int(w.port.Port))
	}
	what := fmt.Sprintf("%s/%s/%s/%s", w.service.Namespace, w.service.Name, w.protocol, port)
	sum := sha256.Sum256([]byte(what + " " + strconv.Itoa(int(w.port.Port)) + " " + strings.Join(more, " ")))
	return kind + "-" + hex.EncodeToString(sum[:6]) + "-" + what
}

// balance makes a chain that chooses one of the endpoints for each connection.
func (w *portWriter) balance(chain string, endpoints []endpoint) {
	if w.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		w.balanceByClient(chain, endpoints)
		return
	}
	for _, e := range endpoints {
		w.hairpin(e)
	}
	if len(endpoints) == 1 {
		w.chains[chain] = []string{w.dnat(endpoints[0])}
		return
	}
	choices := make([]string, len(endpoints))
	for i, e := range endpoints {
		choices[i] = fmt.Sprintf("%d : %s . %d", i, e.at.Addr(), e.at.Port())
	}
	w.chains[chain] = []string{fmt.Sprintf("meta l4proto %s dnat %s to numgen random mod %d map { %s }",
		w.protocol, w.ip(), len(endpoints), strings.Join(choices, ", "))}
}

func (w *portWriter) dnat(e endpoint) string {
	return fmt.Sprintf("meta l4proto %s dnat to %s", w.protocol, e.at)
}

// hairpin lets the endpoint reach itself through the service: its own address
// must not come back to it as a client's.
func (w *portWriter) hairpin(e endpoint) {
	w.elements[element{setHairpin, e.at.Addr().String() + " . " + e.at.Addr().String()}] = ""
}

// balanceByClient makes a chain that brings a client back to its endpoint: each
// endpoint has a set of clients, which the kernel fills and empties.
func (w *portWriter) balanceByClient(chain string, endpoints []endpoint) {
	timeout := time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
	if cfg := w.service.Spec.SessionAffinityConfig; cfg != nil && cfg.ClientIP != nil && cfg.ClientIP.TimeoutSeconds != nil {
		timeout = time.Duration(*cfg.ClientIP.TimeoutSeconds) * time.Second
	}
	var rules, choices []string
	for i, e := range endpoints {
		w.hairpin(e)
		to, clients := w.name("ep", e.at.String()), w.name("aff", e.at.String(), timeout.String())
		w.affinities[clients] = timeout
		w.chains[to] = []string{fmt.Sprintf("update @%s { %s saddr }", clients, w.ip()), w.dnat(e)}
		rules = append(rules, fmt.Sprintf("%s saddr @%s goto %s", w.ip(), clients, to))
		choices = append(choices, fmt.Sprintf("%d : goto %s", i, to))
	}
	w.chains[chain] = append(rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(endpoints), strings.Join(choices, " , ")))
}

// lead tells where packets to an address of the service go.
func (w *portWriter) lead(ip netip.Addr, v verdict) {
	key := fmt.Sprintf("%s . %s . %d", ip, w.protocol, w.port.Port)
	if v.refuse != "" {
		w.elements[element{mapRefusedIPs, key}] = v.refuse
		return
	}
	w.elements[element{mapServiceIPs, key}] = "goto " + v.chain
}

func (w *portWriter) leadNodePort(v verdict) {
	if w.port.NodePort == 0 {
		return
	}
	key := fmt.Sprintf("%s . %d", w.protocol, w.port.NodePort)
	if v.refuse != "" {
		w.elements[element{mapRefusedNodePorts, key}] = v.refuse
		return
	}
	w.elements[element{mapNodePorts, key}] = "goto " + v.chain
}

// firewall keeps others than loadBalancerSourceRanges from the load balancer's addresses.
func (w *portWriter) firewall() {
	var sources []netip.Prefix
	for _, s := range w.service.Spec.LoadBalancerSourceRanges {
		if r, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil {
			sources = append(sources, r)
		}
	}
	sources = disjoint(sources, is4(w.family))
	if len(sources) == 0 || len(w.loadBalancerIPs()) == 0 {
		return
	}
	var texts []string
	for _, r := range sources {
		texts = append(texts, r.String())
	}
	chain := w.name("fw")
	used := false
	for _, s := range w.loadBalancerIPs() {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() == is4(w.family) && !ip.IsLoopback() {
			w.elements[element{mapFirewall, fmt.Sprintf("%s . %s . %d", ip, w.protocol, w.port.Port)}] = "jump " + chain
			used = true
		}
	}
	if used {
		w.chains[chain] = []string{fmt.Sprintf("%s saddr != { %s } drop", w.ip(), strings.Join(texts, ", "))}
	}
}

// noteUDP notes where UDP flows lead: a flow that leads elsewhere is stale.
func (w *portWriter) noteUDP(internal, external []netip.Addr) {
	if w.protocol != "udp" {
		return
	}
	valid := []netip.AddrPort{}
	for _, e := range slices.Concat(w.everywhere, w.onNode) {
		if !slices.Contains(valid, e.at) {
			valid = append(valid, e.at)
		}
	}
	for _, ip := range slices.Concat(internal, external) {
		w.udp[frontend{ip, uint16(w.port.Port)}] = valid
	}
	if w.port.NodePort != 0 {
		w.udp[frontend{port: uint16(w.port.NodePort)}] = valid
	}
}

// disjoint returns the prefixes of one family, masked and sorted, without those
// that lie in others: nftables takes no overlapping intervals.
func disjoint(prefixes []netip.Prefix, is4 bool) []netip.Prefix {
	var sorted, out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == is4 {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}
