//go:build linux

package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
)

// nodesOnly is a client whose feed is given by the test. Each batch is taken
// only when the one before has been dealt with.
type nodesOnly struct {
	client.Client
	feed chan client.Batch
}

func (c *nodesOnly) Follow(ctx context.Context, _ ...client.Source) *client.Feed {
	out := make(chan client.Batch)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case b := <-c.feed:
				select {
				case out <- b:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return &client.Feed{C: out}
}

func node(name, ip string, cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}}}
}

func nodes(all ...*corev1.Node) client.Batch {
	var b client.Batch
	for _, n := range all {
		b.Changes = append(b.Changes, client.Change{Resource: api.For[*corev1.Node](), New: n})
	}
	return b
}

// agent is a pod network that runs, and the CNI program beside it.
type agent struct {
	t      *testing.T
	config Config
	client *nodesOnly
	stub   string
	net    *Network
	stop   func()
}

func buildStub(t *testing.T, dir string) string {
	t.Helper()
	stub := filepath.Join(dir, "skiff-cni")
	build := exec.Command("go", "build", "-o", stub, "skiff/cmd/skiff-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the CNI program: %s", out)
	}
	return stub
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir := t.TempDir()
	stub := buildStub(t, dir)
	c := &nodesOnly{feed: make(chan client.Batch)}
	a := &agent{t: t, client: c, stub: stub, config: Config{
		NodeName: "n1", Client: c,
		ClosedRanges:  []netip.Prefix{netip.MustParsePrefix("10.64.0.0/16"), netip.MustParsePrefix("10.63.0.0/24")},
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/16")},
		StateDir:      filepath.Join(dir, "state"), Socket: filepath.Join(dir, "cni.sock"), ConfDir: filepath.Join(dir, "net.d"),
		Logger: slog.New(slog.DiscardHandler),
	}}
	a.start()
	t.Cleanup(func() {
		a.stop()
		if err := Remove(context.Background(), ""); err != nil {
			t.Error(err)
		}
	})
	return a
}

func (a *agent) start() {
	a.t.Helper()
	n, err := New(a.config)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	a.net = n
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Errorf("Run: %v", err)
		}
	})
}

// tell hands over a batch and waits until it has been acted on: an empty batch
// is taken only after it.
func (a *agent) tell(b client.Batch) {
	a.client.feed <- b
	a.client.feed <- client.Batch{}
	a.client.feed <- client.Batch{}
}

// cni runs the CNI program as a runtime would.
func (a *agent) cni(command, container, netns string, runtimeConfig any) (map[string]any, error) {
	a.t.Helper()
	conf := map[string]any{"cniVersion": "1.0.0", "name": "skiff", "type": "skiff-cni", "socket": a.config.Socket, "runtimeConfig": runtimeConfig}
	input, err := json.Marshal(conf)
	if err != nil {
		a.t.Fatal(err)
	}
	cmd := exec.Command(a.stub)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/none",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container}
	out, err := cmd.Output()
	var result map[string]any
	if len(out) > 0 {
		if e := json.Unmarshal(out, &result); e != nil {
			a.t.Fatalf("%s prints %q: %v", command, out, e)
		}
	}
	return result, err
}

// add attaches a new namespace and returns its path and address.
func (a *agent) add(container string, runtimeConfig any) (path, ip string, remove func()) {
	a.t.Helper()
	path, remove = newNamespace(a.t)
	result, err := a.cni("ADD", container, path, runtimeConfig)
	if err != nil {
		a.t.Fatalf("ADD %s: %v: %v", container, err, result)
	}
	cidr := result["ips"].([]any)[0].(map[string]any)["address"].(string)
	return path, strings.TrimSuffix(cidr, "/32"), remove
}

func TestPodsReachEachOther(t *testing.T) {
	needNamespaces(t)
	away := outside(t)
	a := newAgent(t)
	a.tell(nodes(node("n1", "10.63.0.2", "10.64.1.0/24")))
	if _, err := os.Stat(filepath.Join(a.config.ConfDir, "10-skiff.conflist")); err != nil {
		t.Fatalf("the node has its range, but no CNI configuration: %v", err)
	}
	p1, ip1, _ := a.add("c1", nil)
	p2, ip2, remove2 := a.add("c2", map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}})
	if ip1 != "10.64.1.2" || ip2 != "10.64.1.3" {
		t.Fatalf("addresses %s, %s; want 10.64.1.2 and .3", ip1, ip2)
	}
	greeter(t, p2, ":80")
	greeter(t, away, ":80")
	greeter(t, "", "10.63.0.2:81")
	for _, c := range []struct{ name, from, to, want string }{
		{"a pod reaches a pod by its own address", p1, ip2 + ":80", ip1},
		{"the node reaches a pod", "", ip2 + ":80", "10.63.0.2"},
		{"a pod reaches the node by its own address", p1, "10.63.0.2:81", ip1},
		{"a host port from elsewhere", away, "10.63.0.2:8080", "10.63.0.9"},
		{"a host port from another pod", p1, "10.63.0.2:8080", ip1},
		{"a host port from the node", "", "10.63.0.2:8080", "10.63.0.2"},
		{"a host port from the node, at localhost", "", "127.0.0.1:8080", "10.63.0.2"},
		{"a host port from the pod itself", p2, "10.63.0.2:8080", "10.63.0.2"},
	} {
		got, err := visit(t, c.from, c.to)
		if err != nil || got != c.want {
			t.Errorf("%s: came from %q (%v), want %s", c.name, got, err, c.want)
		}
	}
	if _, err := a.cni("CHECK", "c1", p1, nil); err != nil {
		t.Errorf("CHECK of a sound pod: %v", err)
	}

	// "Parameters: … Plugins should generally complete a DEL action without error even if some resources are missing." (CNI spec)
	for range 2 {
		if _, err := a.cni("DEL", "c2", p2, nil); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if _, err := visit(t, away, "10.63.0.2:8080"); err == nil {
		t.Error("the host port is open after DEL")
	}
	remove2()
	if _, err := visit(t, p1, ip2+":80"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a pod that is gone: %v, want no route to host", err)
	}
	if _, err := a.cni("CHECK", "c2", p2, nil); err == nil {
		t.Error("CHECK finds nothing wrong with a pod that is gone")
	}
}

func TestMasquerade(t *testing.T) {
	needNamespaces(t)
	away := outside(t)
	within(t, away, func() error { // it has an address that is not the cluster's
		address(t, "eth0", "192.0.2.9/32")
		return nil
	})
	link, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(netip.MustParseAddr("192.0.2.9")), Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	a.tell(nodes(node("n1", "10.63.0.2", "10.64.1.0/24")))
	p1, _, _ := a.add("c1", nil)
	greeter(t, away, ":80")
	if got, err := visit(t, p1, "192.0.2.9:80"); got != "10.63.0.2" {
		t.Errorf("outside sees %q (%v), want the node's address", got, err)
	}
	// A pod that takes another's address gets nothing back and goes nowhere.
	within(t, p1, func() error {
		address(t, "eth0", "10.64.1.99/32")
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("10.64.1.99")}, Timeout: 300e6}
		if c, err := d.Dial("tcp", "192.0.2.9:80"); err == nil {
			c.Close()
			t.Error("a pod can use an address that is not its own")
		}
		return nil
	})
}

func TestRestartAndLeaks(t *testing.T) {
	needNamespaces(t)
	outside(t)
	a := newAgent(t)
	a.tell(nodes(node("n1", "10.63.0.2", "10.64.1.0/24")))
	p1, ip1, _ := a.add("c1", nil)
	_, ip2, remove2 := a.add("c2", nil)
	a.stop()
	if result, err := a.cni("ADD", "c3", p1, nil); err == nil || result["code"] != float64(codeTryAgain) {
		t.Errorf("without an agent ADD prints %v (%v), want code 11", result, err)
	}
	remove2() // while nobody looks
	a.start()
	waitFor(t, func() bool { _, err := a.cni("STATUS", "", "", nil); return err == nil })
	greeter(t, p1, ":80")
	if got, err := visit(t, "", ip1+":80"); err != nil {
		t.Errorf("a pod is lost after a restart: %q %v", got, err)
	}
	_, ip3, _ := a.add("c3", nil) // the API server has not been heard yet
	if ip3 == ip1 || ip3 == ip2 {
		t.Errorf("c3 got %s; c1 has %s, and %s was released just now", ip3, ip1, ip2)
	}
	if links := ours(t); len(links) != 2 {
		t.Errorf("interfaces %v, want those of c1 and c3", links)
	}
	a.tell(client.Batch{})
	if err := a.net.keepOnly(t.Context(), map[string]bool{"c3_eth0": true}); err != nil {
		t.Fatal(err)
	}
	if links := ours(t); len(links) != 1 || links[0] != hostName("c3", "eth0") {
		t.Errorf("interfaces %v after GC, want that of c3", links)
	}
}

func ours(t *testing.T) (names []string) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, hostPrefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// waitFor tries again while the agent starts; each try is a process.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
	}
	t.Fatal("it never came about")
}

func TestRoutesToOtherNodes(t *testing.T) {
	needNamespaces(t)
	outside(t)
	router := net.ParseIP("10.63.0.9")
	link, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	far := netip.MustParsePrefix("10.99.0.0/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(far), Gw: router}); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	n1, n2, n3 := node("n1", "10.63.0.2", "10.64.1.0/24"), node("n2", "10.63.0.9", "10.64.2.0/24"), node("n3", "10.99.0.3", "10.64.3.0/24")
	a.tell(nodes(n1, n2, n3))
	if r := routeTo(t, "10.64.2.7"); r == nil || r.Gw.String() != "10.63.0.9" || r.LinkIndex != link.Attrs().Index {
		t.Errorf("to n2: %v, want through n2 itself", r)
	}
	tunnel, err := netlink.LinkByName("skiff-vxlan")
	if err != nil {
		t.Fatal(err)
	}
	if r := routeTo(t, "10.64.3.7"); r == nil || r.LinkIndex != tunnel.Attrs().Index || r.Gw.String() != "10.64.3.0" {
		t.Errorf("to n3: %v, want the tunnel", r)
	}
	fdb, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(tunnel.Attrs().Index, unix.AF_BRIDGE) })
	if err != nil || len(fdb) != 1 || fdb[0].IP.String() != "10.99.0.3" || fdb[0].HardwareAddr.String() != "0e:5f:0a:63:00:03" {
		t.Errorf("the tunnel knows %v (%v), want n3", fdb, err)
	}
	if r := routeTo(t, "10.64.9.9"); r != nil {
		t.Errorf("an address that nobody has leads to %v", r)
	}

	gone := client.Batch{Changes: []client.Change{
		{Resource: api.For[*corev1.Node](), Old: n2}, {Resource: api.For[*corev1.Node](), Old: n3}}}
	a.tell(gone)
	for _, ip := range []string{"10.64.2.7", "10.64.3.7"} {
		if r := routeTo(t, ip); r != nil {
			t.Errorf("%s of a node that is gone leads to %v", ip, r)
		}
	}
	if _, err := netlink.LinkByName("skiff-vxlan"); err == nil {
		t.Error("the tunnel is still there, and nobody behind it")
	}
}

func routeTo(t *testing.T, ip string) *netlink.Route {
	t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(ip))
	if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) {
		return nil
	}
	if err != nil || len(routes) == 0 {
		t.Fatalf("route to %s: %v", ip, err)
	}
	return &routes[0]
}

func TestTwoFamilies(t *testing.T) {
	needNamespaces(t)
	outside(t)
	a := newAgent(t)
	n1 := node("n1", "10.63.0.2", "10.64.1.0/24", "fd00:64:1::/64")
	a.tell(nodes(n1))
	p1, _, _ := a.add("c1", nil)
	p2, _, _ := a.add("c2", map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}})
	greeter(t, p2, "[fd00:64:1::3]:80")
	for _, from := range []string{p1, ""} {
		if got, err := visit(t, from, "[fd00:64:1::3]:80"); err != nil || from != "" && got != "fd00:64:1::2" {
			t.Errorf("from %q over IPv6: came from %q, %v", from, got, err)
		}
	}
}

// What a local program sends to services finds a route, which does not lead out.
func TestServiceRangesEndHere(t *testing.T) {
	needNamespaces(t)
	outside(t)
	a := newAgent(t)
	a.tell(nodes(node("n1", "10.63.0.2", "10.64.1.0/24")))
	sink, err := netlink.LinkByName("skiff-svc")
	if err != nil {
		t.Fatal(err)
	}
	if r := routeTo(t, "10.128.0.1"); r == nil || r.LinkIndex != sink.Attrs().Index || r.Src.String() != "10.63.0.2" {
		t.Errorf("to a service: %v, want the device that swallows it, from the node's address", r)
	}
}

func BenchmarkAttach(b *testing.B) {
	needNamespaces(b)
	dir := b.TempDir()
	c := &nodesOnly{feed: make(chan client.Batch)}
	n, err := New(Config{NodeName: "n1", Client: c, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/20")}, MTU: 1500,
		StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "s"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := n.restore(b.Context()); err != nil {
		b.Fatal(err)
	}
	path, remove := newNamespace(b)
	defer remove()
	var attaching time.Duration
	for b.Loop() {
		begun := time.Now()
		if _, err := n.attach(b.Context(), call{containerID: "c", ifName: "eth0", netns: path}); err != nil {
			b.Fatal(err)
		}
		attaching += time.Since(begun)
		if err := n.detach(b.Context(), "c_eth0", hostName("c", "eth0")); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(attaching.Seconds()*1e3/float64(b.N), "ms/attach")
}

// join connects two namespaces by a link, with an address at each end.
func join(t *testing.T, a, aName, aCIDR, b, bName, bCIDR string) {
	t.Helper()
	ns, err := netns.GetFromPath(b)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	within(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aName
		pair := netlink.NewVeth(attrs)
		pair.PeerName, pair.PeerNamespace = bName, netlink.NsFd(int(ns))
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		address(t, aName, aCIDR)
		return sysctl("ipv4/conf/all/forwarding", "1")
	})
	within(t, b, func() error {
		address(t, bName, bCIDR)
		return nil
	})
}

// A node behind a router: both ends of the tunnel are made by the same code,
// one of them in another namespace.
func TestTunnelCarriesTraffic(t *testing.T) {
	needNamespaces(t)
	router := outside(t)
	far, _ := newNamespace(t)
	join(t, router, "eth1", "10.99.0.1/24", far, "eth0", "10.99.0.3/24")
	via := func(cidr, gateway string) error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(cidr)), Gw: net.ParseIP(gateway)})
	}
	if err := via("10.99.0.0/24", "10.63.0.9"); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	n1, n3 := node("n1", "10.63.0.2", "10.64.1.0/24"), node("n3", "10.99.0.3", "10.64.3.0/24")
	a.tell(nodes(n1, n3))
	p1, ip1, _ := a.add("c1", nil)

	config := a.config
	config.NodeName = "n3"
	other, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	view := client.NewView()
	view.Apply(nodes(n1, n3))
	within(t, far, func() error {
		up(t, "lo")
		address(t, "lo", "10.64.3.7/32") // stands for a pod
		return errors.Join(via("10.63.0.0/24", "10.99.0.1"), other.writeRoutes(other.readNodes(view)))
	})
	greeter(t, far, "10.64.3.7:80")
	if got, err := visit(t, p1, "10.64.3.7:80"); err != nil || got != ip1 {
		t.Errorf("through the tunnel: came from %q (%v), want %s", got, err, ip1)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	needNamespaces(t)
	outside(t)
	state := func() string {
		var all strings.Builder
		for _, command := range [][]string{{"ip", "-o", "link"}, {"ip", "route"}, {"ip", "-6", "route"}, {"nft", "list", "tables"}} {
			out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", command, out)
			}
			all.Write(out)
		}
		return all.String()
	}
	if err := Remove(t.Context(), ""); err != nil { // what other tests left
		t.Fatal(err)
	}
	before := state()
	a := newAgent(t)
	a.tell(nodes(node("n1", "10.63.0.2", "10.64.1.0/24"), node("n2", "10.63.0.9", "10.64.2.0/24")))
	a.add("c1", map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}})
	a.stop()
	if err := Remove(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if after := state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
