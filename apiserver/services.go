package apiserver

import (
	"context"
	"iter"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/apiserver/alloc"
	"skiff/store"
)

// repairFirst and repairEvery: when leaked addresses and ports are looked for.
// The second look, which gives back, comes a while after the first.
const (
	repairFirst = time.Minute
	repairEvery = 10 * time.Minute
	// giveBackTimeout bounds what is done after the client has its answer, or
	// has gone.
	giveBackTimeout = 10 * time.Second
)

// plan settles what a service is to have, before it is judged. It does nothing
// to other kinds.
func (s *Server) plan(ctx context.Context, r *Request, obj, old api.Object) error {
	svc, was := services(r, obj, old)
	if svc == nil {
		return nil
	}
	if networks := (addressBook{s}).Networks(); len(networks) == 0 {
		// The first service follows closely on the first network.
		if err := s.fresh(ctx); err != nil {
			return err
		}
	}
	return s.services.Plan(svc, was)
}

// allocate takes what a service needs, after it was judged. The caller calls
// keep when the service is stored, and settle in any case.
func (s *Server) allocate(ctx context.Context, r *Request, obj, old api.Object) (*allocation, error) {
	svc, was := services(r, obj, old)
	if svc == nil {
		return nil, nil
	}
	hold, err := s.services.Take(ctx, svc, was, r.Write.DryRun)
	if err != nil {
		return nil, err
	}
	return &allocation{ctx: ctx, hold: hold}, nil
}

// services returns the service that a request writes, and what it was; nil: the
// request does not write a service's spec.
func services(r *Request, obj, old api.Object) (svc, was *corev1.Service) {
	svc, ok := obj.(*corev1.Service)
	if !ok || r.Subresource != "" {
		return nil, nil
	}
	if old != nil {
		was = old.(*corev1.Service)
	}
	return svc, was
}

// allocation is a Hold whose end is decided by whether the write was stored. A
// nil allocation holds nothing.
type allocation struct {
	ctx  context.Context
	hold *alloc.Hold
}

// keep says that the write was stored.
func (a *allocation) keep() {
	if a == nil {
		return
	}
	ctx, cancel := afterwards(a.ctx)
	defer cancel()
	a.hold.Keep(ctx)
	a.hold = nil
}

// unknown leaves what was taken where it is, if err says that nobody knows whether
// the write was stored: given back, it could be given twice. Repair finds out.
func (a *allocation) unknown(err error) {
	if a != nil && outcomeUnknown(err) {
		a.hold = nil
	}
}

// settle gives back what was taken, unless it is kept.
func (a *allocation) settle() {
	if a == nil || a.hold == nil {
		return
	}
	ctx, cancel := afterwards(a.ctx)
	defer cancel()
	a.hold.Drop(ctx)
	a.hold = nil
}

// afterwards is a context for cleaning up, which goes on when the client is gone.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
}

// releaseAll gives back what was allocated for an object that is gone.
func (s *Server) releaseAll(ctx context.Context, obj api.Object) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	s.services.Release(ctx, svc)
}

// repair looks for what crashes have leaked, until ctx ends.
func (s *Server) repair(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.Ready():
	}
	for wait := repairFirst; ; wait = repairEvery {
		if err := s.services.Repair(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("addresses and ports of services not repaired", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// addressBook is the cluster as the allocators see it.
type addressBook struct{ s *Server }

var (
	serviceRow     = api.For[*corev1.Service]()
	ipAddressRow   = api.For[*networkingv1.IPAddress]()
	serviceCIDRRow = api.For[*networkingv1.ServiceCIDR]()
)

// Networks returns the ranges of all ServiceCIDRs that are in use, the
// cluster's first one before the others.
func (b addressBook) Networks() []netip.Prefix {
	var first, others []netip.Prefix
	for obj := range reader(b).List(serviceCIDRRow, "") {
		network := obj.(*networkingv1.ServiceCIDR)
		ready := meta.FindStatusCondition(network.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		if network.DeletionTimestamp != nil || ready != nil && ready.Status == metav1.ConditionFalse {
			continue
		}
		for _, text := range network.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
			case network.Name == "kubernetes":
				first = append(first, prefix)
			default:
				others = append(others, prefix)
			}
		}
	}
	return append(first, others...)
}

// Create stores an IPAddress.
func (b addressBook) Create(ctx context.Context, a *networkingv1.IPAddress) error {
	a = a.DeepCopy()
	baptize(ipAddressRow, a)
	_, err := b.s.put(ctx, ipAddressRow, a, store.Condition{Revision: 0})
	return err
}

// Delete removes an IPAddress, if it is still held for the same parent.
func (b addressBook) Delete(ctx context.Context, a *networkingv1.IPAddress) error {
	entry, err := b.s.currentStored(ctx, ipAddressRow, "", a.Name)
	if err == nil {
		now := entry.Object().(*networkingv1.IPAddress)
		if now.Spec.ParentRef == nil || a.Spec.ParentRef == nil || *now.Spec.ParentRef != *a.Spec.ParentRef {
			return nil
		}
		_, err = b.s.remove(ctx, ipAddressRow, entry, store.Condition{Revision: entry.Revision()})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Address returns an IPAddress from the cache.
func (b addressBook) Address(name string) (*networkingv1.IPAddress, bool) {
	obj, ok := reader(b).Get(ipAddressRow, "", name)
	if !ok {
		return nil, false
	}
	return obj.(*networkingv1.IPAddress), true
}

// Snapshot returns all services and addresses, not older than the call.
func (b addressBook) Snapshot(ctx context.Context) (iter.Seq[*corev1.Service], iter.Seq[*networkingv1.IPAddress], error) {
	if err := b.s.fresh(ctx); err != nil {
		return nil, nil, err
	}
	// Addresses first: one that is taken meanwhile is not seen, and one whose
	// service is stored meanwhile is seen with it.
	addresses := collect[*networkingv1.IPAddress](b.s, ipAddressRow)
	return collect[*corev1.Service](b.s, serviceRow), addresses, nil
}

// collect cuts a snapshot now and reads it when it is ranged over.
func collect[T api.Object](s *Server, row *api.Resource) iter.Seq[T] {
	var all []T
	for obj := range (reader{s}).List(row, "") {
		all = append(all, obj.(T))
	}
	return func(yield func(T) bool) {
		for _, obj := range all {
			if !yield(obj) {
				return
			}
		}
	}
}
