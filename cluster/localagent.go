package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"skiff/client"
	"skiff/cluster/local"
	"skiff/cluster/pki"
	"skiff/network/dns"
	"skiff/network/podnet"
	"skiff/network/proxy"
	"skiff/node"
	"skiff/node/runtime/containerd"
	"skiff/node/runtime/cri"
	"skiff/registry"
)

// agentPort is where agents answer the API server, as kubelets do.
const agentPort = 10250

// localNode is one node of a local cluster, seen from its agent's process, which
// stands in the node's namespaces.
type localNode struct {
	dirs local.Dirs
	spec *local.Spec
	node local.Node
	keys *Keys
	log  *slog.Logger
}

func loadLocalNode(dir, name string, log *slog.Logger) (*localNode, error) {
	spec, err := local.Load(dir)
	if err != nil {
		return nil, err
	}
	n := spec.Find(name)
	if n == nil {
		return nil, fmt.Errorf("cluster %s has no node %s", spec.Name, name)
	}
	keys, err := LoadKeys(local.Dirs(dir).Keys())
	if err != nil {
		return nil, err
	}
	return &localNode{dirs: local.Dirs(dir), spec: spec, node: *n, keys: keys, log: log}, nil
}

func (n *localNode) dir(part string) string { return filepath.Join(n.dirs.Node(n.node.Name), part) }

// ip is the node's address.
func (n *localNode) ip() string { return n.spec.Ranges().Node(n.node.Number).String() }

// containerd is the node's own runtime.
func (n *localNode) containerd() (*containerd.Runtime, error) {
	return ownContainerd(containerd.Config{
		Root: n.dir("containerd"), State: filepath.Join(n.dirs.Run(), n.node.Name),
		CNIConfDir: n.dir("cni"), RegistryHostsDir: n.dir("hosts"),
		Cgroup: filepath.Join(n.spec.Cgroup(n.node.Name), "runtime"),
		Logger: n.log,
	})
}

// EndLocalNode ends all containers of a node and its runtime, whose agent has
// been stopped. It runs within the node's namespaces.
func EndLocalNode(ctx context.Context, dir, name string, log *slog.Logger) error {
	n, err := loadLocalNode(dir, name, log)
	if err != nil {
		return err
	}
	if n.spec.RuntimeEndpoint != "" {
		return nil // somebody else's
	}
	rt, err := n.containerd()
	if err != nil {
		return err
	}
	return rt.KillAll(ctx)
}

// RunLocalAgent runs the agent process of a local cluster's node until ctx ends;
// containers run on. ready is called when the node is registered.
func RunLocalAgent(ctx context.Context, dir, name string, log *slog.Logger, ready func()) error {
	n, err := loadLocalNode(dir, name, log)
	if err != nil {
		return err
	}
	api, err := n.client()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	endpoint := n.spec.RuntimeEndpoint
	if endpoint == "" {
		rt, err := n.containerd()
		if err != nil {
			return err
		}
		if err := n.writeHosts(); err != nil {
			return err
		}
		endpoint = rt.Endpoint()
		group.Go(func() error { return rt.Run(ctx) })
		select {
		case <-rt.Ready():
		case <-ctx.Done():
			return group.Wait()
		}
	}
	machine, err := local.MachineNetwork()
	if err != nil {
		return err
	}
	defer machine.Close()
	relay := &local.Relay{Machine: machine, Ranges: n.spec.Ranges(), Log: n.log}
	group.Go(func() error { return relay.Run(ctx) })
	pods, err := n.podNetwork(api)
	if err != nil {
		return err
	}
	group.Go(func() error { return pods.Run(ctx) })
	services, err := n.serviceProxy(api)
	if err != nil {
		return err
	}
	group.Go(func() error { return services.Run(ctx) })
	names, err := n.nameServer(api)
	if err != nil {
		return err
	}
	group.Go(func() error { return names.Run(ctx) })
	agent, err := n.agent(api, endpoint)
	if err != nil {
		return err
	}
	group.Go(func() error { return agent.Run(ctx) })
	group.Go(func() error { giveBack(ctx, nil); return nil })
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

// writeHosts tells the node's containerd where images are.
func (n *localNode) writeHosts() error {
	hosts := registry.Hosts{
		Dir: n.dir("hosts"), Cluster: fmt.Sprintf("http://%s:%d", n.spec.Ranges().Host(), n.spec.RegistryPort), Names: []string{RegistryName},
	}
	for _, text := range n.spec.Mirrors {
		mirror, err := registry.ParseMirror(text)
		if err != nil {
			return err
		}
		hosts.Mirrors = append(hosts.Mirrors, mirror)
	}
	return registry.WriteHosts(hosts)
}

// client acts as the node. A local cluster's agents stand on the machine that
// has the keys: they issue their own certificates, anew before each ends.
func (n *localNode) client() (client.Client, error) {
	identity := n.keys.CA.Renewed(pki.Leaf{CommonName: "system:node:" + n.node.Name, Organizations: []string{"system:nodes"}, Client: true})
	return client.NewRemote(&rest.Config{
		Host: fmt.Sprintf("https://%s:%d", n.spec.Ranges().Host(), n.spec.APIPort),
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: n.keys.CA.Pool(), GetClientCertificate: identity.ForClient, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     90 * time.Second,
		},
	}, "skiff-agent")
}

// serviceProxy leads to services' endpoints.
func (n *localNode) serviceProxy(api client.Client) (*proxy.Proxy, error) {
	ranges := n.spec.Ranges()
	return proxy.New(proxy.Config{
		NodeName: n.node.Name, Client: api,
		NodeIPs:       []netip.Addr{ranges.Node(n.node.Number)},
		ClusterCIDRs:  []netip.Prefix{ranges.Pods},
		ServiceRanges: []netip.Prefix{ranges.Services},
		NodeLocal:     []netip.Addr{ranges.DNS()},
		Logger:        n.log,
	})
}

// nameServer answers DNS at the address of the service kube-dns, on the node
// itself.
func (n *localNode) nameServer(api client.Client) (*dns.Server, error) {
	ranges := n.spec.Ranges()
	upstreams, err := nameServers("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	return dns.New(dns.Config{
		Client: api, Listen: []string{net.JoinHostPort(ranges.DNS().String(), "53")}, Interface: "skiff-dns",
		Ranges: []netip.Prefix{ranges.Pods, ranges.Services}, Upstreams: upstreams, Logger: n.log,
	})
}

// nameServers reads whom the machine itself asks. Loopback addresses are left
// out: in the node's network nobody answers there.
func nameServers(path string) (servers []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("find the machine's name servers: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil && !ip.IsLoopback() {
			servers = append(servers, fields[1])
		}
	}
	return servers, nil
}

// podNetwork connects the node's pods.
func (n *localNode) podNetwork(api client.Client) (*podnet.Network, error) {
	ranges := n.spec.Ranges()
	return podnet.New(podnet.Config{
		NodeName: n.node.Name, Client: api,
		PodCIDRs:      []netip.Prefix{ranges.PodsOf(n.node.Number)},
		NodeIPs:       []netip.Addr{ranges.Node(n.node.Number)},
		ClosedRanges:  []netip.Prefix{ranges.Pods, ranges.Nodes},
		ServiceRanges: []netip.Prefix{ranges.Services},
		StateDir:      n.dir("network"),
		Socket:        filepath.Join(n.dirs.Run(), n.node.Name+".cni"),
		ConfDir:       n.dir("cni"),
		Logger:        n.log,
	})
}

func (n *localNode) agent(api client.Client, endpoint string) (*node.Agent, error) {
	rt, err := cri.New(cri.Config{Endpoint: endpoint})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", n.ip(), agentPort))
	if err != nil {
		return nil, fmt.Errorf("listen for the API server: %w", err)
	}
	serving := n.keys.CA.Renewed(pki.Leaf{
		CommonName: "system:node:" + n.node.Name, Organizations: []string{"system:nodes"},
		DNSNames: []string{n.node.Name}, IPs: []net.IP{net.ParseIP(n.ip())}, Server: true,
	})
	clients := n.keys.CA.Pool()
	ranges := n.spec.Ranges()
	return node.New(node.Config{
		NodeName: n.node.Name, Client: api, Runtime: rt,
		RootDir: n.dir("agent"), CgroupParent: n.spec.Cgroup(n.node.Name),
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.ip()}, {Type: corev1.NodeHostName, Address: n.node.Name},
		},
		PodCIDRs:      []string{ranges.PodsOf(n.node.Number).String()},
		ClusterDNS:    []string{ranges.DNS().String()},
		ClusterDomain: "cluster.local",
		// What a developer loaded stays, however full the disk is.
		ImageGCPercent: 100,
		Serving: node.Serving{
			Listener: listener, Certificate: serving.Get, ClientCAs: func() *x509.CertPool { return clients },
		},
		Logger: n.log,
	})
}
