// Package alloc gives services what must be unique in a cluster: cluster
// addresses and node ports. apiserver calls it when a service is written and
// when one is gone. Nothing is decided by this process's memory, since another
// server may be writing: an address is taken by creating the IPAddress object of
// its name, a port by a compare-and-swap on the one key that holds the bitmap of
// ports (Kubernetes' own layout, so that either can go on where the other
// stopped). What is taken for a service that is then not stored is given back;
// what a crash leaves behind, Repair finds.
package alloc

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/store"
)

// The reasons why something cannot be had, in Kubernetes' words.
var (
	errTaken      = errors.New("provided IP is already allocated")
	errElsewhere  = errors.New("the provided network does not match the current range")
	errNoNetwork  = errors.New("allocator not ready")
	errFull       = errors.New("range is full")
	errPortTaken  = errors.New("provided port is already allocated")
	errPortBeyond = errors.New("provided port is not in the valid range. The range of valid ports is " + portRange)
)

// Cluster is what the allocators see of the cluster and change in it.
type Cluster interface {
	// Networks are the ranges from which addresses may be taken now, in order of
	// preference; the first says which family is the cluster's own.
	Networks() []netip.Prefix
	// Create stores an IPAddress; AlreadyExists if there is one of that name.
	Create(ctx context.Context, a *networkingv1.IPAddress) error
	// Delete removes an IPAddress if it is still the given one; NotFound is fine.
	Delete(ctx context.Context, a *networkingv1.IPAddress) error
	// Address returns an IPAddress, from a state that may lag behind.
	Address(name string) (*networkingv1.IPAddress, bool)
	// Snapshot returns all services and all addresses of one consistent state,
	// not older than the call.
	Snapshot(ctx context.Context) (iter.Seq[*corev1.Service], iter.Seq[*networkingv1.IPAddress], error)
}

// Config is what a Services stands on.
type Config struct {
	Store   store.Store // holds the bitmap of ports
	Cluster Cluster
	Log     *slog.Logger
}

// Services hands out addresses and ports to services. Its methods are safe for
// concurrent use.
type Services struct {
	cluster Cluster
	ports   *ports
	log     *slog.Logger
	suspect suspects // what the last Repair found and nobody had claimed
}

// New checks nothing and starts nothing.
func New(c Config) *Services {
	return &Services{cluster: c.Cluster, ports: &ports{store: c.Store}, log: c.Log}
}

// Hold is what was taken for one write of a service. Exactly one of Keep and
// Drop must be called.
type Hold struct {
	services  *Services
	addresses []*networkingv1.IPAddress // taken for this write
	ports     []int32
	release   *corev1.Service // the service as it was: what it had and the new one has not is given back
	service   *corev1.Service
}

// Take fills in what svc needs and does not have, and takes it and what it asks
// for by name. old is the stored service, nil on create. With dryRun nothing is
// taken. Plan must have been called before.
func (s *Services) Take(ctx context.Context, svc, old *corev1.Service, dryRun bool) (*Hold, error) {
	h := &Hold{services: s, service: svc, release: old}
	if dryRun {
		return &Hold{}, s.pretend(svc)
	}
	err := s.takeAddresses(ctx, h, svc, old)
	if err == nil {
		err = s.takePorts(ctx, h, svc, old)
	}
	if err != nil {
		h.Drop(ctx)
		return nil, err
	}
	return h, nil
}

// Keep ends a write that was stored: what the service no longer needs is given back.
func (h *Hold) Keep(ctx context.Context) {
	if h.release == nil {
		return
	}
	for _, ip := range addressesOf(h.release) {
		if !slices.Contains(addressesOf(h.service), ip) {
			h.services.giveBack(ctx, ip, h.release)
		}
	}
	var unused []int32
	for _, port := range portsOf(h.release) {
		if !slices.Contains(portsOf(h.service), port) {
			unused = append(unused, port)
		}
	}
	h.services.freePorts(ctx, unused, h.release)
}

// Drop ends a write that was not stored: what was taken for it is given back.
func (h *Hold) Drop(ctx context.Context) {
	for _, a := range h.addresses {
		if err := h.services.cluster.Delete(ctx, a); err != nil {
			h.services.log.Error("address not given back", "address", a.Name, "err", err)
		}
	}
	if len(h.ports) > 0 {
		h.services.freePorts(ctx, h.ports, h.service)
	}
}

// Release gives back all that a deleted service had.
func (s *Services) Release(ctx context.Context, svc *corev1.Service) {
	for _, ip := range addressesOf(svc) {
		s.giveBack(ctx, ip, svc)
	}
	s.freePorts(ctx, portsOf(svc), svc)
}

// needsAddress tells whether services of that type have cluster addresses
// (unless they are headless).
func needsAddress(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == corev1.ClusterIPNone ||
		len(svc.Spec.ClusterIPs) > 0 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// needsPorts tells whether ports without a node port are given one.
func needsPorts(svc *corev1.Service) bool {
	auto := svc.Spec.AllocateLoadBalancerNodePorts
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer && (auto == nil || *auto)
}

// mayHavePorts tells whether a service of that type may have node ports at all.
func mayHavePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// needsHealthPort tells whether a service has a node port for health checks.
func needsHealthPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// addressesOf are the cluster addresses that a service has.
func addressesOf(svc *corev1.Service) []string {
	if !needsAddress(svc) || headless(svc) {
		return nil
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	return slices.DeleteFunc(slices.Clone(ips), func(ip string) bool { return ip == "" })
}

// portsOf are the node ports that a service has, each once.
func portsOf(svc *corev1.Service) []int32 {
	if !mayHavePorts(svc) {
		return nil
	}
	var ports []int32
	for i := range svc.Spec.Ports {
		if p := svc.Spec.Ports[i].NodePort; p != 0 && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 && needsHealthPort(svc) && !slices.Contains(ports, p) {
		ports = append(ports, p)
	}
	return ports
}

func invalid(svc *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
}
