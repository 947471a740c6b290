//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
)

// fed is a client whose feed is given by the test.
type fed struct {
	client.Client
	feed   chan client.Batch
	synced chan int64
	last   int64 // revision
}

func (c *fed) Follow(ctx context.Context, _ ...client.Source) *client.Feed {
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

func put(objects ...api.Object) client.Batch {
	var b client.Batch
	for _, o := range objects {
		b.Changes = append(b.Changes, client.Change{Resource: api.Of(o), New: o})
	}
	return b
}

// tell waits until the batch has been acted on.
func (c *fed) tell(objects ...api.Object) {
	c.last++
	b := put(objects...)
	b.Revision = c.last
	c.feed <- b
	for revision := range c.synced {
		if revision == c.last {
			return
		}
	}
}

// pod makes a namespace with a routed address on this node.
func pod(t *testing.T, ip string) (path string) {
	t.Helper()
	path, _ = newNamespace(t)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "p" + ip
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(int(ns))
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(pair); err != nil {
			t.Error(err)
		}
	})
	address(t, attrs.Name, "169.254.1.1/32")
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		t.Fatal(err)
	}
	to := netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(&to); err != nil {
		t.Fatal(err)
	}
	within(t, path, func() error {
		address(t, "eth0", ip+"/32")
		up(t, "lo")
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		gw := &net.IPNet{IP: net.ParseIP("169.254.1.1"), Mask: net.CIDRMask(32, 32)}
		return errors.Join(netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: gw, Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw.IP}))
	})
	return path
}

// named answers each connection with a name and the client's address.
func named(t *testing.T, path, at, name string) {
	t.Helper()
	var l net.Listener
	within(t, path, func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name+" "+netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String())
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// spread counts the answers of n visits.
func spread(t *testing.T, from, to string, n int) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range n {
		got, err := visit(t, from, to)
		if err != nil {
			t.Fatalf("visit %s: %v", to, err)
		}
		seen[got]++
	}
	return seen
}

func TestTraffic(t *testing.T) {
	needNamespaces(t)
	away := outside(t)
	if err := sysctlForTest("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	up0, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	// Local programs' packets to services need a route to begin with.
	services := &net.IPNet{IP: net.ParseIP("10.128.0.0"), Mask: net.CIDRMask(16, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: up0.Attrs().Index, Dst: services, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	c, b1, b2 := pod(t, "10.64.1.2"), pod(t, "10.64.1.3"), pod(t, "10.64.1.4")
	named(t, b1, ":8080", "b1")
	named(t, b2, ":8080", "b2")

	config := *testConfig
	feed := &fed{feed: make(chan client.Batch), synced: make(chan int64, 100)}
	config.Client, config.Logger = feed, slog.New(slog.DiscardHandler)
	config.synced = func(revision int64) { feed.synced <- revision }
	p, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.63.0.2"}}}}
	nodePort := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	}
	both := []string{"10.64.1.3 node=n1", "10.64.1.4 node=n1"}
	feed.tell(node, web(nodePort), web80(both...))
	<-p.Ready()

	t.Run("a cluster address is spread over both, with the client's address", func(t *testing.T) {
		if seen := spread(t, c, "10.128.0.5:80", 40); seen["b1 10.64.1.2"] < 5 || seen["b2 10.64.1.2"] < 5 || len(seen) != 2 {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("from the node itself", func(t *testing.T) {
		if seen := spread(t, "", "10.128.0.5:80", 20); len(seen) != 2 {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("an endpoint reaches itself", func(t *testing.T) {
		if seen := spread(t, b1, "10.128.0.5:80", 20); len(seen) != 2 {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("a node port is masqueraded", func(t *testing.T) {
		for who := range spread(t, away, "10.63.0.2:30080", 20) {
			if who == "b1 10.63.0.9" || who == "b2 10.63.0.9" {
				t.Errorf("saw %s, want an address of the node's", who)
			}
		}
	})
	t.Run("an endpoint that goes gets nothing more", func(t *testing.T) {
		feed.tell(web80(both[0]))
		if seen := spread(t, c, "10.128.0.5:80", 20); len(seen) != 1 || seen["b1 10.64.1.2"] != 20 {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("without endpoints it is refused", func(t *testing.T) {
		feed.tell(web80())
		for _, from := range []string{c, ""} {
			if _, err := visit(t, from, "10.128.0.5:80"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("from %q: %v, want connection refused", from, err)
			}
		}
		if _, err := visit(t, away, "10.63.0.2:30080"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("node port: %v, want connection refused", err)
		}
	})
	t.Run("ports and addresses that no service has are refused", func(t *testing.T) {
		for _, to := range []string{"10.128.0.5:81", "10.128.77.7:80"} {
			for _, from := range []string{c, ""} {
				if _, err := visit(t, from, to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s from %q: %v, want connection refused", to, from, err)
				}
			}
		}
	})
	t.Run("affinity", func(t *testing.T) {
		feed.tell(web(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), web80(both...))
		if seen := spread(t, c, "10.128.0.5:80", 20); len(seen) != 1 {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("Local keeps the client's address, and is checked", func(t *testing.T) {
		feed.tell(web(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 30080, 30099
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), web80("10.64.1.3 node=n1", "10.64.9.9 node=n2"))
		if seen := spread(t, away, "10.63.0.2:30080", 10); seen["b1 10.63.0.9"] != 10 {
			t.Errorf("saw %v", seen)
		}
		answer, err := http.Get("http://127.0.0.1:30099/")
		if err != nil || answer.StatusCode != 200 || answer.Header.Get("X-Load-Balancing-Endpoint-Weight") != "1" {
			t.Errorf("health check: %v %v", answer, err)
		}
		feed.tell(web80("10.64.9.9 node=n2"))
		if answer, err := http.Get("http://127.0.0.1:30099/"); err != nil || answer.StatusCode != 503 {
			t.Errorf("health check without endpoints: %v %v", answer, err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	t.Run("a UDP client that keeps its port follows its endpoint", func(t *testing.T) {
		udpFollows(t, feed, c, b1, b2)
	})
}

// udpFollows sends from one socket before and after the endpoint changes.
func udpFollows(t *testing.T, feed *fed, c, b1, b2 string) {
	echo(t, b1, "b1")
	echo(t, b2, "b2")
	service := web(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
	udp := func(ip string) *discoveryv1.EndpointSlice {
		return slice("web-1", 5353, "http", corev1.ProtocolUDP, ip)
	}
	feed.tell(service, udp("10.64.1.3"))
	var conn net.Conn
	within(t, c, func() (err error) {
		conn, err = net.Dial("udp", "10.128.0.5:80")
		return err
	})
	defer conn.Close()
	for _, step := range []struct{ ip, want string }{{"10.64.1.3", "b1"}, {"10.64.1.4", "b2"}} {
		feed.tell(udp(step.ip))
		buffer := make([]byte, 10)
		_, err := conn.Write([]byte("?"))
		if e := conn.SetReadDeadline(time.Now().Add(time.Second)); e != nil {
			t.Fatal(e)
		}
		n := 0
		if err == nil {
			n, err = conn.Read(buffer)
		}
		if err != nil || string(buffer[:n]) != step.want {
			t.Errorf("answered by %q (%v), want %s", buffer[:n], err, step.want)
		}
	}
}

func echo(t *testing.T, path, name string) {
	t.Helper()
	var l net.PacketConn
	within(t, path, func() (err error) {
		l, err = net.ListenPacket("udp", ":5353")
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 10)
		for {
			_, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := l.WriteTo([]byte(name), from); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}
