package alloc

import (
	"context"
	"fmt"
	"math/big"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// suspects is what one Repair found taken and nobody had. Only what the next one
// finds again is given back: a service may be on its way to the store.
type suspects struct {
	mu        sync.Mutex
	ports     map[int32]bool
	addresses map[types.UID]bool
}

// Repair makes the addresses and ports that are taken those that services have:
// what a service has and is not marked is marked, and what has belonged to no
// service now and at the Repair before is given back. Callers leave at least as
// much time between two calls as a write may take.
func (s *Services) Repair(ctx context.Context) error {
	s.suspect.mu.Lock()
	defer s.suspect.mu.Unlock()
	services, addresses, err := s.cluster.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("repair of service addresses: %w", err)
	}
	owners := make(map[string]*corev1.Service)
	used := make(map[int32]bool)
	for svc := range services {
		for _, ip := range addressesOf(svc) {
			if addr, err := netip.ParseAddr(ip); err == nil {
				owners[addr.String()] = svc
			}
		}
		for _, port := range portsOf(svc) {
			used[port] = true
		}
	}
	if err := s.repairPorts(ctx, used); err != nil {
		return err
	}
	return s.repairAddresses(ctx, owners, addresses)
}

func (s *Services) repairPorts(ctx context.Context, used map[int32]bool) error {
	var suspect map[int32]bool
	err := s.ports.change(ctx, func(taken *big.Int) error {
		suspect = make(map[int32]bool)
		for port := int32(firstPort); port <= lastPort; port++ {
			bit := int(port) - firstPort
			switch {
			case used[port]:
				taken.SetBit(taken, bit, 1)
			case taken.Bit(bit) == 0:
			case s.suspect.ports[port]:
				taken.SetBit(taken, bit, 0)
			default:
				suspect[port] = true
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("repair of node ports: %w", err)
	}
	s.suspect.ports = suspect
	return nil
}

func (s *Services) repairAddresses(ctx context.Context, owners map[string]*corev1.Service, addresses func(func(*networkingv1.IPAddress) bool)) error {
	suspect := make(map[types.UID]bool)
	for a := range addresses {
		owner := owners[a.Name]
		delete(owners, a.Name)
		switch {
		case owner != nil && isParent(a, owner):
		case owner != nil:
			s.log.Warn("an address of a service is held for something else", "address", a.Name, "service", owner.Namespace+"/"+owner.Name)
		case a.Labels[networkingv1.LabelManagedBy] != managedBy:
		case s.suspect.addresses[a.UID]:
			if err := s.cluster.Delete(ctx, a); err != nil {
				return fmt.Errorf("give back leaked address %s: %w", a.Name, err)
			}
		default:
			suspect[a.UID] = true
		}
	}
	s.suspect.addresses = suspect
	for ip, svc := range owners { // those that have no IPAddress
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		if err := s.cluster.Create(ctx, addressFor(svc, addr)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("mark address %s of service %s/%s: %w", ip, svc.Namespace, svc.Name, err)
		}
	}
	return nil
}
