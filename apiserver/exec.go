package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// exec runs a command in a container.
func (s *Server) exec(ctx context.Context, r *Request) (*Result, error) {
	return s.stdio(ctx, r, "exec", r.Query["command"])
}

// attach connects to what a container runs already.
func (s *Server) attach(ctx context.Context, r *Request) (*Result, error) {
	return s.stdio(ctx, r, "attach", nil)
}

// stdio connects a client with a container's streams, through the agent of its
// node. Clients speak SPDY, or WebSocket, which is translated here: agents speak
// SPDY.
func (s *Server) stdio(ctx context.Context, r *Request, what string, command []string) (*Result, error) {
	if err := s.mayOpen(ctx, r); err != nil {
		return nil, err
	}
	var o streamproxy.Options
	for name, into := range map[string]*bool{"stdin": &o.Stdin, "stdout": &o.Stdout, "stderr": &o.Stderr, "tty": &o.Tty} {
		if err := queryBool(r.Query, name, into); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	pod, err := s.pod(ctx, r)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, r.Query.Get("container"))
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, noHost(pod)
	}
	if err := s.mayConnect(ctx, r, stdioOptions(what, container, o, command)); err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "http", Host: pod.Spec.NodeName, Path: fmt.Sprintf("/%s/%s/%s/%s", what, pod.Namespace, pod.Name, container),
		RawQuery: stdioQuery(o, command).Encode()}
	plain := s.upgrade(r, target)
	translated := streamproxy.NewStreamTranslatorHandler(target, s.nodes.transport, 0, o)
	return s.streaming(r, streamproxy.NewTranslatingHandler(plain, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP), nil
}

// portForward connects a client with ports of a pod.
func (s *Server) portForward(ctx context.Context, r *Request) (*Result, error) {
	if err := s.mayOpen(ctx, r); err != nil {
		return nil, err
	}
	ports, err := forwardedPorts(r.Query["ports"])
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	pod, err := s.pod(ctx, r)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, noHost(pod)
	}
	if err := s.mayConnect(ctx, r, forwardOptions(ports)); err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "http", Host: pod.Spec.NodeName, Path: fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name)}
	if len(ports) > 0 {
		target.RawQuery = url.Values{"port": {strings.Join(ports, ",")}}.Encode()
	}
	plain := s.upgrade(r, target)
	tunnel := streamproxy.NewTunnelingHandler(plain)
	return s.streaming(r, streamproxy.NewTranslatingHandler(plain, tunnel, wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP), nil
}

// mayOpen: a WebSocket is opened by GET, but what it allows is a create, whatever
// the method says.
func (s *Server) mayOpen(ctx context.Context, r *Request) error {
	if r.HTTP == nil {
		return notFoundHere()
	}
	if r.Verb == "create" {
		return nil
	}
	as := *r
	as.Verb = "create"
	return s.authorize(ctx, &as)
}

// stdioOptions are the options of exec and attach as admission sees them.
func stdioOptions(what, container string, o streamproxy.Options, command []string) runtime.Object {
	if what == "attach" {
		return &corev1.PodAttachOptions{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.Tty, Container: container}
	}
	return &corev1.PodExecOptions{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.Tty, Container: container, Command: command}
}

// forwardOptions are the options of portforward as admission sees them.
func forwardOptions(ports []string) *corev1.PodPortForwardOptions {
	o := &corev1.PodPortForwardOptions{}
	for _, p := range ports {
		if n, err := strconv.ParseInt(p, 10, 32); err == nil { // they were judged when they were read
			o.Ports = append(o.Ports, int32(n))
		}
	}
	return o
}

func noHost(pod *corev1.Pod) error {
	return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
}

// stdioQuery is what the agent is asked; the names are the kubelet's.
func stdioQuery(o streamproxy.Options, command []string) url.Values {
	q := url.Values{}
	for name, v := range map[string]bool{"input": o.Stdin, "output": o.Stdout, "error": o.Stderr, "tty": o.Tty} {
		if v {
			q.Set(name, "1")
		}
	}
	for _, c := range command {
		q.Add("command", c)
	}
	return q
}

func forwardedPorts(values []string) (ports []string, err error) {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			n, err := strconv.ParseUint(part, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("unable to parse %q as a port", part)
			}
			ports = append(ports, part)
		}
	}
	return ports, nil
}

// upgrade passes a request that becomes a stream on to an agent, as it is.
func (s *Server) upgrade(r *Request, target *url.URL) http.Handler {
	return proxy.NewUpgradeAwareHandler(target, s.nodes.transport, false, true, s.responder(r))
}

// responder writes what went wrong on the way to an agent or a pod.
func (s *Server) responder(r *Request) proxy.ErrorResponder { return failedProxy{s, r} }

type failedProxy struct {
	server  *Server
	request *Request
}

func (f failedProxy) Error(w http.ResponseWriter, req *http.Request, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	f.server.respondError(w, f.request, err)
}
