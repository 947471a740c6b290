package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"skiff/api"
)

// proxyPod passes a request on to a pod: …/pods/[scheme:]name[:port]/proxy/path.
func (s *Server) proxyPod(ctx context.Context, r *Request) (*Result, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(r.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", r.Name))
	}
	pod, err := livePod(ctx, s, r.Namespace, name)
	if err != nil {
		return nil, err
	}
	number, err := podPort(pod, port, scheme)
	if err != nil {
		return nil, err
	}
	if err := s.mayConnect(ctx, r, &corev1.PodProxyOptions{Path: r.SubPath}); err != nil {
		return nil, err
	}
	return s.toPod(r, pod, scheme, number)
}

// podPort is the port that is meant: the one given, else the first that the pod
// declares, else that of the scheme.
func podPort(pod *corev1.Pod, port, scheme string) (int32, error) {
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", port))
		}
		return int32(n), nil
	}
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return c.Ports[0].ContainerPort, nil
		}
	}
	if scheme == "https" {
		return 443, nil
	}
	return 80, nil
}

// toPod passes a request on to a port of a pod, at the address that the pod has
// now and no other.
func (s *Server) toPod(r *Request, pod *corev1.Pod, scheme string, port int32) (*Result, error) {
	if err := allowedTarget(pod.Status.PodIP); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.nodes.dialer.DialPod(ctx, pod, port)
	}
	target := &url.URL{Scheme: scheme, Host: net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port)))}
	return s.pass(r, target, dial)
}

// pass is a proxy for one request. The answer's links and redirects are
// rewritten, so that they lead through the proxy again.
func (s *Server) pass(r *Request, target *url.URL, dial func(context.Context, string, string) (net.Conn, error)) (*Result, error) {
	if r.HTTP == nil {
		return nil, notFoundHere()
	}
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	target.Path = r.SubPath
	transport := &http.Transport{
		DialContext: dial, DisableKeepAlives: true, ResponseHeaderTimeout: 5 * time.Minute,
		// Nobody has said who may have signed a pod's certificate.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	return s.streaming(r, func(w http.ResponseWriter, req *http.Request) {
		proxy.NewUpgradeAwareHandler(target, transport, true, false, s.responder(r)).ServeHTTP(w, req)
	}), nil
}

// proxyService passes a request on to one of the pods behind a service:
// …/services/[scheme:]name[:port]/proxy/path.
func (s *Server) proxyService(ctx context.Context, r *Request) (*Result, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(r.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", r.Name))
	}
	service, err := live[*corev1.Service](ctx, s, r.Namespace, name)
	if err != nil {
		return nil, err
	}
	if service == nil {
		return nil, apierrors.NewNotFound(api.For[*corev1.Service]().GroupResource(), name)
	}
	portName, err := servicePortName(service, port)
	if err != nil {
		return nil, err
	}
	if err := s.mayConnect(ctx, r, &corev1.ServiceProxyOptions{Path: r.SubPath}); err != nil {
		return nil, err
	}
	pod, target := s.backend(r.Namespace, name, portName)
	if pod == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	return s.toPod(r, pod, scheme, target)
}

// servicePortName is the name of the port that is meant, by name or number.
func servicePortName(service *corev1.Service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return port, nil
	}
	for _, p := range service.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service.Name))
}

// backend picks one ready pod of a service at random, and its port. Endpoints
// that are not pods are never taken: who may write endpoints could otherwise
// make the server call anyone.
func (s *Server) backend(namespace, service, portName string) (*corev1.Pod, int32) {
	type choice struct {
		pod  *corev1.Pod
		port int32
	}
	var choices []choice
	of := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service})
	for _, slice := range s.endpointSlices(namespace, of) {
		port := slicePort(slice, portName)
		if port == 0 {
			continue
		}
		for i := range slice.Endpoints {
			if pod := s.endpointPod(namespace, &slice.Endpoints[i]); pod != nil {
				choices = append(choices, choice{pod, port})
			}
		}
	}
	if len(choices) == 0 {
		return nil, 0
	}
	c := choices[rand.IntN(len(choices))]
	return c.pod, c.port
}

func slicePort(slice *discoveryv1.EndpointSlice, name string) int32 {
	for _, p := range slice.Ports {
		if p.Port != nil && p.Name != nil && *p.Name == name {
			return *p.Port
		}
	}
	return 0
}

// endpointPod is the pod behind a ready endpoint whose address it has.
func (s *Server) endpointPod(namespace string, e *discoveryv1.Endpoint) *corev1.Pod {
	if e.Conditions.Ready != nil && !*e.Conditions.Ready {
		return nil
	}
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || e.TargetRef.Namespace != namespace || len(e.Addresses) == 0 {
		return nil
	}
	entry, ok := s.table(api.For[*corev1.Pod]()).Get(namespace, e.TargetRef.Name)
	if !ok || entry.Err() != nil {
		return nil
	}
	pod, ok := entry.Object().(*corev1.Pod)
	if !ok || pod.Status.PodIP != e.Addresses[0] {
		return nil
	}
	return pod
}

// proxyNode passes a request on to a node's agent, or to another port of the
// node: …/nodes/[scheme:]name[:port]/proxy/path.
func (s *Server) proxyNode(ctx context.Context, r *Request) (*Result, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(r.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", r.Name))
	}
	node, err := s.findNode(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := s.mayConnect(ctx, r, &corev1.NodeProxyOptions{Path: r.SubPath}); err != nil {
		return nil, err
	}
	agent := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == "" || port == strconv.Itoa(int(agent)) {
		target := &url.URL{Scheme: "http", Host: name}
		return s.toAgent(r, target)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", port))
	}
	other := node.DeepCopy()
	other.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, _, err := directDialer{}.DialNode(ctx, other)
		return conn, err
	}
	return s.pass(r, &url.URL{Scheme: scheme, Host: net.JoinHostPort(name, port)}, dial)
}

// toAgent is pass, over the connections that know who they lead to.
func (s *Server) toAgent(r *Request, target *url.URL) (*Result, error) {
	if r.HTTP == nil {
		return nil, notFoundHere()
	}
	target.Path = r.SubPath
	return s.streaming(r, proxy.NewUpgradeAwareHandler(target, s.nodes.transport, true, false, s.responder(r)).ServeHTTP), nil
}

// findNode returns a node as it is now.
func (s *Server) findNode(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := live[*corev1.Node](ctx, s, "", name)
	if err == nil && node == nil {
		err = apierrors.NewNotFound(api.For[*corev1.Node]().GroupResource(), name)
	}
	return node, err
}

// endpointSlices are the slices of a namespace with these labels.
func (s *Server) endpointSlices(namespace string, of labels.Selector) (slices []*discoveryv1.EndpointSlice) {
	for entry := range s.table(api.For[*discoveryv1.EndpointSlice]()).Snapshot().All(namespace) {
		if entry.Err() != nil || !of.Matches(entry.Labels()) {
			continue
		}
		if slice, ok := entry.Object().(*discoveryv1.EndpointSlice); ok {
			slices = append(slices, slice)
		}
	}
	return slices
}
