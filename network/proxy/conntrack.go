//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// staleFlows are UDP frontends that lost an endpoint, or got their first one:
// flows that the kernel remembers and that lead elsewhere than to these must be
// forgotten, else a client that keeps its port never reaches a living endpoint.
type staleFlows map[frontend][]netip.AddrPort

// compare notes the frontends whose flows may be stale.
func (s staleFlows) compare(old, next *part) {
	for f, was := range old.udp {
		now := next.udp[f]
		lost := slices.ContainsFunc(was, func(at netip.AddrPort) bool { return !slices.Contains(now, at) })
		if lost || len(was) == 0 && len(now) > 0 {
			s[f] = now
		}
	}
	for f, now := range next.udp {
		if _, known := old.udp[f]; !known && len(now) > 0 {
			s[f] = now
		}
	}
}

// flush forgets the stale flows.
func (s staleFlows) flush(family knftables.Family, node nodeInfo) error {
	if len(s) == 0 {
		return nil
	}
	f := netlink.InetFamily(unix.AF_INET)
	if !is4(family) {
		f = unix.AF_INET6
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, f, flowFilter{s, node}); err != nil {
		return fmt.Errorf("forget UDP flows: %w", err)
	}
	return nil
}

// flowFilter selects stale flows.
type flowFilter struct {
	stale staleFlows
	node  nodeInfo
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	at, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	valid, known := f.stale[frontend{to.Unmap(), flow.Forward.DstPort}]
	if !known && slices.Contains(f.node.ips, to.Unmap()) {
		valid, known = f.stale[frontend{port: flow.Forward.DstPort}]
	}
	return known && !slices.Contains(valid, netip.AddrPortFrom(at.Unmap(), flow.Reverse.SrcPort))
}
