package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"skiff/client"
	"skiff/cluster/local"
	"skiff/image"
	"skiff/network/dns"
	"skiff/network/podnet"
	"skiff/network/proxy"
	"skiff/node"
	"skiff/node/runtime"
	"skiff/node/runtime/containerd"
	"skiff/node/runtime/cri"
	"skiff/node/runtime/simulated"
	"skiff/registry"
)

// NodeConfig is what a machine says of itself as a node.
type NodeConfig struct {
	// Name of the node. Empty: the machine's host name in lower case.
	Name string
	// IPs by which other machines reach it, one of each family at most. Empty: the
	// address towards the server, or the one that the server advertises.
	IPs []netip.Addr
	// Runtime is local.Containerd or local.Simulated. Empty: containerd.
	Runtime string
	// RuntimeEndpoint is a CRI socket that somebody else serves. Empty: a
	// containerd of the node's own.
	RuntimeEndpoint string
	// CNIConfDir and CNIBinDir are where that runtime looks for its network.
	// Empty: /etc/cni/net.d and /opt/cni/bin.
	CNIConfDir, CNIBinDir string
	// Mirrors are registries that the node's own containerd asks first.
	Mirrors []registry.Mirror
	// Labels and Taints that the node registers with.
	Labels map[string]string
	Taints []corev1.Taint
	// CgroupParent of the node's pods. Empty: /skiff-node/<name>.
	CgroupParent string
}

func (c *NodeConfig) complete() error {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this machine's name, or give --node-name: %w", err)
		}
		c.Name = strings.ToLower(host)
	}
	if c.Runtime == "" {
		c.Runtime = local.Containerd
	}
	if c.Runtime != local.Containerd && c.Runtime != local.Simulated {
		return fmt.Errorf("runtime %q: use %s or %s", c.Runtime, local.Containerd, local.Simulated)
	}
	if c.Runtime == local.Containerd && os.Geteuid() != 0 {
		return errors.New("a node with containers needs root: use sudo, or --runtime simulated")
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/skiff-node/" + c.Name
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = "/etc/cni/net.d"
	}
	if c.CNIBinDir == "" {
		c.CNIBinDir = "/opt/cni/bin"
	}
	return nil
}

// machine is a whole machine that is a node: its runtime, network and agent.
type machine struct {
	c        NodeConfig
	dir      string // of its data
	settings Settings
	api      client.Client // acts as the node
	serving  func() (*tls.Certificate, error)
	clients  func() *x509.CertPool // who may speak to the agent
	log      *slog.Logger
}

func (m *machine) path(part string) string { return filepath.Join(m.dir, part) }

// run runs the node until ctx ends; containers run on. ready is called when it is
// registered.
func (m *machine) run(ctx context.Context, ready func()) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(m.c.IPs[0].String(), strconv.Itoa(agentPort)))
	if err != nil {
		return fmt.Errorf("listen for the API server (is another agent running here?): %w", err)
	}
	defer listener.Close()
	group, ctx := errgroup.WithContext(ctx)
	var rt runtime.Runtime
	var pods []string
	if m.c.Runtime == local.Simulated {
		rt, pods, err = m.pretend(ctx)
	} else {
		rt, err = m.containers(ctx, group)
	}
	var agent *node.Agent
	if err == nil {
		agent, err = m.agent(rt, pods, listener)
	}
	if err != nil {
		err = unlessOver(ctx, err)
		group.Go(func() error { return err }) // ends what has been started
		return group.Wait()
	}
	group.Go(func() error { return agent.Run(ctx) })
	group.Go(func() error {
		select {
		case <-agent.Registered():
			ready()
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

func (m *machine) agent(rt runtime.Runtime, pods []string, l net.Listener) (*node.Agent, error) {
	addresses := []corev1.NodeAddress{}
	for _, ip := range m.c.IPs {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	config := node.Config{
		NodeName: m.c.Name, Client: m.api, Runtime: rt, Simulated: m.c.Runtime == local.Simulated,
		RootDir: m.path("pods"), CgroupParent: m.c.CgroupParent,
		Addresses: append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: m.c.Name}),
		PodCIDRs:  pods, ClusterDNS: texts(m.settings.dns()), ClusterDomain: "cluster.local",
		ResolvConf: resolvConf(), Labels: m.c.Labels, Taints: m.c.Taints,
		Serving: node.Serving{Listener: l, Certificate: m.serving, ClientCAs: m.clients},
		Logger:  m.log,
	}
	return node.New(config)
}

// containers starts what a node with containers has beside the agent.
func (m *machine) containers(ctx context.Context, group *errgroup.Group) (runtime.Runtime, error) {
	endpoint, confDir := m.c.RuntimeEndpoint, m.c.CNIConfDir
	if endpoint == "" {
		own, err := m.containerd()
		if err != nil {
			return nil, err
		}
		if err := registry.WriteHosts(registry.Hosts{Dir: m.path("hosts"), Mirrors: m.c.Mirrors}); err != nil {
			return nil, err
		}
		endpoint, confDir = own.Endpoint(), m.path("cni")
		group.Go(func() error { return own.Run(ctx) })
		select {
		case <-own.Ready():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	} else if err := installCNI(m.c.CNIBinDir); err != nil {
		return nil, err
	}
	pods, err := podnet.New(podnet.Config{
		NodeName: m.c.Name, Client: m.api, NodeIPs: m.c.IPs,
		ClosedRanges: m.settings.PodCIDRs, ServiceRanges: m.settings.ServiceCIDRs,
		StateDir: m.path("network"), Socket: m.path("cni.sock"), ConfDir: confDir, Logger: m.log,
	})
	if err != nil {
		return nil, err
	}
	services, err := proxy.New(proxy.Config{
		NodeName: m.c.Name, Client: m.api, NodeIPs: m.c.IPs, ClusterCIDRs: m.settings.PodCIDRs,
		ServiceRanges: m.settings.ServiceCIDRs, NodeLocal: m.settings.dns(), Logger: m.log,
	})
	if err != nil {
		return nil, err
	}
	names, err := m.nameServer()
	if err != nil {
		return nil, err
	}
	for _, run := range []func(context.Context) error{pods.Run, services.Run, names.Run} {
		group.Go(func() error { return run(ctx) })
	}
	return cri.New(cri.Config{Endpoint: endpoint})
}

// nameServer answers DNS at the addresses of the service kube-dns, on the node itself.
func (m *machine) nameServer() (*dns.Server, error) {
	upstreams, err := nameServers(resolvConf())
	if err != nil {
		m.log.Warn("names outside of the cluster are not known", "error", err)
	}
	var listen []string
	for _, a := range m.settings.dns() {
		listen = append(listen, netip.AddrPortFrom(a, 53).String())
	}
	return dns.New(dns.Config{
		Client: m.api, Listen: listen, Interface: dnsInterface,
		Ranges: slices.Concat(m.settings.PodCIDRs, m.settings.ServiceCIDRs), Upstreams: upstreams, Logger: m.log,
	})
}

const dnsInterface = "skiff-dns"

// resolvConf is the file that says whom this machine asks for names: systemd's
// own, where the usual one only leads to a program on loopback.
func resolvConf() string {
	const behind = "/run/systemd/resolve/resolv.conf"
	if servers, err := nameServers("/etc/resolv.conf"); err == nil && len(servers) == 0 {
		if _, err := os.Stat(behind); err == nil {
			return behind
		}
	}
	return "/etc/resolv.conf"
}

// containerd is the machine's own runtime.
func (m *machine) containerd() (*containerd.Runtime, error) {
	return ownContainerd(containerd.Config{
		Root: m.path("containerd"), State: m.path("run"), CNIConfDir: m.path("cni"), RegistryHostsDir: m.path("hosts"),
		Cgroup: filepath.Join(m.c.CgroupParent, "runtime"), Logger: m.log,
	})
}

// ownContainerd completes c with the programs and the sandbox image that come with
// this one.
func ownContainerd(c containerd.Config) (*containerd.Runtime, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if c.Programs, err = containerd.Find(executable); err != nil {
		return nil, err
	}
	pause, err := image.Pause("")
	if err != nil {
		return nil, err
	}
	if c.SandboxImage, err = image.PauseReference(pause); err != nil {
		return nil, err
	}
	if c.Bundled, err = registry.Static(pause); err != nil {
		return nil, err
	}
	c.CNIBinDirs = []string{filepath.Dir(executable)}
	return containerd.New(c)
}

// installCNI puts the CNI program where somebody else's runtime looks for it; as
// loopback too, which older runtimes start as well, unless the machine has that.
func installCNI(dir string) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	from, err := os.Open(filepath.Join(filepath.Dir(executable), "skiff-cni"))
	if err != nil {
		return fmt.Errorf("find skiff-cni beside this program: %w", err)
	}
	defer from.Close()
	data, err := io.ReadAll(from)
	if err != nil {
		return fmt.Errorf("read skiff-cni: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of CNI programs: %w", err)
	}
	loopback := filepath.Join(dir, "loopback")
	if _, err := os.Stat(loopback); errors.Is(err, fs.ErrNotExist) {
		if err := writeWhole(loopback, data, 0o755); err != nil {
			return err
		}
	}
	return writeWhole(filepath.Join(dir, "skiff-cni"), data, 0o755)
}

// pretend is the runtime of a simulated node, and the range of its pods. It must be
// known before the node is: it is the node's own, or a free one of the cluster's.
func (m *machine) pretend(ctx context.Context) (runtime.Runtime, []string, error) {
	nodes, err := client.List[*corev1.Node](ctx, m.api, client.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("look for a free range of pods: %w", err)
	}
	taken := map[string]bool{}
	for _, n := range nodes {
		if n.Name == m.c.Name && len(n.Spec.PodCIDRs) > 0 {
			p, err := netip.ParsePrefix(n.Spec.PodCIDRs[0])
			return simulated.New(simulated.Config{Pods: p}), n.Spec.PodCIDRs, err
		}
		for _, r := range n.Spec.PodCIDRs {
			taken[r] = true
		}
	}
	h := fnv.New32a()
	h.Write([]byte(m.c.Name))
	of := m.settings.PodCIDRs[0]
	if of.Addr().Is6() {
		return nil, nil, errors.New("simulated nodes need a range of IPv4 addresses for pods first in --pod-cidr")
	}
	parts := uint32(1) << (24 - of.Bits())
	for i := range parts {
		number := (h.Sum32() + i) % parts
		a := of.Addr().As4()
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{a[0], a[1] | byte(number>>8), a[2] | byte(number), 0}), 24)
		if !taken[p.String()] {
			return simulated.New(simulated.Config{Pods: p}), []string{p.String()}, nil
		}
	}
	return nil, nil, fmt.Errorf("no range of pods is free in %s", of)
}

// leave ends everything that the node has made on the machine: containers,
// runtime, interfaces, routes, tables. Its agent must not run.
func (m *machine) leave(ctx context.Context) error {
	var errs []error
	if m.c.Runtime == local.Simulated {
		return nil
	}
	if m.c.RuntimeEndpoint == "" {
		own, err := m.containerd()
		if err != nil {
			return err
		}
		errs = append(errs, own.KillAll(ctx))
	} else {
		errs = append(errs, m.leaveRuntime(ctx))
	}
	errs = append(errs, unmountBelow(m.path("pods")), local.RemoveCgroups(m.c.CgroupParent))
	errs = append(errs, podnet.Remove(ctx, ""), proxy.Remove(ctx, ""))
	if link, err := netlink.LinkByName(dnsInterface); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	}
	return errors.Join(errs...)
}

// leaveRuntime ends the node's pods in somebody else's runtime, and takes back what
// tells it of our network.
func (m *machine) leaveRuntime(ctx context.Context) error {
	rt, err := cri.New(cri.Config{Endpoint: m.c.RuntimeEndpoint})
	if err != nil {
		return err
	}
	defer rt.Close()
	// The runtime asks our network to let each pod go before it removes it.
	stop, err := podnet.Release(m.path("cni.sock"))
	if err != nil {
		return err
	}
	defer stop()
	sandboxes, err := rt.Sandboxes(ctx)
	if err != nil {
		return fmt.Errorf("list the pods of the runtime at %s: %s", m.c.RuntimeEndpoint, runtime.Message(err))
	}
	var errs []error
	for _, s := range sandboxes {
		if err := rt.StopSandbox(ctx, s.Id); err != nil {
			errs = append(errs, fmt.Errorf("stop pod %s/%s: %s", s.Metadata.GetNamespace(), s.Metadata.GetName(), runtime.Message(err)))
			continue
		}
		if err := rt.RemoveSandbox(ctx, s.Id); err != nil {
			errs = append(errs, fmt.Errorf("remove pod %s/%s: %s", s.Metadata.GetNamespace(), s.Metadata.GetName(), runtime.Message(err)))
		}
	}
	return errors.Join(append(errs, removeCNI(m.c.CNIConfDir, m.c.CNIBinDir))...)
}

// removeCNI takes the network's configuration and program away. What is called
// loopback stays if it is another one's.
func removeCNI(confDir, binDir string) error {
	program, loopback := filepath.Join(binDir, "skiff-cni"), filepath.Join(binDir, "loopback")
	gone := []string{filepath.Join(confDir, podnet.ConfFile), program}
	ours, err := os.ReadFile(program)
	if err == nil {
		if there, err := os.ReadFile(loopback); err == nil && bytes.Equal(there, ours) {
			gone = append(gone, loopback)
		}
	}
	var errs []error
	for _, path := range gone {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("take back the pod network's files: %w", err))
		}
	}
	return errors.Join(errs...)
}

// unmountBelow takes away what is mounted below dir: pods' volumes.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for _, point := range slices.Backward(points) { // the innermost came last
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// addressesOf are this machine's addresses in order of preference: the one towards
// the world, where there is a default route, then all others.
func addressesOf() (out []netip.Addr, err error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []netip.Addr
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 || ours(link.Name) {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", link.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().IsGlobalUnicast() {
				found = append(found, p.Addr())
			}
		}
	}
	for _, towards := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // nothing is sent
		if ip, err := addressTowards(towards); err == nil {
			if a, ok := netip.AddrFromSlice(ip); ok && slices.Contains(found, a.Unmap()) {
				out = append(out, a.Unmap())
			}
		}
	}
	for _, a := range found {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

// ours tells interfaces that nodes and containers make from the machine's.
func ours(name string) bool {
	return slices.ContainsFunc([]string{"skiff", "sk", "pod", "docker", "br-", "veth", "cni", "virbr"}, func(p string) bool { return strings.HasPrefix(name, p) })
}
