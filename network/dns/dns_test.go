//go:build linux

package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fed is a client whose feed is given by the test.
type fed struct {
	client.Client
	feed chan client.Batch
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
func (c *fed) tell(b client.Batch) {
	c.feed <- b
	c.feed <- client.Batch{}
	c.feed <- client.Batch{}
}

func start(t *testing.T, c Config) (*Server, *fed) {
	t.Helper()
	feed := &fed{feed: make(chan client.Batch)}
	c.Client, c.Listen, c.Logger = feed, []string{"127.0.0.1:0"}, slog.New(slog.DiscardHandler)
	c.Ranges = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/16"), netip.MustParsePrefix("10.128.0.0/16")}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, feed
}

func service(name string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	change(s)
	return s
}

func cluster() client.Batch {
	port, name, udp, web0 := int32(8080), "http", corev1.ProtocolUDP, "web-0"
	no := false
	return put(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "empty"}},
		service("web", func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.128.0.5", []string{"10.128.0.5", "fd00:128::5"}
			s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
		}),
		service("db", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }),
		service("none", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }),
		service("alias", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "Web.default.svc.cluster.local"
		}),
		service("away", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}),
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Name: &name, Port: &port, Protocol: &udp}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.64.1.2"}, Hostname: &web0},
				{Addresses: []string{"10.64.1.3"}},
				{Addresses: []string{"10.64.1.4"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
			},
		},
	)
}

func ask(t *testing.T, network, server, name string, kind uint16, edns uint16) *mdns.Msg {
	t.Helper()
	q := new(mdns.Msg)
	q.SetQuestion(name, kind)
	if edns > 0 {
		q.SetEdns0(edns, false)
	}
	r, _, err := (&mdns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, server)
	if err != nil {
		t.Fatalf("ask for %s: %v", name, err)
	}
	return r
}

// short shows an answer in one line: the code, then records without their TTLs.
func short(r *mdns.Msg) string {
	var all []string
	for _, rr := range r.Answer {
		fields := strings.Fields(rr.String())
		all = append(all, strings.Join(append([]string{fields[0]}, fields[3:]...), " "))
	}
	slices.Sort(all)
	if len(r.Ns) > 0 {
		all = append(all, "authority "+r.Ns[0].Header().Name)
	}
	return strings.Join(append([]string{mdns.RcodeToString[r.Rcode]}, all...), "; ")
}

func TestAnswers(t *testing.T) {
	up := newUpstream(t)
	s, feed := start(t, Config{Upstreams: []string{up.at}})
	feed.tell(cluster())
	<-s.Ready()
	const in = "default.svc.cluster.local."
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web." + in, mdns.TypeA, "NOERROR; web." + in + " A 10.128.0.5"},
		{"web." + in, mdns.TypeAAAA, "NOERROR; web." + in + " AAAA fd00:128::5"},
		{"WeB.Default.SVC.cluster.local.", mdns.TypeA, "NOERROR; WeB.Default.SVC.cluster.local. A 10.128.0.5"},
		{"web." + in, mdns.TypeMX, "NOERROR; authority cluster.local."},
		{"_http._tcp.web." + in, mdns.TypeSRV, "NOERROR; _http._tcp.web." + in + " SRV 0 100 80 web." + in},
		{"_dns._udp.web." + in, mdns.TypeSRV, "NOERROR; _dns._udp.web." + in + " SRV 0 100 53 web." + in},
		{"_dns._tcp.web." + in, mdns.TypeSRV, "NXDOMAIN; authority cluster.local."},
		{"_tcp.web." + in, mdns.TypeSRV, "NOERROR; authority cluster.local."},
		{"5.0.128.10.in-addr.arpa.", mdns.TypePTR, "NOERROR; 5.0.128.10.in-addr.arpa. PTR web." + in},
		{"6.0.128.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN; authority 128.10.in-addr.arpa."},
		{"2.1.64.10.in-addr.arpa.", mdns.TypePTR, "NOERROR; 2.1.64.10.in-addr.arpa. PTR web-0.db." + in},
		{"db." + in, mdns.TypeA, "NOERROR; db." + in + " A 10.64.1.2; db." + in + " A 10.64.1.3"},
		{"web-0.db." + in, mdns.TypeA, "NOERROR; web-0.db." + in + " A 10.64.1.2"},
		{"10-64-1-3.db." + in, mdns.TypeA, "NOERROR; 10-64-1-3.db." + in + " A 10.64.1.3"},
		{"10-64-1-4.db." + in, mdns.TypeA, "NXDOMAIN; authority cluster.local."},
		{"_http._tcp.db." + in, mdns.TypeSRV, "NOERROR; _http._tcp.db." + in + " SRV 0 100 8080 10-64-1-3.db." + in + "; _http._tcp.db." + in + " SRV 0 100 8080 web-0.db." + in},
		{"none." + in, mdns.TypeA, "NXDOMAIN; authority cluster.local."},
		{"alias." + in, mdns.TypeA, "NOERROR; alias." + in + " CNAME web." + in + "; web." + in + " A 10.128.0.5"},
		{"alias." + in, mdns.TypeCNAME, "NOERROR; alias." + in + " CNAME web." + in},
		{"away." + in, mdns.TypeA, "NOERROR; away." + in + " CNAME example.com.; example.com. A 192.0.2.1"},
		{"10-64-1-77.default.pod.cluster.local.", mdns.TypeA, "NOERROR; 10-64-1-77.default.pod.cluster.local. A 10.64.1.77"},
		{"10-64-1-77.default.pod.cluster.local.", mdns.TypeAAAA, "NOERROR; authority cluster.local."},
		{"fd00--1.default.pod.cluster.local.", mdns.TypeAAAA, "NOERROR; fd00--1.default.pod.cluster.local. AAAA fd00::1"},
		{"10-64-1-77.nowhere.pod.cluster.local.", mdns.TypeA, "NXDOMAIN; authority cluster.local."},
		{"web.default.pod.cluster.local.", mdns.TypeA, "NXDOMAIN; authority cluster.local."},
		{"empty.svc.cluster.local.", mdns.TypeA, "NOERROR; authority cluster.local."},
		{"svc.cluster.local.", mdns.TypeA, "NOERROR; authority cluster.local."},
		{"dns-version.cluster.local.", mdns.TypeTXT, `NOERROR; dns-version.cluster.local. TXT "1.1.0"`},
		{"cluster.local.", mdns.TypeNS, "NOERROR; cluster.local. NS ns.dns.cluster.local."},
		{"ns.dns.cluster.local.", mdns.TypeA, "NOERROR; ns.dns.cluster.local. A 127.0.0.1"},
		{"example.com." + in, mdns.TypeA, "NXDOMAIN; authority cluster.local."},
		{"Example.com.", mdns.TypeA, "NOERROR; Example.com. A 192.0.2.1"},
		{"gone.example.com.", mdns.TypeA, "NXDOMAIN; authority example.com."},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := short(ask(t, network, s.Addresses()[0], c.name, c.kind, 1232)); got != c.want {
				t.Errorf("%s %s over %s:\n got %s\nwant %s", mdns.TypeToString[c.kind], c.name, network, got, c.want)
			}
		}
	}
	if r := ask(t, "udp", s.Addresses()[0], "_http._tcp.web."+in, mdns.TypeSRV, 0); len(r.Extra) != 2 {
		t.Errorf("SRV brings %v, want the addresses of its target", r.Extra)
	}
	if r := ask(t, "udp", s.Addresses()[0], "nope."+in, mdns.TypeA, 0); r.Ns[0].Header().Ttl != negativeTTL || !r.Authoritative {
		t.Errorf("a name that is not there: %v", r)
	}
}

func TestChanges(t *testing.T) {
	s, feed := start(t, Config{})
	feed.tell(cluster())
	<-s.Ready()
	at := s.Addresses()[0]
	const name = "web.default.svc.cluster.local."
	web := func(ip string) *corev1.Service {
		return service("web", func(s *corev1.Service) { s.Spec.ClusterIP = ip })
	}
	feed.tell(put(web("10.128.0.6")))
	if got := short(ask(t, "udp", at, name, mdns.TypeA, 0)); got != "NOERROR; "+name+" A 10.128.0.6" {
		t.Errorf("after a change: %s", got)
	}
	if got := short(ask(t, "udp", at, "5.0.128.10.in-addr.arpa.", mdns.TypePTR, 0)); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("the old address: %s", got)
	}
	feed.tell(client.Batch{Changes: []client.Change{{Resource: api.For[*corev1.Service](), Old: web("10.128.0.6")}}})
	if got := short(ask(t, "udp", at, name, mdns.TypeA, 0)); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("after its deletion: %s", got)
	}
}

func TestBeforeTheFirstState(t *testing.T) {
	z := newZone("cluster.local.", nil, nil)
	r := new(mdns.Msg)
	if ours := z.answer(r, mdns.Question{Name: "web.default.svc.cluster.local.", Qtype: mdns.TypeA}); !ours || r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("before anything is known: %v %s, want SERVFAIL and not NXDOMAIN", ours, mdns.RcodeToString[r.Rcode])
	}
}

func TestLargeAnswers(t *testing.T) {
	s, feed := start(t, Config{})
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "big-1", Labels: map[string]string{discoveryv1.LabelServiceName: "big"}},
		AddressType: discoveryv1.AddressTypeIPv4}
	for i := range 200 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.64.2.%d", i)}})
	}
	feed.tell(put(service("big", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), slice))
	<-s.Ready()
	for _, c := range []struct {
		network   string
		edns      uint16
		truncated bool
		size      int
	}{{"udp", 0, true, 512}, {"udp", 4096, true, 1232}, {"tcp", 0, false, 65535}} {
		r := ask(t, c.network, s.Addresses()[0], "big.default.svc.cluster.local.", mdns.TypeA, c.edns)
		r.Compress = true
		if r.Truncated != c.truncated || r.Len() > c.size || !c.truncated && len(r.Answer) != 200 {
			t.Errorf("%s, EDNS %d: truncated %v, %d bytes, %d answers", c.network, c.edns, r.Truncated, r.Len(), len(r.Answer))
		}
	}
}

// upstream is a DNS server that counts what it is asked.
type upstream struct {
	at    string
	asked atomic.Int32
	mute  atomic.Bool
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{at: conn.LocalAddr().String()}
	server := &mdns.Server{PacketConn: conn, Handler: u}
	done := make(chan error, 1)
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return u
}

func (u *upstream) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	u.asked.Add(1)
	r := new(mdns.Msg)
	r.SetReply(q)
	name := q.Question[0].Name
	switch {
	case u.mute.Load():
		r.Rcode = mdns.RcodeServerFailure
	case name == "example.com.":
		r.Answer = []mdns.RR{&mdns.A{Hdr: header(name, mdns.TypeA, 300), A: net.ParseIP("192.0.2.1").To4()}}
	default:
		r.Rcode = mdns.RcodeNameError
		r.Ns = []mdns.RR{&mdns.SOA{Hdr: header("example.com.", mdns.TypeSOA, 60), Ns: "ns.example.com.", Mbox: "x.example.com.", Minttl: 60}}
	}
	_ = w.WriteMsg(r)
}

func TestForwarding(t *testing.T) {
	first, second := newUpstream(t), newUpstream(t)
	first.mute.Store(true)
	s, feed := start(t, Config{Upstreams: []string{first.at, second.at}, CacheSize: 2})
	feed.tell(cluster())
	<-s.Ready()
	at := s.Addresses()[0]
	for range 3 {
		if r := ask(t, "udp", at, "example.com.", mdns.TypeA, 0); len(r.Answer) != 1 {
			t.Fatalf("no answer: %v", r)
		}
		if r := ask(t, "udp", at, "gone.example.com.", mdns.TypeA, 0); r.Rcode != mdns.RcodeNameError {
			t.Fatalf("no answer: %v", r)
		}
	}
	if a, b := first.asked.Load(), second.asked.Load(); a != 1 || b != 2 {
		t.Errorf("upstreams were asked %d and %d times, want 1 (it fails) and 2 (then all is remembered)", a, b)
	}
	ask(t, "udp", at, "third.example.com.", mdns.TypeA, 0) // pushes example.com. out
	ask(t, "udp", at, "example.com.", mdns.TypeA, 0)
	if b := second.asked.Load(); b != 4 {
		t.Errorf("the second upstream was asked %d times, want 4: two answers fit", b)
	}
	s.forward.mu.Lock()
	n := len(s.forward.kept)
	s.forward.mu.Unlock()
	if n != 2 {
		t.Errorf("%d answers are kept, want 2", n)
	}
	second.mute.Store(true)
	if r := ask(t, "udp", at, "other.example.com.", mdns.TypeA, 0); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("when all upstreams fail: %v", r)
	}
}

// RFC 8767: an answer whose time is over is better than none.
func TestStaleAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newForwarder(nil, time.Second, 10)
		m := new(mdns.Msg)
		m.SetQuestion("example.com.", mdns.TypeA)
		kept := m.Copy()
		kept.Answer = []mdns.RR{&mdns.A{Hdr: header("example.com.", mdns.TypeA, 60), A: net.ParseIP("192.0.2.1").To4()}}
		f.keep(question{name: "example.com.", kind: mdns.TypeA}, kept)
		for _, step := range []struct {
			wait time.Duration
			ttl  uint32
			code int
		}{{20 * time.Second, 40, mdns.RcodeSuccess}, {time.Minute, staleTTL, mdns.RcodeSuccess}, {2 * time.Hour, 0, mdns.RcodeServerFailure}} {
			time.Sleep(step.wait)
			r := new(mdns.Msg)
			r.SetReply(m)
			f.answer(r, m)
			if r.Rcode != step.code || step.ttl > 0 && r.Answer[0].Header().Ttl != step.ttl {
				t.Errorf("%s later: %v", step.wait, r)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local.", "_http._tcp.web.default.svc.cluster.local.", "1-2-3-4.default.pod.cluster.local.",
		"5.0.128.10.in-addr.arpa.", ".", "a.ip6.arpa.", "--.default.pod.cluster.local.", "arpa."} {
		f.Add(name, uint16(mdns.TypeA))
	}
	s := &Server{zone: newZone("cluster.local.", []netip.Prefix{netip.MustParsePrefix("10.128.0.0/16")}, nil), forward: newForwarder(nil, time.Second, 1)}
	s.apply(client.NewView(), client.Batch{})
	s.zone.open()
	f.Fuzz(func(t *testing.T, name string, kind uint16) {
		q := new(mdns.Msg)
		q.SetQuestion(name, kind)
		if wire, err := q.Pack(); err != nil || q.Unpack(wire) != nil {
			return // it cannot come in
		}
		r := s.answer(q, true)
		if wire, err := r.Pack(); err != nil || len(wire) > mdns.MinMsgSize {
			t.Errorf("%q: %d bytes, %v", name, len(wire), err)
		}
	})
}

// Whatever is added and removed, nothing is left of what is gone.
func TestZoneForgets(t *testing.T) {
	z := newZone("cluster.local.", nil, nil)
	names := len(z.names)
	view := client.NewView()
	s := &Server{c: Config{Domain: "cluster.local."}, zone: z}
	b := cluster()
	view.Apply(b)
	s.apply(view, b)
	if len(z.names) <= names+5 {
		t.Fatalf("only %d names", len(z.names))
	}
	var gone client.Batch
	for _, c := range b.Changes {
		gone.Changes = append(gone.Changes, client.Change{Resource: c.Resource, Old: c.New})
	}
	view.Apply(gone)
	s.apply(view, gone)
	if len(z.names) != names || len(z.owned) != 1 || len(z.namespaces) != 0 {
		t.Errorf("%d names, %d services, %d namespaces are left", len(z.names)-names, len(z.owned)-1, len(z.namespaces))
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := &Server{c: Config{Domain: "cluster.local."}, zone: newZone("cluster.local.", nil, nil), forward: newForwarder(nil, time.Second, 1)}
	view := client.NewView()
	view.Apply(cluster())
	s.apply(view, cluster())
	s.zone.open()
	q := new(mdns.Msg)
	q.SetQuestion("web.default.svc.cluster.local.", mdns.TypeA)
	for b.Loop() {
		if r := s.answer(q, true); len(r.Answer) != 1 {
			b.Fatal(r)
		}
	}
}
