package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// LocalhostKey is the annotation that says where on this machine's localhost a
// balanced service answers: "127.0.0.1:8080,127.0.0.1:5353/udp".
const LocalhostKey = "skiff.dev/localhost"

// localPorts makes the TCP and UDP ports of NodePort and LoadBalancer services
// reachable at 127.0.0.1 of the machine that a local cluster runs on: it listens
// there, and passes on to a node, whose service proxy does the rest. A port that
// somebody else has is replaced by a free one; an event on the service and its
// annotation say which.
type localPorts struct {
	client client.Client
	record *client.Recorder
	log    *slog.Logger

	open map[portKey]*openPort
	wait sync.WaitGroup
}

// portKey is one port that is wanted: by a service, for its own port (balanced)
// or its node port.
type portKey struct {
	namespace, name string
	uid             types.UID
	protocol        corev1.Protocol // TCP or UDP
	port            int32           // that localhost should have
}

// openPort is where something is listened to, and where it goes.
type openPort struct {
	closer io.Closer
	addr   net.Addr

	mu sync.Mutex
	to []string // node addresses with the port; guarded by mu
}

// String is the address as users read it: with the protocol if it is not TCP.
func (o *openPort) String() string {
	if o.addr.Network() == "udp" {
		return o.addr.String() + "/udp"
	}
	return o.addr.String()
}

// run follows services and nodes until ctx ends.
func (p *localPorts) run(ctx context.Context) error {
	p.open = map[portKey]*openPort{}
	defer p.wait.Wait()
	defer func() {
		for _, o := range p.open {
			o.closer.Close()
		}
	}()
	view := client.NewView()
	feed := p.client.Follow(ctx, client.Source{Resource: api.For[*corev1.Service]()}, client.Source{Resource: api.For[*corev1.Node]()})
	for batch := range feed.C {
		view.Apply(batch)
		p.apply(ctx, view)
	}
	return nil
}

// apply opens and closes ports so that they are as the view wants them.
func (p *localPorts) apply(ctx context.Context, v *client.View) {
	nodes := nodeAddresses(v)
	wanted := map[portKey]int32{} // the port of the node that it leads to
	for s := range client.All[*corev1.Service](v, "") {
		for key, to := range wantedPorts(s) {
			wanted[key] = to
		}
	}
	for key, o := range p.open {
		if _, ok := wanted[key]; !ok {
			o.closer.Close()
			delete(p.open, key)
		}
	}
	changed := map[*corev1.Service]bool{}
	for key, to := range wanted {
		o := p.open[key]
		if o == nil {
			service, _ := client.Find[*corev1.Service](v, key.namespace, key.name)
			if o = p.listen(ctx, service, key); o == nil {
				continue
			}
			changed[service] = service.Spec.Type == corev1.ServiceTypeLoadBalancer
		}
		o.lead(nodes, to)
	}
	for service, balanced := range changed {
		if balanced {
			p.annotate(ctx, service)
		}
	}
}

// wantedPorts maps the ports of localhost that a service wants to the nodes' ports behind them.
func wantedPorts(s *corev1.Service) map[portKey]int32 {
	out := map[portKey]int32{}
	if s.DeletionTimestamp != nil || s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return out
	}
	for _, port := range s.Spec.Ports {
		if port.Protocol != corev1.ProtocolTCP && port.Protocol != corev1.ProtocolUDP || port.NodePort == 0 {
			continue
		}
		key := portKey{s.Namespace, s.Name, s.UID, port.Protocol, port.NodePort}
		out[key] = port.NodePort
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			key.port = port.Port
			out[key] = port.NodePort
		}
	}
	return out
}

// nodeAddresses lists the internal addresses of nodes that are ready.
func nodeAddresses(v *client.View) (out []string) {
	for node := range client.All[*corev1.Node](v, "") {
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		for _, a := range node.Status.Addresses {
			if ready && a.Type == corev1.NodeInternalIP {
				out = append(out, a.Address)
			}
		}
	}
	return out
}

// listen opens a port, or a free one where it is taken; nil: neither could be.
func (p *localPorts) listen(ctx context.Context, service *corev1.Service, key portKey) *openPort {
	o, serve, err := openLocal(key.protocol, key.port)
	if err != nil {
		taken := err
		if o, serve, err = openLocal(key.protocol, 0); err != nil {
			p.log.Error("no port of localhost for a service", "service", key.namespace+"/"+key.name, "error", err)
			return nil
		}
		p.record.Event(service, corev1.EventTypeWarning, "LocalhostPortTaken",
			fmt.Sprintf("Port %d of this machine's localhost is taken (%v): the service answers at %s instead", key.port, taken, o))
	}
	p.open[key] = o
	p.wait.Go(func() { serve(ctx) })
	return o
}

// openLocal listens at a port of localhost; 0 means one that is free. serve passes
// on what comes until the port is closed.
func openLocal(protocol corev1.Protocol, port int32) (o *openPort, serve func(context.Context), err error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	if protocol == corev1.ProtocolUDP {
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			return nil, nil, err
		}
		o = &openPort{closer: conn, addr: conn.LocalAddr()}
		return o, func(ctx context.Context) { o.servePackets(ctx, conn) }, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	o = &openPort{closer: l, addr: l.Addr()}
	return o, func(ctx context.Context) { o.serve(ctx, l) }, nil
}

// annotate tells users where a balanced service answers.
func (p *localPorts) annotate(ctx context.Context, service *corev1.Service) {
	var places []string
	for _, port := range service.Spec.Ports {
		if o := p.open[portKey{service.Namespace, service.Name, service.UID, port.Protocol, port.Port}]; o != nil {
			places = append(places, o.String())
		}
	}
	text := strings.Join(places, ",")
	if service.Annotations[LocalhostKey] == text {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{LocalhostKey: text}}})
	if err == nil {
		_, err = p.client.Patch(ctx, api.Of(service), service.Namespace, service.Name, client.Patch{Type: types.MergePatchType, Data: patch})
	}
	if err != nil {
		p.log.Warn("service not annotated", "service", service.Namespace+"/"+service.Name, "error", err)
	}
}

// lead says where new connections go.
func (o *openPort) lead(nodes []string, port int32) {
	to := make([]string, len(nodes))
	for i, node := range nodes {
		to[i] = net.JoinHostPort(node, strconv.Itoa(int(port)))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = to
}

// targets are where what comes may go, the best first.
func (o *openPort) targets() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to
}

// serve passes on connections until the listener is closed.
func (o *openPort) serve(ctx context.Context, l net.Listener) {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		group.Go(func() { o.pass(ctx, conn) })
	}
}

// pass connects to the first node that answers, and copies both ways.
func (o *openPort) pass(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var dialer net.Dialer
	for _, address := range o.targets() {
		there, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			continue
		}
		splice(ctx, conn, there)
		return
	}
}

// splice copies both ways until both sides have finished, or ctx ends.
func splice(ctx context.Context, a, b net.Conn) {
	defer b.Close()
	defer context.AfterFunc(ctx, func() { a.Close(); b.Close() })()
	var group sync.WaitGroup
	one := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && (err == nil || errors.Is(err, io.EOF)) {
			half.CloseWrite()
			return
		}
		to.Close()
	}
	group.Go(func() { one(a, b) })
	group.Go(func() { one(b, a) })
	group.Wait()
}
