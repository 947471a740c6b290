//go:build linux

package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"skiff/client"
)

// Routes of ours carry these protocol numbers, so that stale ones are found again.
const (
	podRoutes  netlink.RouteProtocol = 98 // to one pod of this node
	nodeRoutes netlink.RouteProtocol = 99 // to other nodes' pods, and where ranges end
)

// lastResort is the metric of the routes where ranges end: any other route wins.
const lastResort = 1 << 20

// vxlanOverhead is what VXLAN over IPv4 adds to a packet.
const vxlanOverhead = 50

// peer is another node.
type peer struct {
	Name     string         `json:"name"`
	IPs      []netip.Addr   `json:"ips"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
}

// hear takes in what the nodes say.
func (n *Network) hear(ctx context.Context, view *client.View) {
	k := n.readNodes(view)
	n.mu.Lock()
	same := knownEqual(k, n.known) && n.ready
	if !same && !slices.Equal(k.PodCIDRs, n.known.PodCIDRs) {
		n.pool.setRanges(k.PodCIDRs)
	}
	n.known = k
	n.mu.Unlock()
	if same {
		return // a heartbeat
	}
	if err := saveJSON(n.knownFile(), k); err != nil {
		n.log.Error("what is known of the cluster is not remembered", "error", err)
	}
	n.settle(ctx)
}

func knownEqual(a, b known) bool {
	return slices.Equal(a.PodCIDRs, b.PodCIDRs) && slices.Equal(a.NodeIPs, b.NodeIPs) &&
		slices.EqualFunc(a.Peers, b.Peers, func(a, b peer) bool {
			return a.Name == b.Name && slices.Equal(a.IPs, b.IPs) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
		})
}

// readNodes makes known from the nodes; what Config gives wins.
func (n *Network) readNodes(view *client.View) known {
	var k known
	for node := range client.All[*corev1.Node](view, "") {
		p := peer{Name: node.Name}
		for _, a := range node.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				p.IPs = append(p.IPs, ip)
			}
		}
		for _, s := range node.Spec.PodCIDRs {
			if r, err := netip.ParsePrefix(s); err == nil {
				p.PodCIDRs = append(p.PodCIDRs, r.Masked())
			}
		}
		if node.Name == n.c.NodeName {
			k.PodCIDRs, k.NodeIPs = p.PodCIDRs, p.IPs
			continue
		}
		k.Peers = append(k.Peers, p)
	}
	if len(n.c.PodCIDRs) > 0 {
		k.PodCIDRs = n.c.PodCIDRs
	}
	if len(n.c.NodeIPs) > 0 {
		k.NodeIPs = n.c.NodeIPs
	}
	return k
}

// insideLocked is what is not masqueraded.
func (n *Network) insideLocked() ranges {
	r := ranges{pods: n.known.PodCIDRs}
	r.all = slices.Concat(n.c.ClosedRanges, n.c.ServiceRanges, n.known.PodCIDRs)
	for _, p := range n.known.Peers {
		r.all = append(r.all, p.PodCIDRs...)
		for _, ip := range p.IPs {
			r.all = append(r.all, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	return r
}

// settle brings the kernel to what is known. It may be called at any time, on
// the goroutine of Run.
func (n *Network) settle(ctx context.Context) {
	n.mu.Lock()
	k, inside := n.known, n.insideLocked()
	n.mu.Unlock()
	err := errors.Join(n.forwardUplinks(k.NodeIPs), n.firewall.setRanges(ctx, inside), n.writeRoutes(k))
	if err == nil && len(k.PodCIDRs) > 0 {
		err = n.announce()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != n.writeErr {
		n.log.Error("the pod network is not as it should be", "error", err)
	}
	n.writeErr = text
}

// announce writes the CNI configuration once pods can be attached.
func (n *Network) announce() error {
	n.mu.Lock()
	done := n.ready
	n.mu.Unlock()
	if done {
		return nil
	}
	if err := n.writeConf(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = true
	return nil
}

// forwardUplinks lets the interfaces of the node's addresses forward: replies to
// pods, and requests to services, come in there.
func (n *Network) forwardUplinks(nodeIPs []netip.Addr) error {
	var failed []error
	for _, ip := range nodeIPs {
		link, err := linkWith(ip)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if ip.Is6() {
			failed = append(failed, forward6(link.Attrs().Name))
			continue
		}
		failed = append(failed, sysctl("ipv4/conf/"+link.Attrs().Name+"/forwarding", "1"))
	}
	return errors.Join(failed...)
}

// writeRoutes makes the routes and removes those that are no longer wanted.
func (n *Network) writeRoutes(k known) error {
	want, failed := n.wantedRoutes(k)
	kept := map[string]bool{}
	for i := range want {
		if err := netlink.RouteReplace(&want[i]); err != nil {
			failed = append(failed, fmt.Errorf("route to %s: %w", want[i].Dst, err))
		}
		kept[routeKey(want[i])] = true
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(f, &netlink.Route{Protocol: nodeRoutes}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("list routes: %w", err))
			continue
		}
		for _, r := range have {
			// Routes are left alone while something is amiss: a node that cannot
			// be resolved now keeps the route that it had.
			if kept[routeKey(r)] || len(failed) > 0 {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				failed = append(failed, fmt.Errorf("remove the route to %s: %w", r.Dst, err))
			}
		}
	}
	return errors.Join(failed...)
}

func routeKey(r netlink.Route) string {
	return fmt.Sprintf("%s %d", r.Dst, r.Priority)
}

func (n *Network) wantedRoutes(k known) (want []netlink.Route, failed []error) {
	for _, r := range slices.Concat(n.c.ClosedRanges, k.PodCIDRs) {
		want = append(want, netlink.Route{Dst: ipNet(r.Masked()), Type: unix.RTN_UNREACHABLE, Priority: lastResort, Protocol: nodeRoutes})
	}
	services, err := n.serviceRoutes(k)
	if err != nil {
		failed = append(failed, err)
	}
	want = append(want, services...)
	var far []peer
	for _, p := range k.Peers {
		near, err := n.directRoutes(p, k)
		switch {
		case errors.Is(err, errNotOnLink):
			far = append(far, p)
		case err != nil:
			failed = append(failed, fmt.Errorf("node %s: %w", p.Name, err))
		}
		want = append(want, near...)
	}
	tunnels, err := n.tunnelRoutes(far, k)
	if err != nil {
		failed = append(failed, err)
	}
	return append(want, tunnels...), failed
}

var errNotOnLink = errors.New("the node is behind a router")

// directRoutes lead through the node itself, if it is on a link of ours.
func (n *Network) directRoutes(p peer, k known) ([]netlink.Route, error) {
	var routes []netlink.Route
	for _, r := range p.PodCIDRs {
		gateway, ok := sameFamily(r.Addr(), p.IPs)
		if !ok {
			continue
		}
		path, err := netlink.RouteGet(gateway.AsSlice())
		if err != nil || len(path) == 0 {
			return nil, fmt.Errorf("find the way to %s: %w", gateway, err)
		}
		if path[0].Gw != nil {
			return nil, errNotOnLink
		}
		routes = append(routes, netlink.Route{Dst: ipNet(r), Gw: gateway.AsSlice(), LinkIndex: path[0].LinkIndex, Protocol: nodeRoutes,
			Src: sourceFor(gateway, k.NodeIPs)})
	}
	return routes, nil
}

func sameFamily(as netip.Addr, of []netip.Addr) (netip.Addr, bool) {
	for _, ip := range of {
		if ip.Is4() == as.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// serviceRoutes end service ranges on a device that swallows everything.
func (n *Network) serviceRoutes(k known) ([]netlink.Route, error) {
	if len(n.c.ServiceRanges) == 0 {
		return nil, nil
	}
	sink, err := n.sink(n.c.Prefix + "-svc")
	if err != nil {
		return nil, err
	}
	var routes []netlink.Route
	for _, r := range n.c.ServiceRanges {
		route := netlink.Route{Dst: ipNet(r.Masked()), LinkIndex: sink.Attrs().Index, Scope: netlink.SCOPE_LINK, Priority: lastResort,
			Protocol: nodeRoutes, Src: sourceFor(r.Addr(), k.NodeIPs)}
		if r.Addr().Is6() {
			route.Scope = netlink.SCOPE_UNIVERSE
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// sink makes the swallowing device: a dummy, or where the kernel has none, a
// bridge without ports.
func (n *Network) sink(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err = netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
			err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		}
		if err != nil {
			return nil, fmt.Errorf("make the interface %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find the interface %s: %w", name, err)
		}
	}
	if err := errors.Join(netlink.LinkSetARPOff(link), netlink.LinkSetUp(link)); err != nil {
		return nil, fmt.Errorf("set the interface %s up: %w", name, err)
	}
	return link, nil
}

// tunnelRoutes lead to nodes behind routers, through VXLAN over IPv4.
func (n *Network) tunnelRoutes(far []peer, k known) ([]netlink.Route, error) {
	name := n.c.Prefix + "-vxlan"
	if len(far) == 0 {
		if old, err := netlink.LinkByName(name); err == nil {
			return nil, netlink.LinkDel(old)
		}
		return nil, nil
	}
	own, ok := sameFamily(netip.IPv4Unspecified(), k.NodeIPs)
	if !ok {
		return nil, errors.New("nodes behind routers need an IPv4 address of this node")
	}
	device, err := n.tunnel(name, own)
	if err != nil {
		return nil, err
	}
	var routes []netlink.Route
	var failed []error
	neighbours := map[string]bool{}
	for _, p := range far {
		routes = append(routes, n.peerTunnel(device.Attrs(), p, k, neighbours, &failed)...)
	}
	failed = append(failed, forgetNeighbours(device.Attrs().Index, neighbours))
	return routes, errors.Join(failed...)
}

// peerTunnel tells the device where a peer is, and returns the routes through it.
func (n *Network) peerTunnel(device *netlink.LinkAttrs, p peer, k known, neighbours map[string]bool, failed *[]error) []netlink.Route {
	at, ok := sameFamily(netip.IPv4Unspecified(), p.IPs)
	if !ok {
		*failed = append(*failed, fmt.Errorf("node %s is behind a router and has no IPv4 address", p.Name))
		return nil
	}
	mac := tunnelMAC(at)
	fdb := &netlink.Neigh{LinkIndex: device.Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: at.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(fdb); err != nil {
		*failed = append(*failed, fmt.Errorf("tell VXLAN where node %s is: %w", p.Name, err))
		return nil
	}
	neighbours[mac.String()+" "+at.String()] = true
	var routes []netlink.Route
	for _, r := range p.PodCIDRs {
		// A range's first address stands for its node within the tunnel.
		gateway := net.IP(r.Masked().Addr().AsSlice())
		if err := netlink.NeighSet(neighbour(device.Index, gateway, mac)); err != nil {
			*failed = append(*failed, fmt.Errorf("tell where the gateway of node %s is: %w", p.Name, err))
			continue
		}
		neighbours[mac.String()+" "+gateway.String()] = true
		routes = append(routes, netlink.Route{Dst: ipNet(r), Gw: gateway, LinkIndex: device.Index, Flags: int(netlink.FLAG_ONLINK),
			Protocol: nodeRoutes, Src: sourceFor(r.Addr(), k.NodeIPs)})
	}
	return routes
}

// tunnelMAC is the address of a node's end of the tunnel: it follows from the
// node's address, so that nobody has to announce it.
func tunnelMAC(node netip.Addr) net.HardwareAddr {
	b := node.As4()
	return net.HardwareAddr{0x0e, 0x5f, b[0], b[1], b[2], b[3]}
}

func (n *Network) tunnel(name string, own netip.Addr) (netlink.Link, error) {
	uplink, err := linkWith(own)
	if err != nil {
		return nil, err
	}
	mac := tunnelMAC(own)
	if old, err := netlink.LinkByName(name); err == nil {
		v, ok := old.(*netlink.Vxlan)
		if ok && v.VxlanId == n.c.VXLANID && v.Port == n.c.VXLANPort && v.SrcAddr.Equal(own.AsSlice()) && v.HardwareAddr.String() == mac.String() {
			return old, netlink.LinkSetUp(old)
		}
		if err := netlink.LinkDel(old); err != nil {
			return nil, fmt.Errorf("remove the old interface %s: %w", name, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac, uplink.Attrs().MTU-vxlanOverhead
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: n.c.VXLANID, VtepDevIndex: uplink.Attrs().Index, SrcAddr: own.AsSlice(), Port: n.c.VXLANPort}
	if err := netlink.LinkAdd(device); err != nil {
		return nil, fmt.Errorf("make the interface %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the interface %s: %w", name, err)
	}
	return link, errors.Join(sysctl("ipv4/conf/"+name+"/forwarding", "1"), netlink.LinkSetUp(link))
}

// forgetNeighbours removes the tunnel's entries of nodes that are gone.
func forgetNeighbours(device int, keep map[string]bool) error {
	var failed []error
	for _, f := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		have, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(device, f) })
		if err != nil {
			failed = append(failed, fmt.Errorf("list neighbours: %w", err))
			continue
		}
		for _, e := range have {
			if e.State&netlink.NUD_PERMANENT == 0 || e.IP == nil || keep[strings.ToLower(e.HardwareAddr.String())+" "+e.IP.String()] {
				continue
			}
			if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = append(failed, fmt.Errorf("remove neighbour %s: %w", e.IP, err))
			}
		}
	}
	return errors.Join(failed...)
}
