package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// managedBy says in an IPAddress's labels who takes care of it; it is upstream's
// word, so that either server recognises the other's.
const managedBy = "ipallocator.k8s.io"

// takeAddresses takes an address of each of the service's families that it does
// not have yet.
func (s *Services) takeAddresses(ctx context.Context, h *Hold, svc, old *corev1.Service) error {
	if !needsAddress(svc) || headless(svc) {
		return nil
	}
	var held []string
	if old != nil {
		held = addressesOf(old)
	}
	path := field.NewPath("spec", "clusterIPs")
	for i, family := range svc.Spec.IPFamilies {
		if i >= len(svc.Spec.ClusterIPs) {
			svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, "")
		}
		wanted := svc.Spec.ClusterIPs[i]
		if wanted != "" && slices.Contains(held, wanted) {
			continue
		}
		taken, err := s.takeAddress(ctx, svc, family, wanted)
		switch {
		case err == nil:
		case wanted == "" && errors.Is(err, errFull):
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", svc.Name, err))
		case wanted == "":
			return invalid(svc, field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP: %v", err)))
		default:
			return invalid(svc, field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", wanted, err)))
		}
		h.addresses = append(h.addresses, taken)
		svc.Spec.ClusterIPs[i] = taken.Name
	}
	if len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	return nil
}

// takeAddress takes the wanted address, or with "" any of the family.
func (s *Services) takeAddress(ctx context.Context, svc *corev1.Service, family corev1.IPFamily, wanted string) (*networkingv1.IPAddress, error) {
	networks := slices.DeleteFunc(slices.Clone(s.cluster.Networks()), func(p netip.Prefix) bool { return familyOf(p.Addr()) != family })
	if len(networks) == 0 {
		return nil, errNoNetwork
	}
	if wanted == "" {
		return s.takeAny(ctx, svc, networks)
	}
	addr, err := netip.ParseAddr(wanted)
	if err != nil {
		return nil, fmt.Errorf("failed to parse service IP %q", wanted)
	}
	for _, network := range networks {
		if network.Contains(addr) {
			return s.takeIn(ctx, svc, network, addr)
		}
	}
	return nil, errElsewhere
}

// takeIn takes an address of a network, unless it is the network's own.
func (s *Services) takeIn(ctx context.Context, svc *corev1.Service, network netip.Prefix, addr netip.Addr) (*networkingv1.IPAddress, error) {
	if r := hosts(network); addr.Less(r.first) || r.last.Less(addr) {
		return nil, fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", addr, network)
	}
	return s.claim(ctx, svc, addr)
}

// takeAny takes a random free address. Those at the beginning of a network are
// left for services that name theirs, as long as others are free (KEP-3070).
func (s *Services) takeAny(ctx context.Context, svc *corev1.Service, networks []netip.Prefix) (*networkingv1.IPAddress, error) {
	for _, network := range networks {
		r := hosts(network)
		for _, part := range []struct{ from, to uint64 }{{r.reserved, r.size}, {0, r.reserved}} {
			taken, err := s.takeBetween(ctx, svc, r.first, part.from, part.to)
			if !errors.Is(err, errFull) {
				return taken, err
			}
		}
	}
	return nil, errFull
}

// takeBetween tries the addresses whose distance from first is at least from and
// less than to, beginning somewhere and going round.
func (s *Services) takeBetween(ctx context.Context, svc *corev1.Service, first netip.Addr, from, to uint64) (*networkingv1.IPAddress, error) {
	if from >= to {
		return nil, errFull
	}
	start := rand.Uint64N(to - from)
	for i := range to - from {
		addr := plus(first, from+(start+i)%(to-from))
		if _, used := s.cluster.Address(addr.String()); used {
			continue
		}
		taken, err := s.claim(ctx, svc, addr)
		if !errors.Is(err, errTaken) {
			return taken, err
		}
	}
	return nil, errFull
}

// claim creates the IPAddress that says whose the address is.
func (s *Services) claim(ctx context.Context, svc *corev1.Service, addr netip.Addr) (*networkingv1.IPAddress, error) {
	a := addressFor(svc, addr)
	if err := s.cluster.Create(ctx, a); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil, errTaken
		}
		return nil, err
	}
	return a, nil
}

func addressFor(svc *corev1.Service, addr netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: addr.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(addr)),
				networkingv1.LabelManagedBy:       managedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
}

// giveBack removes the IPAddress of an address that svc had, if it is svc's.
func (s *Services) giveBack(ctx context.Context, ip string, svc *corev1.Service) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return
	}
	a, ok := s.cluster.Address(addr.String())
	if !ok {
		a = addressFor(svc, addr)
	}
	if !isParent(a, svc) {
		return
	}
	if err := s.cluster.Delete(ctx, a); err != nil {
		s.log.Error("address not given back", "address", ip, "service", svc.Namespace+"/"+svc.Name, "err", err)
	}
}

// isParent tells whether an address is held for a service.
func isParent(a *networkingv1.IPAddress, svc *corev1.Service) bool {
	ref := a.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == svc.Namespace && ref.Name == svc.Name
}

// hostRange is the addresses of a network that services can have.
type hostRange struct {
	first, last netip.Addr
	size        uint64
	reserved    uint64 // how many at the beginning are for services that name theirs
}

// hosts leaves out the network's own address and, with IPv4, its broadcast
// address. Of very large networks only the first 2^62 addresses are used.
func hosts(network netip.Prefix) hostRange {
	network = network.Masked()
	bits := network.Addr().BitLen() - network.Bits()
	size := uint64(1) << min(bits, 62)
	if bits > 0 {
		size-- // the network's own address
	}
	if network.Addr().Is4() && size > 0 {
		size--
	}
	r := hostRange{first: network.Addr().Next(), size: size}
	if size > 0 {
		r.last = plus(r.first, size-1)
	}
	const least, most, part = 16, 256, 16
	if whole := uint64(1) << min(bits, 62); whole > least {
		r.reserved = min(max(least, whole/part), most, size)
	}
	return r
}

// plus adds n to an address.
func plus(a netip.Addr, n uint64) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}

// pretend fills in what a dry run shows: nothing is looked for.
func (s *Services) pretend(svc *corev1.Service) error {
	if !needsAddress(svc) || headless(svc) {
		return nil
	}
	for i, family := range svc.Spec.IPFamilies {
		if i < len(svc.Spec.ClusterIPs) {
			continue
		}
		for _, network := range s.cluster.Networks() {
			if familyOf(network.Addr()) == family {
				svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, network.Masked().Addr().String())
				break
			}
		}
	}
	if len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	return nil
}
