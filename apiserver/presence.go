package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/store"
)

// Each server says that it is there by a key below presencePrefix, named by its
// address, as upstream's servers do, and writes it again every third of PresenceLife.
// One that has not for PresenceLife, by the clock of whoever looks, is not there any
// more: clocks need not agree. The store forgets its key later.
const (
	presencePrefix = "/registry/masterleases/"
	presenceLife   = 15 * time.Second // unless AuthConfig says otherwise
	presenceTTL    = time.Minute
)

// present are the servers that are there, by address, and when they last said so.
type present map[Advertise]time.Time

// runPresence keeps the endpoints of the service kubernetes those of all servers
// that are there, until ctx ends.
func (s *Server) runPresence(ctx context.Context) error {
	if s.authConfig.Advertise.IP == "" {
		return nil
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		if err := s.followPresence(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the endpoints of service kubernetes may be old", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	// The others need not wait until this one is missed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := s.store.Delete(ctx, presencePrefix+s.authConfig.Advertise.IP, store.Condition{Revision: store.Any}); err != nil {
		s.log.Debug("this server's presence is forgotten later", "error", err)
	}
	return nil
}

// followPresence runs until ctx ends or the store's watch does.
func (s *Server) followPresence(ctx context.Context) error {
	there, revision, err := s.readPresence(ctx)
	if err != nil {
		return err
	}
	watching, end := context.WithCancel(ctx)
	defer end()
	changes := s.store.Watch(watching, presencePrefix, revision)
	again := time.NewTicker(s.authConfig.PresenceLife / 3)
	defer again.Stop()
	for {
		if err := s.ensureEndpoints(ctx, there.within(s.authConfig.PresenceLife, time.Now())); err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
			s.log.Warn("the endpoints of service kubernetes are not written", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-changes.C:
			if !ok {
				return fmt.Errorf("watch servers: %w", changes.Err())
			}
			there.apply(batch.Events, time.Now(), s.authConfig.Advertise.Port)
		case <-again.C:
			if err := s.showPresence(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("this server cannot say that it is there", "error", err)
			}
		}
	}
}

// showPresence says that this server is there.
func (s *Server) showPresence(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.authConfig.PresenceLife/3)
	defer cancel()
	self := s.authConfig.Advertise
	value, err := appendProtobufObject(nil, &corev1.Endpoints{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"},
		Subsets:  []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: self.IP}}, Ports: []corev1.EndpointPort{{Name: "https", Port: self.Port}}}},
	})
	if err != nil {
		return fmt.Errorf("encode the presence of %s: %w", self.IP, err)
	}
	_, err = s.store.Put(ctx, presencePrefix+self.IP, value, store.Condition{Revision: store.Any, TTL: presenceTTL})
	return err
}

// readPresence lists who has said that they are there. Each is given the time of
// one life to say it again.
func (s *Server) readPresence(ctx context.Context) (present, int64, error) {
	page, err := s.store.List(ctx, presencePrefix, "", 0, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("list servers: %w", err)
	}
	there := present{}
	for _, e := range page.Entries {
		if at, ok := parsePresence(e.Key, e.Value, s.authConfig.Advertise.Port); ok {
			there[at] = time.Now()
		}
	}
	return there, page.Revision, nil
}

// apply takes in what was written.
func (p present) apply(events []store.Event, now time.Time, port int32) {
	for _, e := range events {
		if e.Value == nil {
			maps.DeleteFunc(p, func(at Advertise, _ time.Time) bool { return at.IP == strings.TrimPrefix(e.Key, presencePrefix) })
		} else if at, ok := parsePresence(e.Key, e.Value, port); ok {
			p[at] = now
		}
	}
}

// parsePresence reads a key. Servers that do not say their port have this one's.
func parsePresence(key string, value []byte, port int32) (Advertise, bool) {
	at := Advertise{IP: strings.TrimPrefix(key, presencePrefix), Port: port}
	if net.ParseIP(at.IP) == nil {
		return at, false
	}
	said := &corev1.Endpoints{}
	_, err := unmarshalProtobuf(value, corev1.SchemeGroupVersion.WithKind("Endpoints"), said)
	if err == nil && len(said.Subsets) > 0 && len(said.Subsets[0].Ports) > 0 && said.Subsets[0].Ports[0].Port > 0 {
		at.Port = said.Subsets[0].Ports[0].Port
	}
	return at, true
}

// within forgets those that have been silent for a life, and returns the others in order.
func (p present) within(life time.Duration, now time.Time) []Advertise {
	maps.DeleteFunc(p, func(_ Advertise, seen time.Time) bool { return now.Sub(seen) > life })
	return slices.SortedFunc(maps.Keys(p), func(a, b Advertise) int {
		return cmp.Or(strings.Compare(a.IP, b.IP), cmp.Compare(a.Port, b.Port))
	})
}

// announce makes this server an endpoint of the service before it is ready.
func (s *Server) announce(ctx context.Context) error {
	to := s.authConfig.Advertise
	if net.ParseIP(to.IP) == nil {
		return fmt.Errorf("advertised address %q is not an IP", net.JoinHostPort(to.IP, strconv.Itoa(int(to.Port))))
	}
	if err := s.showPresence(ctx); err != nil {
		return err
	}
	there, revision, err := s.readPresence(ctx)
	if err != nil {
		return err
	}
	if err := s.cache.WaitFor(ctx, revision); err != nil {
		return err
	}
	err = s.ensureEndpoints(ctx, there.within(s.authConfig.PresenceLife, time.Now()))
	if apierrors.IsConflict(err) {
		return nil // another server is doing the same; runPresence looks again
	}
	return err
}

// ensureEndpoints makes the servers the endpoints of the service kubernetes, in
// both forms. Servers of a cluster listen on one port, and advertise addresses of
// one family: others than the first's are left out.
func (s *Server) ensureEndpoints(ctx context.Context, servers []Advertise) error {
	if len(servers) == 0 {
		return nil // this server has been silent for long: others know better
	}
	endpoints, slice := ownEndpoints(servers)
	if err := s.replaceOwn(ctx, endpoints, func(have api.Object) bool {
		h := have.(*corev1.Endpoints)
		same := apiequality.Semantic.DeepEqual(h.Subsets, endpoints.Subsets)
		h.Subsets = endpoints.Subsets
		return same
	}); err != nil {
		return err
	}
	return s.replaceOwn(ctx, slice, func(have api.Object) bool {
		h := have.(*discoveryv1.EndpointSlice)
		same := apiequality.Semantic.DeepEqual(h.Endpoints, slice.Endpoints) && apiequality.Semantic.DeepEqual(h.Ports, slice.Ports)
		h.Endpoints, h.Ports = slice.Endpoints, slice.Ports
		return same
	})
}

// replaceOwn creates want, or lets change write it into a copy of what is there.
func (s *Server) replaceOwn(ctx context.Context, want api.Object, change func(have api.Object) (same bool)) error {
	entry, ok := s.table(api.Of(want)).Get(want.GetNamespace(), want.GetName())
	if !ok {
		return s.ensure(ctx, want)
	}
	next := entry.Object().DeepCopyObject().(api.Object)
	if slice, ok := next.(*discoveryv1.EndpointSlice); ok && slice.AddressType != want.(*discoveryv1.EndpointSlice).AddressType {
		return fmt.Errorf("the cluster was made for %s addresses: advertise one", slice.AddressType)
	}
	if change(next) {
		return nil
	}
	_, err := s.serve(ctx, s.own("update", next))
	return err
}

// ownEndpoints are the objects that name the servers.
func ownEndpoints(servers []Advertise) (*corev1.Endpoints, *discoveryv1.EndpointSlice) {
	first := servers[0]
	is4 := net.ParseIP(first.IP).To4() != nil
	family := discoveryv1.AddressTypeIPv4
	if !is4 {
		family = discoveryv1.AddressTypeIPv6
	}
	name, protocol, yes := "https", corev1.ProtocolTCP, true
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
	endpoints := &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{
		Ports: []corev1.EndpointPort{{Name: name, Port: first.Port, Protocol: protocol}},
	}}}
	// The slice is written here, too: no mirror of the Endpoints is wanted.
	endpoints.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta,
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &first.Port, Protocol: &protocol}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	for _, at := range servers {
		if at.Port != first.Port || (net.ParseIP(at.IP).To4() != nil) != is4 {
			continue
		}
		endpoints.Subsets[0].Addresses = append(endpoints.Subsets[0].Addresses, corev1.EndpointAddress{IP: at.IP})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{at.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}})
	}
	return endpoints, slice
}
