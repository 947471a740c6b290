package alloc

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff/store"
)

// book is a Cluster in memory. Its Address lags behind for ever, so that only
// Create decides.
type book struct {
	mu        sync.Mutex
	networks  []netip.Prefix
	addresses map[string]*networkingv1.IPAddress
	services  map[string]*corev1.Service
	blind     bool
	serial    int
}

func newBook(networks ...string) *book {
	b := &book{addresses: map[string]*networkingv1.IPAddress{}, services: map[string]*corev1.Service{}}
	for _, n := range networks {
		b.networks = append(b.networks, netip.MustParsePrefix(n))
	}
	return b
}

func (b *book) Networks() []netip.Prefix { return b.networks }

func (b *book) Create(_ context.Context, a *networkingv1.IPAddress) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addresses[a.Name] != nil {
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "ipaddresses"}, a.Name)
	}
	b.serial++
	a = a.DeepCopy()
	a.UID = types.UID(fmt.Sprint(b.serial))
	b.addresses[a.Name] = a
	return nil
}

func (b *book) Delete(_ context.Context, a *networkingv1.IPAddress) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := b.addresses[a.Name]; have != nil && *have.Spec.ParentRef == *a.Spec.ParentRef {
		delete(b.addresses, a.Name)
	}
	return nil
}

func (b *book) Address(name string) (*networkingv1.IPAddress, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.addresses[name]
	return a, ok && !b.blind
}

func (b *book) Snapshot(context.Context) (iter.Seq[*corev1.Service], iter.Seq[*networkingv1.IPAddress], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Values(maps.Clone(b.services)), maps.Values(maps.Clone(b.addresses)), nil
}

func (b *book) add(svc *corev1.Service) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.services[svc.Name] = svc
}

func newServices(b *book, s store.Store) *Services {
	return New(Config{Store: s, Cluster: b, Log: slog.New(slog.DiscardHandler)})
}

func service(name string, kind corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Type: kind, Ports: ports, Selector: map[string]string{"app": name}}}
}

func port(number int32, node ...int32) corev1.ServicePort {
	p := corev1.ServicePort{Name: fmt.Sprint("p", number), Port: number, Protocol: corev1.ProtocolTCP}
	if len(node) > 0 {
		p.NodePort = node[0]
	}
	return p
}

// take plans and takes for a new service.
func take(s *Services, svc, old *corev1.Service) (*Hold, error) {
	if err := s.Plan(svc, old); err != nil {
		return nil, err
	}
	return s.Take(context.Background(), svc, old, false)
}

func mustTake(t *testing.T, s *Services, svc, old *corev1.Service) *Hold {
	t.Helper()
	h, err := take(s, svc, old)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Two servers on one store, 64 services at once: nothing is given twice.
func TestNeverTwice(t *testing.T) {
	shared := store.OpenMemory(store.MemoryConfig{})
	defer shared.Close()
	b := newBook("10.96.0.0/25")
	b.blind = true
	servers := []*Services{newServices(b, shared), newServices(b, shared)}
	const each = 32
	got := make([]*corev1.Service, 2*each)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			svc := service(fmt.Sprint("s", i), corev1.ServiceTypeNodePort, port(80), port(443))
			h, err := take(servers[i%2], svc, nil)
			if err != nil {
				t.Error(err)
				return
			}
			h.Keep(context.Background())
			got[i] = svc
		})
	}
	wg.Wait()
	ips, ports := map[string]bool{}, map[int32]bool{}
	for _, svc := range got {
		if svc == nil {
			t.Fatal("a service got nothing")
		}
		if ips[svc.Spec.ClusterIP] || svc.Spec.ClusterIP == "" {
			t.Errorf("%s: address %q given twice", svc.Name, svc.Spec.ClusterIP)
		}
		ips[svc.Spec.ClusterIP] = true
		for _, p := range svc.Spec.Ports {
			if ports[p.NodePort] || p.NodePort < firstPort || p.NodePort > lastPort {
				t.Errorf("%s: port %d given twice", svc.Name, p.NodePort)
			}
			ports[p.NodePort] = true
		}
	}
	// A server that starts now knows what is taken.
	late := newServices(b, shared)
	_, err := take(late, service("late", corev1.ServiceTypeNodePort, port(80, got[0].Spec.Ports[0].NodePort)), nil)
	if err == nil || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a taken port after a restart: %v", err)
	}
	svc := service("late", corev1.ServiceTypeClusterIP, port(80))
	svc.Spec.ClusterIP = got[0].Spec.ClusterIP
	if _, err := take(late, svc, nil); err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("a taken address after a restart: %v", err)
	}
	if len(b.addresses) != 2*each {
		t.Errorf("%d addresses are held for %d services", len(b.addresses), 2*each)
	}
}

func TestRefusals(t *testing.T) {
	s := store.OpenMemory(store.MemoryConfig{})
	defer s.Close()
	b := newBook("10.96.0.0/24")
	services := newServices(b, s)
	mustTake(t, services, service("first", corev1.ServiceTypeNodePort, port(80, 30080)), nil).Keep(context.Background())

	withIP := func(ip string) *corev1.Service {
		svc := service("x", corev1.ServiceTypeNodePort, port(80))
		svc.Spec.ClusterIP = ip
		return svc
	}
	dual := service("x", corev1.ServiceTypeClusterIP, port(80))
	policy := corev1.IPFamilyPolicyRequireDualStack
	dual.Spec.IPFamilyPolicy = &policy
	six := service("x", corev1.ServiceTypeClusterIP, port(80))
	six.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	for name, c := range map[string]struct {
		svc  *corev1.Service
		want string
	}{
		"port taken":        {service("x", corev1.ServiceTypeNodePort, port(80, 30080)), `Service "x" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated`},
		"port out of range": {service("x", corev1.ServiceTypeNodePort, port(80, 80)), `Service "x" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		"address elsewhere": {withIP("10.97.0.1"), `Service "x" is invalid: spec.clusterIPs: Invalid value: ["10.97.0.1"]: failed to allocate IP 10.97.0.1: the provided network does not match the current range`},
		"network address":   {withIP("10.96.0.0"), `Service "x" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.0"]: failed to allocate IP 10.96.0.0: the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/24`},
		"broadcast address": {withIP("10.96.0.255"), `Service "x" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.255"]: failed to allocate IP 10.96.0.255: the provided IP (10.96.0.255) is not in the valid range. The range of valid IPs is 10.96.0.0/24`},
		"no address":        {withIP("garbage"), `Service "x" is invalid: spec.clusterIPs: Invalid value: ["garbage"]: failed to allocate IP garbage: failed to parse service IP "garbage"`},
		"dual stack":        {dual, `Service "x" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		"other family":      {six, `Service "x" is invalid: spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := take(services, c.svc, nil)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if len(b.addresses) != 1 {
		t.Errorf("refused services hold addresses: %v", slices.Collect(maps.Keys(b.addresses)))
	}
}

// What a service has it keeps through updates that do not name it; what a change
// of type makes needless is given back.
func TestUpdates(t *testing.T) {
	ctx := context.Background()
	s := store.OpenMemory(store.MemoryConfig{})
	defer s.Close()
	b := newBook("10.96.0.0/24", "fd00::/112")
	services := newServices(b, s)
	first := service("s", corev1.ServiceTypeLoadBalancer, port(80), port(443))
	first.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	mustTake(t, services, first, nil).Keep(ctx)
	if first.Spec.HealthCheckNodePort == 0 || first.Spec.IPFamilies[0] != corev1.IPv4Protocol || *first.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Fatalf("a load balancer got %+v", first.Spec)
	}

	same := service("s", corev1.ServiceTypeLoadBalancer, port(443), port(80), port(8080))
	same.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	mustTake(t, services, same, first).Keep(ctx)
	if same.Spec.ClusterIP != first.Spec.ClusterIP || same.Spec.HealthCheckNodePort != first.Spec.HealthCheckNodePort ||
		same.Spec.Ports[0].NodePort != first.Spec.Ports[1].NodePort || same.Spec.Ports[1].NodePort != first.Spec.Ports[0].NodePort {
		t.Errorf("an update lost what the service had:\n%+v\n%+v", first.Spec, same.Spec)
	}
	if same.Spec.Ports[2].NodePort == 0 {
		t.Error("a new port got no node port")
	}

	plain := service("s", corev1.ServiceTypeClusterIP, port(80))
	mustTake(t, services, plain, same).Keep(ctx)
	if plain.Spec.ClusterIP != first.Spec.ClusterIP || plain.Spec.Ports[0].NodePort != 0 {
		t.Errorf("as ClusterIP it has %+v", plain.Spec)
	}
	for _, freed := range portsOf(same) {
		svc := service("other", corev1.ServiceTypeNodePort, port(80, freed))
		mustTake(t, services, svc, nil).Drop(ctx)
	}

	external := service("s", corev1.ServiceTypeExternalName)
	mustTake(t, services, external, plain).Keep(ctx)
	if len(b.addresses) != 0 {
		t.Errorf("an ExternalName holds %v", b.addresses)
	}
	back := service("s", corev1.ServiceTypeClusterIP, port(80))
	mustTake(t, services, back, external).Keep(ctx)
	if back.Spec.ClusterIP == "" {
		t.Error("no address after ExternalName")
	}

	six := service("six", corev1.ServiceTypeClusterIP, port(80))
	policy := corev1.IPFamilyPolicyPreferDualStack
	six.Spec.IPFamilyPolicy = &policy
	mustTake(t, services, six, nil).Keep(ctx)
	if len(six.Spec.ClusterIPs) != 2 || netip.MustParseAddr(six.Spec.ClusterIPs[1]).Is4() || six.Spec.ClusterIP != six.Spec.ClusterIPs[0] {
		t.Errorf("a dual-stack service got %v", six.Spec.ClusterIPs)
	}
	services.Release(ctx, six)
	services.Release(ctx, back)
	if len(b.addresses) != 0 {
		t.Errorf("released services hold %v", b.addresses)
	}
}

func TestHeadless(t *testing.T) {
	s := store.OpenMemory(store.MemoryConfig{})
	defer s.Close()
	b := newBook("10.96.0.0/24")
	services := newServices(b, s)
	svc := service("h", corev1.ServiceTypeClusterIP, port(80))
	svc.Spec.ClusterIP = corev1.ClusterIPNone
	mustTake(t, services, svc, nil).Keep(context.Background())
	if !slices.Equal(svc.Spec.ClusterIPs, []string{"None"}) || !slices.Equal(svc.Spec.IPFamilies, []corev1.IPFamily{"IPv4"}) || len(b.addresses) != 0 {
		t.Errorf("headless: %+v", svc.Spec)
	}
	svc.Spec.Selector, svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = nil, nil, nil
	mustTake(t, services, svc, nil).Keep(context.Background())
	if len(svc.Spec.IPFamilies) != 2 || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
		t.Errorf("headless without selector: %+v", svc.Spec)
	}
}

// A small network is used up to the last address, and says when it is full.
func TestFull(t *testing.T) {
	s := store.OpenMemory(store.MemoryConfig{})
	defer s.Close()
	services := newServices(newBook("10.0.0.0/29"), s)
	for i := range 6 {
		mustTake(t, services, service(fmt.Sprint("s", i), corev1.ServiceTypeClusterIP, port(80)), nil)
	}
	_, err := take(services, service("x", corev1.ServiceTypeClusterIP, port(80)), nil)
	if want := `Internal error occurred: failed to allocate a serviceIP for Service "x": range is full`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What a crash left behind is given back by the second look, not by the first.
func TestRepair(t *testing.T) {
	ctx := context.Background()
	s := store.OpenMemory(store.MemoryConfig{})
	defer s.Close()
	b := newBook("10.96.0.0/24")
	services := newServices(b, s)
	kept := service("kept", corev1.ServiceTypeNodePort, port(80))
	mustTake(t, services, kept, nil).Keep(ctx)
	b.add(kept)
	leaked := service("leaked", corev1.ServiceTypeNodePort, port(80, 31000))
	mustTake(t, services, leaked, nil) // and the server dies

	after := newServices(b, s)
	if err := after.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Address(leaked.Spec.ClusterIP); !ok {
		t.Error("the first look gave an address back: its service may be on its way")
	}
	late := service("late", corev1.ServiceTypeNodePort, port(80))
	mustTake(t, after, late, nil) // between the looks
	if err := after.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Address(leaked.Spec.ClusterIP); ok {
		t.Error("a leaked address was not given back")
	}
	for _, svc := range []*corev1.Service{kept, late} {
		if _, ok := b.Address(svc.Spec.ClusterIP); !ok {
			t.Errorf("%s lost its address", svc.Name)
		}
		if _, err := take(after, service("x", corev1.ServiceTypeNodePort, port(80, svc.Spec.Ports[0].NodePort)), nil); err == nil {
			t.Errorf("%s lost its port", svc.Name)
		}
	}
	mustTake(t, after, service("again", corev1.ServiceTypeNodePort, port(80, 31000)), nil)

	// A service whose marks are gone gets them back.
	b.mu.Lock()
	delete(b.addresses, kept.Spec.ClusterIP)
	b.mu.Unlock()
	if err := after.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Address(kept.Spec.ClusterIP); !ok {
		t.Error("an address in use was not marked again")
	}
}

func TestHosts(t *testing.T) {
	for network, want := range map[string]struct {
		first, last    string
		size, reserved uint64
	}{
		"10.0.0.0/29":   {"10.0.0.1", "10.0.0.6", 6, 0},
		"10.0.0.0/24":   {"10.0.0.1", "10.0.0.254", 254, 16},
		"10.96.0.0/12":  {"10.96.0.1", "10.111.255.254", 1<<20 - 2, 256},
		"fd00::/112":    {"fd00::1", "fd00::ffff", 1<<16 - 1, 256},
		"fd00::/64":     {"fd00::1", "fd00::3fff:ffff:ffff:ffff", 1<<62 - 1, 256},
		"10.1.2.128/25": {"10.1.2.129", "10.1.2.254", 126, 16},
	} {
		r := hosts(netip.MustParsePrefix(network))
		if r.first.String() != want.first || r.last.String() != want.last || r.size != want.size || r.reserved != want.reserved {
			t.Errorf("%s: %v to %v, %d addresses, %d reserved; want %+v", network, r.first, r.last, r.size, r.reserved, want)
		}
	}
}
