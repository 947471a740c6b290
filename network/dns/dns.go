//go:build linux

// Package dns answers the names of the cluster on its node, after "Kubernetes
// DNS-Based Service Discovery" (version 1.1.0), and forwards all others with a
// bounded cache. It owns the sockets that it listens on and, if asked for, an
// interface that holds their addresses. It listens on the cluster's DNS address
// itself: no packet to it is translated, so none gets lost in translation.
//
// Exported: New(Config), Server.Run and Server.Ready, which the agent calls.
//
// It answers from memory: when the control plane is away, the last state stays.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// Config says what is answered, and where.
type Config struct {
	Client client.Client // may get, list and watch services, endpointslices and namespaces
	Domain string        // "" means "cluster.local"

	Listen    []string // addresses with ports, served over UDP and TCP; port 0 is one free port for both
	Interface string   // is made if missing, and given the addresses of Listen; "" means that they are there already

	// Ranges of the cluster's pods and services: reverse names of addresses in
	// them are never forwarded.
	Ranges []netip.Prefix

	// Upstreams answer all other names: addresses with or without port, tried in
	// order. Empty: such names are refused (SERVFAIL). Own addresses are left out.
	Upstreams []string

	CacheSize int           // most answers of upstreams that are remembered; 0 means 4096
	Timeout   time.Duration // for one try of one upstream; 0 means 2 s
	Logger    *slog.Logger  // nil means slog.Default()
}

// Server answers DNS questions.
type Server struct {
	c       Config
	log     *slog.Logger
	zone    *zone
	forward *forwarder
	ready   chan struct{}

	mu    sync.Mutex
	bound []string // guarded by mu
}

// New checks the configuration. Nothing is touched before Run.
func New(c Config) (*Server, error) {
	if c.Client == nil || len(c.Listen) == 0 {
		return nil, errors.New("dns: no client, or no address to listen on")
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if _, ok := mdns.IsDomainName(c.Domain); !ok {
		return nil, fmt.Errorf("dns: %q is not a domain", c.Domain)
	}
	own := map[string]bool{}
	for _, at := range c.Listen {
		if _, err := netip.ParseAddrPort(at); err != nil {
			return nil, fmt.Errorf("dns: listen on %q: %w", at, err)
		}
		own[at] = true
	}
	if c.CacheSize == 0 {
		c.CacheSize = 4096
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var upstreams []string
	for _, u := range c.Upstreams {
		if ip, err := netip.ParseAddr(u); err == nil {
			u = netip.AddrPortFrom(ip, 53).String()
		}
		if _, err := netip.ParseAddrPort(u); err != nil {
			return nil, fmt.Errorf("dns: upstream %q: %w", u, err)
		}
		if !own[u] {
			upstreams = append(upstreams, u)
		}
	}
	c.Domain = mdns.CanonicalName(c.Domain)
	return &Server{c: c, log: c.Logger.With("component", "dns"), zone: newZone(c.Domain, c.Ranges, serverIPs(c.Listen)),
		forward: newForwarder(upstreams, c.Timeout, c.CacheSize), ready: make(chan struct{})}, nil
}

func serverIPs(listen []string) (ips []netip.Addr) {
	for _, at := range listen {
		ips = append(ips, netip.MustParseAddrPort(at).Addr())
	}
	return ips
}

// Ready is closed once questions are answered from the cluster's state.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addresses are those that it listens on, once it is ready.
func (s *Server) Addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if s.c.Interface != "" {
		if err := holdAddresses(s.c.Interface, serverIPs(s.c.Listen)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	failed := make(chan error, 2*len(s.c.Listen))
	for _, at := range s.c.Listen {
		servers, bound, err := s.listen(ctx, at)
		if err != nil {
			cancel()
			return err
		}
		s.mu.Lock()
		s.bound = append(s.bound, bound)
		s.mu.Unlock()
		for _, server := range servers {
			running.Go(func() { failed <- serve(ctx, server) })
		}
	}
	return s.follow(ctx, failed)
}

// serve runs one socket's server until ctx ends.
func serve(ctx context.Context, server *mdns.Server) error {
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-started:
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Its error can only be that it has ended.
	_ = server.ShutdownContext(ctx)
	<-ended
	return nil
}

// listen opens both sockets of an address.
func (s *Server) listen(ctx context.Context, at string) (servers []*mdns.Server, bound string, err error) {
	var l net.ListenConfig
	tcp, err := l.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, "", fmt.Errorf("dns: %w", err)
	}
	udp, err := l.ListenPacket(ctx, "udp", tcp.Addr().String())
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("dns: %w", err), tcp.Close())
	}
	return []*mdns.Server{
		{Listener: tcp, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxTCPQueries: 1000},
		{PacketConn: udp, Handler: s, UDPSize: 4096},
	}, tcp.Addr().String(), nil
}

// byService is the index of slices.
const byService = "service"

func serviceOfSlice(obj api.Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{obj.GetNamespace() + "/" + name}
	}
	return nil
}

// follow keeps the zone up to date.
func (s *Server) follow(ctx context.Context, failed <-chan error) error {
	view := client.NewView(client.Index{Name: byService, Resource: api.For[*discoveryv1.EndpointSlice](), Keys: serviceOfSlice})
	feed := s.c.Client.Follow(ctx,
		client.Source{Resource: api.For[*corev1.Service]()},
		client.Source{Resource: api.For[*discoveryv1.EndpointSlice]()},
		client.Source{Resource: api.For[*corev1.Namespace]()})
	first := true
	for {
		select {
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dns: a socket ended: %w", err)
		case batch, open := <-feed.C:
			if !open {
				return nil
			}
			view.Apply(batch)
			s.apply(view, batch)
			if first {
				s.zone.open()
				close(s.ready)
				first = false
			}
		}
	}
}

// apply brings the zone to what a batch changed.
func (s *Server) apply(view *client.View, batch client.Batch) {
	dirty := map[types.NamespacedName]bool{}
	for _, c := range batch.Changes {
		switch obj := c.Object().(type) {
		case *corev1.Service:
			dirty[types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}] = true
		case *discoveryv1.EndpointSlice:
			for _, o := range []api.Object{c.Old, c.New} {
				if o != nil {
					dirty[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[discoveryv1.LabelServiceName]}] = true
				}
			}
		case *corev1.Namespace:
			s.zone.setNamespace(obj.Name, c.New != nil)
		}
	}
	for name := range dirty {
		var records []mdns.RR
		if service, ok := client.Find[*corev1.Service](view, name.Namespace, name.Name); ok {
			var slices []*discoveryv1.EndpointSlice
			for slice := range client.By[*discoveryv1.EndpointSlice](view, byService, name.String()) {
				slices = append(slices, slice)
			}
			records = recordsOf(s.c.Domain, service, slices)
		}
		s.zone.set(name, records)
	}
}

// ServeDNS implements miekg/dns' Handler.
func (s *Server) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	_, isUDP := w.RemoteAddr().(*net.UDPAddr)
	if err := w.WriteMsg(s.answer(q, isUDP)); err != nil {
		s.log.Debug("an answer got lost", "error", err)
	}
}

// largestUDP is what fits into a packet on any path (DNS flag day 2020).
const largestUDP = 1232

// answer is the answer to a question, cut to what the client can take.
func (s *Server) answer(q *mdns.Msg, isUDP bool) *mdns.Msg {
	r := s.resolve(q)
	size := mdns.MaxMsgSize
	opt := q.IsEdns0()
	if isUDP {
		size = mdns.MinMsgSize
		if opt != nil {
			size = min(max(mdns.MinMsgSize, int(opt.UDPSize())), largestUDP)
		}
	}
	if opt != nil {
		r.SetEdns0(largestUDP, opt.Do())
		if opt.Version() != 0 {
			r.Rcode = mdns.RcodeBadVers
		}
	}
	r.Truncate(size)
	return r
}

func (s *Server) resolve(q *mdns.Msg) *mdns.Msg {
	r := new(mdns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	r.Compress = true
	switch {
	case q.Opcode != mdns.OpcodeQuery:
		r.Rcode = mdns.RcodeNotImplemented
		return r
	case len(q.Question) != 1:
		r.Rcode = mdns.RcodeFormatError
		return r
	case q.Question[0].Qclass != mdns.ClassINET, q.Question[0].Qtype == mdns.TypeAXFR, q.Question[0].Qtype == mdns.TypeIXFR:
		r.Rcode = mdns.RcodeRefused
		return r
	}
	if q.IsEdns0() != nil && q.IsEdns0().Version() != 0 {
		return r
	}
	question := q.Question[0]
	if !s.zone.answer(r, question) {
		s.forward.answer(r, q)
		return r
	}
	s.followAlias(r, q)
	return r
}

// followAlias adds what an ExternalName leads to, in the cluster or outside.
func (s *Server) followAlias(r, q *mdns.Msg) {
	kind := q.Question[0].Qtype
	for range 8 { // aliases of aliases end somewhere
		if len(r.Answer) == 0 || kind == mdns.TypeCNAME {
			return
		}
		alias, ok := r.Answer[len(r.Answer)-1].(*mdns.CNAME)
		if !ok {
			return
		}
		next := q.Copy()
		next.Question[0].Name = alias.Target
		more := new(mdns.Msg)
		more.SetReply(next)
		if !s.zone.answer(more, next.Question[0]) {
			s.forward.answer(more, next)
			r.Authoritative = false
		}
		r.Answer = append(r.Answer, more.Answer...)
		r.Ns = more.Ns
		if len(more.Answer) == 0 {
			r.Rcode = more.Rcode
			return
		}
	}
}

// under tells whether a lower-case name is the domain or below it.
func under(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain) || domain == "."
}
