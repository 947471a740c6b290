package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/node/runtime"
)

// maxBody is how much of an answer's body is read and shown.
const maxBody = 10 << 10

// Network is the Checker for real containers.
func Network(rt runtime.Runtime) Checker {
	// Probes of one pod to one port would otherwise keep a connection open that
	// hides a dead listener.
	transport := &http.Transport{DisableKeepAlives: true, Proxy: nil, DisableCompression: true, TLSClientConfig: InsecureTLS(),
		DialContext: (&net.Dialer{KeepAlive: -1}).DialContext}
	follow := &http.Client{Transport: transport, CheckRedirect: stayOnHost}
	return func(ctx context.Context, t Target, p *corev1.Probe) Result {
		timeout := seconds(p.TimeoutSeconds, 1)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		switch {
		case p.Exec != nil:
			return execute(ctx, rt, t, p.Exec.Command, timeout)
		case p.HTTPGet != nil:
			return get(ctx, follow, t, p.HTTPGet)
		case p.TCPSocket != nil:
			return connect(ctx, t, p.TCPSocket)
		case p.GRPC != nil:
			return askHealth(ctx, t, p.GRPC, timeout)
		}
		return Result{Unknown, fmt.Sprintf("missing probe handler for %s_%s(%s):%s", t.Pod.Name, t.Pod.Namespace, t.Pod.UID, t.Container.Name)}
	}
}

// InsecureTLS does not verify: a probe asks a container that is known by its address.
func InsecureTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func execute(ctx context.Context, rt runtime.Runtime, t Target, command []string, timeout time.Duration) Result {
	args := make([]string, len(command))
	for i, c := range command {
		args[i] = expandPodEnv(c, t.Container)
	}
	r, err := rt.ExecSync(ctx, t.ContainerID, args, timeout)
	switch {
	case runtime.IsTimeout(err):
		return Result{Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(args, " "), timeout)}
	case err != nil:
		return Result{Unknown, err.Error()}
	}
	out := string(r.Stdout) + string(r.Stderr)
	out = out[:min(len(out), maxBody)]
	if r.Code != 0 {
		return Result{Failure, out}
	}
	return Result{Success, out}
}

// expandPodEnv replaces $(NAME) by plain values of the container's own variables.
func expandPodEnv(s string, c *corev1.Container) string {
	if !strings.Contains(s, "$(") {
		return s
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			s = strings.ReplaceAll(s, "$("+e.Name+")", e.Value)
		}
	}
	return s
}

// Port finds a port by number, or by name among the container's ports.
func Port(v intstr.IntOrString, c *corev1.Container) (int, error) {
	port := v.IntValue()
	if v.Type == intstr.String {
		port = 0
		for _, p := range c.Ports {
			if p.Name == v.StrVal {
				port = int(p.ContainerPort)
			}
		}
		if port == 0 {
			n, err := strconv.Atoi(v.StrVal)
			if err != nil {
				return 0, fmt.Errorf("couldn't find port: %v", v.StrVal)
			}
			port = n
		}
	}
	if port <= 0 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", port)
	}
	return port, nil
}

// HTTPRequest makes a probe's or a hook's request to address (host:port).
func HTTPRequest(h *corev1.HTTPGetAction, address, agent string) (*http.Request, error) {
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = scheme, address
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, kv := range h.HTTPHeaders {
		req.Header.Add(kv.Name, kv.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	return req, nil
}

func get(ctx context.Context, c *http.Client, t Target, h *corev1.HTTPGetAction) Result {
	port, err := Port(h.Port, t.Container)
	if err != nil {
		return Result{Unknown, err.Error()}
	}
	host := h.Host
	if host == "" {
		host = t.IP
	}
	req, err := HTTPRequest(h, net.JoinHostPort(host, strconv.Itoa(port)), "kube-probe/1.37")
	if err != nil {
		return Result{Unknown, err.Error()}
	}
	resp, err := c.Do(req.WithContext(ctx))
	if err != nil {
		return Result{Failure, err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return Result{Failure, err.Error()}
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return Result{Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))}
	case resp.StatusCode >= 200 && resp.StatusCode < 400:
		return Result{Success, string(body)}
	}
	return Result{Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}
}

// stayOnHost follows redirects on the probed host only; others count as success with a warning.
func stayOnHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func connect(ctx context.Context, t Target, a *corev1.TCPSocketAction) Result {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return Result{Unknown, err.Error()}
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Result{Failure, err.Error()}
	}
	conn.Close()
	return Result{Success, ""}
}

func askHealth(ctx context.Context, t Target, a *corev1.GRPCAction, timeout time.Duration) Result {
	address := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return Result{Unknown, err.Error()}
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return Result{Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case codes.DeadlineExceeded:
		return Result{Failure, fmt.Sprintf("timeout: failed to connect service %q within %s: %s", address, timeout, err)}
	default:
		return Result{Failure, fmt.Sprintf("error: health rpc probe failed: %s", err)}
	}
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		return Result{Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status.String())}
	}
	return Result{Success, ""}
}
