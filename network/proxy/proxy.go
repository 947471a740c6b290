//go:build linux

// Package proxy leads what is sent to services to their endpoints, with nftables
// maps and sets in one table per IP family. It owns these tables, and the health
// check ports of services with externalTrafficPolicy Local.
//
// Exported: New(Config), Proxy.Run and Proxy.Ready, which the agent calls; Remove.
//
// What a service needs (a part) is computed by a pure function of the service,
// its slices and the node; a table remembers what was written and writes the
// difference, one transaction per change. When the proxy stops, the tables stay:
// services work on while the agent is away. It never touches other tables.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"

	"skiff/api"
	"skiff/client"
)

const defaultTable = "skiff-proxy"

// Config says what the proxy serves.
type Config struct {
	NodeName string
	Client   client.Client // may get, list and watch services, endpointslices and its own node

	// NodeIPs take node ports. Empty: the InternalIPs and ExternalIPs of the
	// node's status.
	NodeIPs []netip.Addr

	// ClusterCIDRs hold the pods, and no nodes: what comes from elsewhere to a
	// cluster address is masqueraded, and what comes from there to a service's
	// external address is served by all its endpoints, whatever its
	// externalTrafficPolicy. Empty: neither is done.
	ClusterCIDRs []netip.Prefix

	// ServiceRanges are the ranges of cluster addresses: what goes to an address
	// or port in them that no service has is rejected.
	ServiceRanges []netip.Prefix

	// NodeLocal are addresses of services that a program of this node serves
	// itself (cluster DNS): they are left alone.
	NodeLocal []netip.Addr

	Table  string        // name of the nftables tables; "" means "skiff-proxy"
	Resync time.Duration // how often the tables are checked to be there; 0 means a minute
	Logger *slog.Logger  // nil means slog.Default()

	// synced is called after each successful writing, with the revision that the
	// tables stand for. Tests set it.
	synced func(revision int64)
}

// Proxy is a node's service proxy.
type Proxy struct {
	c      Config
	log    *slog.Logger
	ready  chan struct{}
	view   *client.View
	tables []*table
	health *healthChecks
}

// New checks the configuration. Nothing is touched before Run.
func New(c Config) (*Proxy, error) {
	if c.NodeName == "" || c.Client == nil {
		return nil, errors.New("service proxy: no node name or no client")
	}
	if c.Table == "" {
		c.Table = defaultTable
	}
	if c.Resync == 0 {
		c.Resync = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.synced == nil {
		c.synced = func(int64) {}
	}
	log := c.Logger.With("component", "proxy")
	return &Proxy{c: c, log: log, ready: make(chan struct{}), health: newHealthChecks(log)}, nil
}

// Ready is closed once every service that was there at the start is served.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// byService is the index of slices.
const byService = "service"

func serviceOfSlice(obj api.Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{obj.GetNamespace() + "/" + name}
	}
	return nil
}

// Run keeps the tables until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.openTables(); err != nil {
		return err
	}
	defer p.health.stop()
	p.view = client.NewView(client.Index{Name: byService, Resource: api.For[*discoveryv1.EndpointSlice](), Keys: serviceOfSlice})
	feed := p.c.Client.Follow(ctx,
		client.Source{Resource: api.For[*corev1.Service]()},
		client.Source{Resource: api.For[*discoveryv1.EndpointSlice]()},
		client.Source{Resource: api.For[*corev1.Node](), Fields: fields.OneTermEqualSelector("metadata.name", p.c.NodeName)})
	resync := time.NewTicker(p.c.Resync)
	defer resync.Stop()
	retry := newRetry()
	defer retry.stop()
	all := true // the first batch is the snapshot
	dirty := map[types.NamespacedName]bool{}
	for {
		select {
		case batch, open := <-feed.C:
			if !open {
				return nil
			}
			all = p.take(batch, dirty) || all
			all = p.takeMore(feed, dirty) || all
		case <-resync.C:
			all = p.lost(ctx) || all
			if !all {
				continue
			}
		case <-retry.C():
			all = true
		}
		if err := p.sync(ctx, dirty, all); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.log.Error("services are not all served", "error", err)
			retry.later()
		} else {
			retry.succeeded()
		}
		all = false
		clear(dirty)
	}
}

func (p *Proxy) openTables() error {
	p.tables = nil
	for _, family := range []knftables.Family{knftables.IPv4Family, knftables.IPv6Family} {
		if family == knftables.IPv6Family && !p.has6() {
			continue
		}
		nft, err := knftables.New(family, p.c.Table)
		if err != nil {
			return fmt.Errorf("open nftables for services: %w", err)
		}
		p.tables = append(p.tables, newTable(family, nft, &p.c))
	}
	return nil
}

func (p *Proxy) has6() bool {
	is6 := func(prefix netip.Prefix) bool { return prefix.Addr().Is6() }
	return slices.ContainsFunc(p.c.NodeIPs, netip.Addr.Is6) || slices.ContainsFunc(p.c.ClusterCIDRs, is6) || slices.ContainsFunc(p.c.ServiceRanges, is6)
}

// take applies a batch and notes whose rules may differ now; it tells whether
// all may.
func (p *Proxy) take(b client.Batch, dirty map[types.NamespacedName]bool) (all bool) {
	for _, c := range b.Changes {
		switch c.Object().(type) {
		case *corev1.Service:
			dirty[types.NamespacedName{Namespace: c.Object().GetNamespace(), Name: c.Object().GetName()}] = true
		case *discoveryv1.EndpointSlice:
			for _, obj := range []api.Object{c.Old, c.New} {
				if obj != nil {
					dirty[types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetLabels()[discoveryv1.LabelServiceName]}] = true
				}
			}
		case *corev1.Node:
			before := p.node()
			p.view.Apply(client.Batch{Changes: []client.Change{c}})
			all = all || !before.equal(p.node())
		}
	}
	p.view.Apply(b)
	return all
}

// takeMore takes what has come meanwhile, so that a flood becomes few transactions.
func (p *Proxy) takeMore(feed *client.Feed, dirty map[types.NamespacedName]bool) (all bool) {
	for {
		select {
		case batch, open := <-feed.C:
			if !open {
				return all // Run sees it too
			}
			all = p.take(batch, dirty) || all
		default:
			return all
		}
	}
}

// node is what the rules depend on of this node.
func (p *Proxy) node() nodeInfo {
	n := nodeInfo{name: p.c.NodeName, ips: p.c.NodeIPs}
	object, ok := client.Find[*corev1.Node](p.view, "", p.c.NodeName)
	if !ok {
		return n
	}
	n.zone = object.Labels[corev1.LabelTopologyZone]
	if len(n.ips) == 0 {
		for _, a := range object.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if err == nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) {
				n.ips = append(n.ips, ip)
			}
		}
	}
	return n
}

// sync writes what differs. With all it looks at every service.
func (p *Proxy) sync(ctx context.Context, dirty map[types.NamespacedName]bool, all bool) error {
	if all {
		for service := range client.All[*corev1.Service](p.view, "") {
			dirty[types.NamespacedName{Namespace: service.Namespace, Name: service.Name}] = true
		}
		for _, t := range p.tables {
			for name := range t.parts {
				dirty[name] = true
			}
		}
	}
	node := p.node()
	var failed []error
	for _, t := range p.tables {
		changed := map[types.NamespacedName]*part{nodePart: partOfNode(t.family, node)}
		for name := range dirty {
			if name != nodePart {
				changed[name] = p.part(t.family, node, name)
			}
		}
		if err := t.write(ctx, changed); err != nil {
			failed = append(failed, err)
			continue
		}
		if err := t.forgetFlows(node); err != nil {
			p.log.Warn("stale UDP flows may live on", "error", err)
		}
	}
	for name := range dirty {
		p.health.set(name, p.check(node, name))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
	p.c.synced(p.view.Revision())
	return nil
}

// part is what a service needs in a family's table: nothing if it is gone.
func (p *Proxy) part(family knftables.Family, node nodeInfo, name types.NamespacedName) *part {
	service, ok := client.Find[*corev1.Service](p.view, name.Namespace, name.Name)
	if !ok || !served(service) {
		return &part{}
	}
	return partOfService(&p.c, family, node, service, slices.Collect(client.By[*discoveryv1.EndpointSlice](p.view, byService, name.String())))
}

// check is the health check that a service asks for, or none.
func (p *Proxy) check(node nodeInfo, name types.NamespacedName) healthCheck {
	service, ok := client.Find[*corev1.Service](p.view, name.Namespace, name.Name)
	if !ok || !served(service) || !externalLocal(service) || service.Spec.HealthCheckNodePort == 0 {
		return healthCheck{}
	}
	local := map[netip.Addr]bool{}
	for slice := range client.By[*discoveryv1.EndpointSlice](p.view, byService, name.String()) {
		for _, e := range slice.Endpoints {
			if e.NodeName == nil || *e.NodeName != node.name || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				if ip, err := netip.ParseAddr(a); err == nil {
					local[ip] = true
				}
			}
		}
	}
	return healthCheck{port: service.Spec.HealthCheckNodePort, local: len(local)}
}

// lost tells whether somebody took a table away; all is written anew then.
func (p *Proxy) lost(ctx context.Context) bool {
	lost := false
	for _, t := range p.tables {
		chains, err := t.nft.List(ctx, "chain")
		if err != nil || !slices.Contains(chains, chainServices) {
			t.forget()
			lost = true
		}
	}
	return lost
}

// retry waits longer after each failure: from a second to half a minute.
type retry struct {
	timer *time.Timer
	wait  time.Duration
}

func newRetry() *retry {
	r := &retry{timer: time.NewTimer(time.Hour)}
	r.stop()
	return r
}

func (r *retry) C() <-chan time.Time { return r.timer.C }
func (r *retry) stop()               { r.timer.Stop() }

func (r *retry) later() {
	r.wait = min(max(time.Second, 2*r.wait), 30*time.Second)
	r.timer.Reset(r.wait)
}

func (r *retry) succeeded() {
	r.wait = 0
	r.timer.Stop()
}
