package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// HostNetwork is what a cluster has on the machine's own network: one interface
// with the machine's address among the nodes, the routes to their pods, and one
// nftables table. The bridge that the nodes stand on is at the interface's other end,
// in a network namespace of its own: what nodes say to each other passes none of the
// machine's rules, whatever those do with bridged packets. No rule of anybody else is
// touched, and all of it goes with Remove.
type HostNetwork struct {
	id     string // six hexadecimal digits, from the data directory: unique on the machine
	ranges Ranges
	bridge Namespaces // where the bridge is
}

// hostNetworkOf names the network of the cluster in dir; it makes nothing.
func hostNetworkOf(dir string, r Ranges) HostNetwork {
	sum := sha256.Sum256([]byte(dir))
	return HostNetwork{id: fmt.Sprintf("%x", sum[:3]), ranges: r, bridge: namespacesOf(Dirs(dir).Run(), ".bridge")}
}

// Interface is the machine's way to the nodes.
func (h HostNetwork) Interface() string { return interfacePrefix + h.id }

const (
	interfacePrefix = "skiff-"
	bridgeName      = "bridge"  // in its namespace
	machinePort     = "machine" // the bridge's port to the machine
)

// port is the bridge's port to a node.
func port(n int) string { return fmt.Sprintf("node-%d", n) }

func (h HostNetwork) table() string { return "skiff_" + h.id }

// Create makes bridge, routes and rules, or completes what is there.
func (h HostNetwork) Create(ctx context.Context) error {
	if err := h.bridge.Create(); err != nil {
		return err
	}
	link, err := h.connect()
	if err != nil {
		return fmt.Errorf("make interface %s: %w", h.Interface(), err)
	}
	if err := h.bridge.In(h.configureBridge); err != nil {
		return fmt.Errorf("make bridge behind %s: %w", h.Interface(), err)
	}
	// What belongs to the cluster and goes nowhere else ends here, and never
	// leaves by the default route.
	for _, p := range []netip.Prefix{h.ranges.Pods, h.ranges.Services} {
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: 1 << 20}); err != nil {
			return fmt.Errorf("close range %s: %w", p, err)
		}
	}
	if err := h.forward(link); err != nil {
		return err
	}
	return nft(ctx, h.rules())
}

// connect makes the machine's interface, whose other end is a port of the bridge.
func (h HostNetwork) connect() (netlink.Link, error) {
	link, err := netlink.LinkByName(h.Interface())
	if err == nil && link.Type() != "veth" { // an earlier version's bridge
		if err = netlink.LinkDel(link); err == nil {
			err = netlink.LinkNotFoundError{}
		}
	}
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		handle, err := netns.GetFromPath(h.bridge.net())
		if err != nil {
			return nil, err
		}
		defer handle.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = h.Interface()
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: machinePort, PeerNamespace: netlink.NsFd(int(handle))}); err != nil {
			return nil, err
		}
		if link, err = netlink.LinkByName(h.Interface()); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: h.ranges.Host().AsSlice(), Mask: net.CIDRMask(h.ranges.Nodes.Bits(), 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return nil, err
	}
	return link, netlink.LinkSetUp(link)
}

// configureBridge runs in the bridge's namespace.
func (h HostNetwork) configureBridge() error {
	handle, err := netlink.NewHandle() // its socket belongs to this thread's namespace
	if err != nil {
		return err
	}
	defer handle.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := enslave(handle, machinePort); err != nil {
		return err
	}
	bridge, err := handle.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	return handle.LinkSetUp(bridge)
}

// enslave makes an interface a port of the bridge.
func enslave(handle *netlink.Handle, name string) error {
	bridge, err := handle.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	link, err := handle.LinkByName(name)
	if err != nil {
		return err
	}
	if err := handle.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	return handle.LinkSetUp(link)
}

// forward lets packets pass between the nodes and where the machine's default
// route goes: per interface, so that nothing else begins to be forwarded.
func (h HostNetwork) forward(link netlink.Link) error {
	interfaces := []string{link.Attrs().Name}
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 255)) // a documentation address: it asks for the default route, nothing is sent
	if err == nil && len(routes) > 0 {
		if up, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil && up.Attrs().Name != "lo" {
			interfaces = append(interfaces, up.Attrs().Name)
		}
	}
	for _, name := range interfaces {
		path := filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding")
		if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == "1" {
			continue
		}
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("turn on forwarding for %s: %w", name, err)
		}
		if name == h.Interface() {
			continue // it goes as a whole
		}
		if err := noteForwarding(name); err != nil {
			return err
		}
	}
	return nil
}

// forwardingNote names, a line each, the interfaces of the machine for which a
// cluster turned forwarding on. It is shared by all clusters, and gone after a reboot as
// the setting is.
const forwardingNote = "/run/skiff-forwarding"

func noteForwarding(name string) error {
	f, err := os.OpenFile(forwardingNote, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("note forwarding of %s: %w", name, err)
	}
	_, err = fmt.Fprintln(f, name)
	return errors.Join(err, f.Close())
}

// stopForwarding turns off again what clusters turned on, once none is left.
func stopForwarding() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // then it may be off by what came or went just now
		return fmt.Errorf("look for other clusters: %w", err)
	}
	for _, link := range links {
		if link.Type() == "veth" && strings.HasPrefix(link.Attrs().Name, interfacePrefix) {
			return nil
		}
	}
	names, err := os.ReadFile(forwardingNote)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what forwarding was turned on: %w", err)
	}
	for name := range strings.FieldsSeq(string(names)) {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding"), []byte("0"), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turn off forwarding for %s: %w", name, err)
		}
	}
	return os.Remove(forwardingNote)
}

// rules: what the nodes send to the outside gets the machine's address; nobody
// outside reaches the nodes unasked.
func (h HostNetwork) rules() string {
	return fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain outside {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr { %[2]s, %[3]s } oifname != { "%[4]s", "lo" } masquerade
	}
	chain between {
		type filter hook forward priority filter; policy accept;
		iifname "%[4]s" accept
		oifname "%[4]s" ct state established,related accept
		oifname "%[4]s" drop
	}
}
`, h.table(), h.ranges.Nodes, h.ranges.Pods, h.Interface())
}

// nft carries out a script in one transaction.
func nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("set nftables rules: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Remove takes it all away; what is not there is no error.
func (h HostNetwork) Remove(ctx context.Context) error {
	var errs []error
	if link, err := netlink.LinkByName(h.Interface()); err == nil {
		errs = append(errs, netlink.LinkDel(link)) // takes its routes along
	}
	errs = append(errs, h.bridge.Remove())
	for _, p := range []netip.Prefix{h.ranges.Pods, h.ranges.Services} {
		err := netlink.RouteDel(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: 1 << 20})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("open range %s: %w", p, err))
		}
	}
	errs = append(errs, nft(ctx, fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\n", h.table())), stopForwarding())
	return errors.Join(errs...)
}

// Attach puts a node onto the bridge: eth0 in its network namespace, its address,
// its default route, and the machine's route to its pods.
func (h HostNetwork) Attach(n Node, ns Namespaces) error {
	link, err := netlink.LinkByName(h.Interface())
	if err != nil {
		return fmt.Errorf("attach node %s: %w", n.Name, err)
	}
	// Opened here: in the bridge's mount namespace the file is not visible.
	node, err := netns.GetFromPath(ns.net())
	if err != nil {
		return fmt.Errorf("attach node %s: %w", n.Name, err)
	}
	defer node.Close()
	if err := h.bridge.In(func() error { return plug(n, node) }); err != nil {
		return fmt.Errorf("attach node %s: %w", n.Name, err)
	}
	if err := ns.In(func() error { return h.configure(n) }); err != nil {
		return fmt.Errorf("configure network of node %s: %w", n.Name, err)
	}
	route := &netlink.Route{Dst: ipNet(h.ranges.PodsOf(n.Number)), Gw: h.ranges.Node(n.Number).AsSlice(), LinkIndex: link.Attrs().Index}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to the pods of node %s: %w", n.Name, err)
	}
	return nil
}

// Detach takes a node off the bridge.
func (h HostNetwork) Detach(n Node) error {
	if h.bridge.Exist() {
		if err := h.bridge.In(func() error { return unplug(n) }); err != nil {
			return fmt.Errorf("detach node %s: %w", n.Name, err)
		}
	}
	err := netlink.RouteDel(&netlink.Route{Dst: ipNet(h.ranges.PodsOf(n.Number)), Gw: h.ranges.Node(n.Number).AsSlice()})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route to the pods of node %s: %w", n.Name, err)
	}
	return nil
}

// plug runs in the bridge's namespace. It makes the pair of interfaces, unless it is
// there: one end a port of the bridge, the other in the node's namespace.
func plug(n Node, node netns.NsHandle) error {
	handle, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer handle.Close()
	if _, err := handle.LinkByName(port(n.Number)); err == nil {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port(n.Number)
	if err := handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nodeInterface, PeerNamespace: netlink.NsFd(int(node))}); err != nil {
		return err
	}
	return enslave(handle, port(n.Number))
}

// unplug runs in the bridge's namespace.
func unplug(n Node) error {
	handle, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer handle.Close()
	if link, err := handle.LinkByName(port(n.Number)); err == nil {
		return handle.LinkDel(link)
	}
	return nil
}

const nodeInterface = "eth0"

// configure runs in the node's network namespace.
func (h HostNetwork) configure(n Node) error {
	runtime.LockOSThread()
	handle, err := netlink.NewHandle() // its socket belongs to this thread's namespace
	if err != nil {
		return err
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := handle.LinkByName(nodeInterface)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: h.ranges.Node(n.Number).AsSlice(), Mask: net.CIDRMask(h.ranges.Nodes.Bits(), 32)}}
	if err := handle.AddrReplace(eth, addr); err != nil {
		return err
	}
	if err := handle.LinkSetUp(eth); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{h.ranges.Pods, h.ranges.Services} {
		if err := handle.RouteReplace(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: 1 << 20}); err != nil {
			return err
		}
	}
	return handle.RouteReplace(&netlink.Route{Gw: h.ranges.Host().AsSlice(), LinkIndex: eth.Attrs().Index})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
