//go:build linux

package podnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A pod's default gateway. No interface has these addresses: the pod's neighbour
// table says that they are at the other end of its pair.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

func gatewayOf(pod netip.Addr) netip.Addr {
	if pod.Is4() {
		return gateway4
	}
	return gateway6
}

// hostPrefix begins the names of the node's ends.
const hostPrefix = "pod"

// hostName is the name of the node's end, which follows from the sandbox: a DEL
// finds it without any record.
func hostName(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(key(containerID, ifName)))
	return hostPrefix + hex.EncodeToString(sum[:6])
}

// attach gives a sandbox its interface. What it did is undone if it fails.
func (n *Network) attach(ctx context.Context, c call) (*types100.Result, error) {
	a := &attachment{ContainerID: c.containerID, Interface: c.ifName, Netns: c.netns, Host: hostName(c.containerID, c.ifName), Pod: c.pod}
	for _, p := range c.conf.RuntimeConfig.PortMappings {
		if p.HostPort > 0 {
			a.Ports = append(a.Ports, p)
		}
	}
	defer n.keys.lock(a.key())()
	ns, err := netns.GetFromPath(c.netns)
	if err != nil {
		return nil, types.NewError(codeBadEnvironment, fmt.Sprintf("open the network namespace of the sandbox: %v", err), "")
	}
	defer ns.Close()

	nodeIPs, err := n.reserve(a)
	if err != nil {
		return nil, err
	}
	undo := func(cause error) (*types100.Result, error) {
		return nil, errors.Join(cause, n.detachLocked(context.WithoutCancel(ctx), a.key(), a.Host))
	}
	if err := saveAttachment(n.attachmentDir(), a); err != nil {
		return undo(err)
	}
	w := wiring{a: a, ns: ns, mtu: n.mtu(nodeIPs), nodeIPs: nodeIPs}
	if err := w.connect(); err != nil {
		return undo(fmt.Errorf("attach %s: %w", a.nameOfPod(), err))
	}
	if err := n.firewall.addPorts(ctx, a); err != nil {
		return undo(fmt.Errorf("attach %s: %w", a.nameOfPod(), err))
	}
	return w.result(), nil
}

func (a *attachment) nameOfPod() string {
	if a.Pod != "" {
		return a.Pod
	}
	return a.ContainerID
}

// reserve takes addresses, and tells the node's own.
func (n *Network) reserve(a *attachment) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.pool.take(a)
	switch {
	case errors.Is(err, errNoRange):
		return nil, types.NewError(codeTryAgain, err.Error(), "")
	case err != nil:
		return nil, err
	}
	return n.known.NodeIPs, nil
}

// mtu is the pods' MTU.
func (n *Network) mtu(nodeIPs []netip.Addr) int {
	if n.c.MTU > 0 {
		return n.c.MTU
	}
	for _, ip := range nodeIPs {
		if link, err := linkWith(ip); err == nil {
			return link.Attrs().MTU
		}
	}
	return 1500
}

// linkWith finds the interface that holds an address.
func linkWith(ip netip.Addr) (netlink.Link, error) {
	addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family(ip)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if a.IP.Equal(net.IP(ip.AsSlice())) {
			return netlink.LinkByIndex(a.LinkIndex)
		}
	}
	return nil, fmt.Errorf("no interface has the address %s", ip)
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// single is the prefix of one address.
func single(ip netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(ip, ip.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// wiring is the work on one pair.
type wiring struct {
	a               *attachment
	ns              netns.NsHandle
	mtu             int
	nodeIPs         []netip.Addr
	hostMAC, podMAC net.HardwareAddr
}

func (w *wiring) connect() error {
	inPod, err := netlink.NewHandleAt(w.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the network namespace %s: %w", w.a.Netns, err)
	}
	defer inPod.Close()
	if err := w.makePair(inPod); err != nil {
		return err
	}
	// The node's end is up first: the pod's end then has a carrier from its first
	// moment, and its addresses work at once.
	if err := w.raiseHost(); err != nil {
		return err
	}
	if err := w.podSide(inPod); err != nil {
		return err
	}
	return w.nodeSide()
}

func (w *wiring) makePair(inPod *netlink.Handle) error {
	if old, err := netlink.LinkByName(w.a.Host); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("remove the old interface %s: %w", w.a.Host, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = w.a.Host, w.mtu
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace, pair.PeerMTU = w.a.Interface, netlink.NsFd(int(w.ns)), uint32(w.mtu)
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make the pair of %s: %w", w.a.Interface, err)
	}
	host, err := netlink.LinkByName(w.a.Host)
	if err != nil {
		return fmt.Errorf("find the interface %s: %w", w.a.Host, err)
	}
	pod, err := inPod.LinkByName(w.a.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", w.a.Interface, err)
	}
	w.hostMAC, w.podMAC = host.Attrs().HardwareAddr, pod.Attrs().HardwareAddr
	return nil
}

func (w *wiring) podSide(inPod *netlink.Handle) error {
	link, err := inPod.LinkByName(w.a.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", w.a.Interface, err)
	}
	if err := inPod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", w.a.Interface, err)
	}
	index := link.Attrs().Index
	for _, ip := range w.a.Addresses {
		gateway := net.IP(gatewayOf(ip).AsSlice())
		address := &netlink.Addr{IPNet: single(ip)}
		if ip.Is6() {
			address.Flags = unix.IFA_F_NODAD // nobody else is on this link
		}
		if err := inPod.AddrAdd(link, address); err != nil {
			return fmt.Errorf("give %s the address %s: %w", w.a.Interface, ip, err)
		}
		if err := inPod.NeighSet(neighbour(index, gateway, w.hostMAC)); err != nil {
			return fmt.Errorf("tell %s its gateway: %w", w.a.Interface, err)
		}
		if ip.Is4() {
			if err := inPod.RouteAdd(&netlink.Route{LinkIndex: index, Dst: single(gatewayOf(ip)), Scope: netlink.SCOPE_LINK}); err != nil {
				return fmt.Errorf("route to the gateway of %s: %w", w.a.Interface, err)
			}
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if ip.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := inPod.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: gateway, Src: ip.AsSlice()}); err != nil {
			return fmt.Errorf("set the default route of %s: %w", w.a.Interface, err)
		}
	}
	return nil
}

func neighbour(link int, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}
}

func (w *wiring) raiseHost() error {
	if err := w.sysctls(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(w.a.Host)
	if err != nil {
		return fmt.Errorf("find the interface %s: %w", w.a.Host, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", w.a.Host, err)
	}
	return nil
}

func (w *wiring) nodeSide() error {
	link, err := netlink.LinkByName(w.a.Host)
	if err != nil {
		return fmt.Errorf("find the interface %s: %w", w.a.Host, err)
	}
	for _, ip := range w.a.Addresses {
		if err := netlink.NeighSet(neighbour(link.Attrs().Index, ip.AsSlice(), w.podMAC)); err != nil {
			return fmt.Errorf("tell the node where %s is: %w", ip, err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(ip), Scope: netlink.SCOPE_LINK, Protocol: podRoutes, Src: sourceFor(ip, w.nodeIPs)}
		if ip.Is6() {
			route.Scope = netlink.SCOPE_UNIVERSE
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", ip, err)
		}
	}
	return nil
}

// sourceFor is the node's address that its own packets to ip carry; nil leaves
// the choice to the kernel.
func sourceFor(ip netip.Addr, nodeIPs []netip.Addr) net.IP {
	for _, own := range nodeIPs {
		if own.Is4() == ip.Is4() {
			if _, err := linkWith(own); err == nil {
				return own.AsSlice()
			}
		}
	}
	return nil
}

// sysctls lets the node forward for this pod alone, from the pod's own address
// only (the strict return path check).
func (w *wiring) sysctls() error {
	settings := [][2]string{
		{"ipv4/conf/%s/forwarding", "1"},
		{"ipv4/conf/%s/rp_filter", "1"},
		{"ipv4/conf/%s/send_redirects", "0"},
	}
	if w.has6() {
		settings = append(settings, [2]string{"ipv6/conf/%s/accept_ra", "0"}, [2]string{"ipv6/conf/%s/accept_dad", "0"})
		if err := forward6(w.a.Host); err != nil {
			return err
		}
	} else {
		settings = append(settings, [2]string{"ipv6/conf/%s/disable_ipv6", "1"})
	}
	if len(w.a.Ports) > 0 { // host ports answer at localhost, too; the firewall keeps others out (declareLoopback)
		settings = append(settings, [2]string{"ipv4/conf/%s/route_localnet", "1"})
	}
	for _, s := range settings {
		if err := sysctl(fmt.Sprintf(s[0], w.a.Host), s[1]); err != nil {
			return err
		}
	}
	return nil
}

func (w *wiring) has6() bool {
	for _, ip := range w.a.Addresses {
		if ip.Is6() {
			return true
		}
	}
	return false
}

// sysctl sets net/<name>. Settings of a family that the kernel lacks are left out.
func sysctl(name, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "ipv6/") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set net/%s to %s: %w", name, value, err)
	}
	return nil
}

// forward6 lets an interface forward IPv6. Kernels before 6.17 know only one
// setting for all of a namespace's interfaces.
func forward6(name string) error {
	own := "ipv6/conf/" + name + "/force_forwarding"
	if _, err := os.Stat("/proc/sys/net/" + own); err != nil {
		return sysctl("ipv6/conf/all/forwarding", "1")
	}
	return sysctl(own, "1")
}

func (w *wiring) result() *types100.Result {
	inPod := 1
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: w.a.Host, Mac: w.hostMAC.String()},
			{Name: w.a.Interface, Mac: w.podMAC.String(), Sandbox: w.a.Netns},
		},
	}
	for _, ip := range w.a.Addresses {
		gateway := net.IP(gatewayOf(ip).AsSlice())
		all := net.IPNet{IP: make(net.IP, len(ip.AsSlice())), Mask: net.CIDRMask(0, ip.BitLen())}
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inPod, Address: *single(ip), Gateway: gateway})
		r.Routes = append(r.Routes, &types.Route{Dst: all, GW: gateway})
	}
	return r
}

// detach takes everything back. It succeeds when there is nothing (left) to take.
func (n *Network) detach(ctx context.Context, key, host string) error {
	defer n.keys.lock(key)()
	return n.detachLocked(ctx, key, host)
}

func (n *Network) detachLocked(ctx context.Context, key, host string) error {
	n.mu.Lock()
	a := n.pool.byKey[key]
	n.mu.Unlock()
	if a != nil {
		if err := n.firewall.removePorts(ctx, a); err != nil {
			return fmt.Errorf("detach %s: %w", a.nameOfPod(), err)
		}
	}
	link, err := netlink.LinkByName(host)
	if err == nil {
		err = netlink.LinkDel(link) // its other end and its routes go with it
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the interface %s: %w", host, err)
	}
	if err := forgetAttachment(n.attachmentDir(), key); err != nil {
		return err
	}
	// The address becomes free last: nothing leads to the old pod any more.
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pool.drop(key)
	return nil
}

// checkAttachment is CNI's CHECK.
func (n *Network) checkAttachment(c call) error {
	defer n.keys.lock(key(c.containerID, c.ifName))()
	n.mu.Lock()
	a := n.pool.byKey[key(c.containerID, c.ifName)]
	n.mu.Unlock()
	if a == nil {
		return fmt.Errorf("%s of container %s is not attached", c.ifName, c.containerID)
	}
	if _, err := netlink.LinkByName(a.Host); err != nil {
		return fmt.Errorf("the node's end %s of %s: %w", a.Host, a.nameOfPod(), err)
	}
	ns, err := netns.GetFromPath(c.netns)
	if err != nil {
		return fmt.Errorf("open the network namespace %s: %w", c.netns, err)
	}
	defer ns.Close()
	inPod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the network namespace %s: %w", c.netns, err)
	}
	defer inPod.Close()
	link, err := inPod.LinkByName(a.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", a.Interface, err)
	}
	have, err := whole(func() ([]netlink.Addr, error) { return inPod.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", a.Interface, err)
	}
	return everyAddress(a, have)
}

func everyAddress(a *attachment, have []netlink.Addr) error {
	held := map[string]bool{}
	for _, h := range have {
		held[h.IP.String()] = true
	}
	for _, want := range a.Addresses {
		if !held[want.String()] {
			return fmt.Errorf("%s of %s has lost its address %s", a.Interface, a.nameOfPod(), want)
		}
	}
	return nil
}

// keepOnly detaches all but the valid attachments: CNI's GC.
func (n *Network) keepOnly(ctx context.Context, valid map[string]bool) error {
	n.mu.Lock()
	all := n.pool.all()
	n.mu.Unlock()
	var failed []error
	for _, a := range all {
		if !valid[a.key()] {
			n.log.Info("an attachment was left over", "pod", a.nameOfPod(), "addresses", a.Addresses)
			failed = append(failed, n.detach(ctx, a.key(), a.Host))
		}
	}
	return errors.Join(failed...)
}

// collectLeaks detaches what belongs to sandboxes whose namespace is gone.
func (n *Network) collectLeaks(ctx context.Context) {
	n.mu.Lock()
	all := n.pool.all()
	n.mu.Unlock()
	valid := map[string]bool{}
	for _, a := range all {
		valid[a.key()] = isNamespace(a.Netns)
	}
	for _, a := range all {
		if valid[a.key()] {
			continue
		}
		if err := n.detach(ctx, a.key(), a.Host); err != nil {
			n.log.Error("a leaked attachment stays", "error", err)
			continue
		}
		n.log.Info("released the addresses of a sandbox that is gone", "pod", a.nameOfPod(), "addresses", a.Addresses)
	}
}

// isNamespace tells whether the path still leads to a namespace: its mount point
// stays as an empty file when the machine was cut off.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	err := unix.Statfs(path, &fs)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false
	}
	return err != nil || fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC
}
