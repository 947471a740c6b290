package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	agentforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	agentcommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skiff/cluster/pki"
)

// agent is a node's agent that runs nothing: what it is asked is its answer. It
// is also the way to itself and to "pods".
type agent struct {
	server *httptest.Server
	met    atomic.Pointer[string] // who the last caller proved to be
	pod    net.Listener
}

// newAgent serves with the certificate that leaf describes.
func newAgent(t *testing.T, ca *pki.Authority, leaf pki.Leaf) *agent {
	t.Helper()
	a := &agent{}
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			http.Error(w, "container is not running", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s?%s\n", r.URL.Path, r.URL.RawQuery)
	})
	mux.HandleFunc("/exec/", func(w http.ResponseWriter, r *http.Request) {
		options, err := agentcommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		agentcommand.ServeExec(w, r, a, "p", "", "c", r.URL.Query()["command"], options, time.Minute, time.Minute, agentcommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/portForward/", func(w http.ResponseWriter, r *http.Request) {
		options, err := agentforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		agentforward.ServePortForward(w, r, a, "p", "", options, time.Minute, time.Minute, agentforward.SupportedProtocols)
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "stats") })
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			a.met.Store(&r.TLS.PeerCertificates[0].Subject.CommonName)
		}
		mux.ServeHTTP(w, r)
	}))
	certificate, err := ca.Issue(leaf, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}, ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) > 0 {
				a.met.Store(&state.PeerCertificates[0].Subject.CommonName)
			}
			return nil
		}}
	a.server.StartTLS()
	if a.pod, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	pod := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s auth=%q as=%q", r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Impersonate-User"))
	})}
	go pod.Serve(a.pod)
	t.Cleanup(func() { a.server.Close(); pod.Close() })
	return a
}

func (a *agent) DialNode(ctx context.Context, node *corev1.Node) (net.Conn, bool, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.server.Listener.Addr().String())
	return conn, false, err
}

func (a *agent) DialPod(ctx context.Context, pod *corev1.Pod, port int32) (net.Conn, error) {
	if port != 8080 {
		return nil, fmt.Errorf("connection refused: %d", port)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", a.pod.Addr().String())
}

// ExecInContainer answers with what it was given.
func (a *agent) ExecInContainer(ctx context.Context, name, uid, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan agentcommand.TerminalSize, timeout time.Duration) error {
	typed, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s < %s", strings.Join(cmd, " "), typed)
	fmt.Fprint(errOut, "done")
	return nil
}

// PortForward echoes.
func (a *agent) PortForward(ctx context.Context, name, uid string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	buf := make([]byte, 64)
	n, err := stream.Read(buf)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stream, "%d %s", port, buf[:n])
	return err
}

var agentLeaf = pki.Leaf{CommonName: "system:node:n1", Organizations: []string{"system:nodes"}, Server: true}

// withNode is a server with a node, whose agent has the certificate, and a pod
// on it.
func withNode(t *testing.T, leaf pki.Leaf) (*listening, *agent) {
	t.Helper()
	var a *agent
	l := listen(t, func(c *Config, ca *pki.Authority) {
		a = newAgent(t, ca, leaf)
		me := ca.Renewed(pki.Leaf{CommonName: "the-server", Client: true})
		c.Front.Nodes, c.Front.NodeCertificate, c.Front.NodeCAs = a, me.Get, ca.Pool
	})
	for path, body := range map[string]string{
		"/api/v1/namespaces/default/serviceaccounts": `{"metadata":{"name":"default"}}`,
		"/api/v1/nodes": `{"metadata":{"name":"n1"}}`,
	} {
		if resp, text := l.call(t, "POST", path, nil, body); resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", path, text)
		}
	}
	pod := `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x","ports":[{"containerPort":8080}]}]}}`
	if resp, text := l.call(t, "POST", "/api/v1/namespaces/default/pods", nil, pod); resp.StatusCode != http.StatusCreated {
		t.Fatalf("create the pod: %s", text)
	}
	status := `{"status":{"phase":"Running","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}]}}`
	if resp, text := l.call(t, "PATCH", "/api/v1/namespaces/default/pods/p/status", map[string]string{"Content-Type": "application/merge-patch+json"}, status); resp.StatusCode != http.StatusOK {
		t.Fatalf("status of the pod: %s", text)
	}
	return l, a
}

func TestLog(t *testing.T) {
	l, a := withNode(t, agentLeaf)
	defer l.stop()
	logs := "/api/v1/namespaces/default/pods/p/log"
	for query, want := range map[string]string{
		"":                            "200 /containerLogs/default/p/c?stream=All\n",
		"?follow=true&tailLines=3":    "200 /containerLogs/default/p/c?follow=true&stream=All&tailLines=3\n",
		"?previous=true&timestamps=1": "200 /containerLogs/default/p/c?previous=true&stream=All&timestamps=true\n",
		"?sinceTime=2026-01-02T03:04:05Z&limitBytes=7": "200 /containerLogs/default/p/c?limitBytes=7&sinceTime=2026-01-02T03%3A04%3A05Z&stream=All\n",
	} {
		resp, body := l.call(t, "GET", logs+query, nil, "")
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); got != want {
			t.Errorf("log%s: %q, want %q", query, got, want)
		}
	}
	for query, want := range map[string]string{
		"?container=x":   "container x is not valid for pod p",
		"?tailLines=-1":  `PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`,
		"?limitBytes=0":  `PodLogOptions "p" is invalid: limitBytes: Invalid value: 0: must be greater than 0`,
		"?tailLines=few": `strconv.ParseInt: parsing "few": invalid syntax`,
	} {
		if _, body := l.call(t, "GET", logs+query, nil, ""); decodeStatus(t, body).Message != want {
			t.Errorf("log%s: %s, want %q", query, body, want)
		}
	}
	if met := a.met.Load(); met == nil || *met != "the-server" {
		t.Error("the agent does not know who called")
	}
}

// The server proves who it is only to the node that it means to speak to.
func TestImpostor(t *testing.T) {
	for name, leaf := range map[string]pki.Leaf{
		"another node":      {CommonName: "system:node:n2", Organizations: []string{"system:nodes"}, Server: true},
		"no node":           {CommonName: "system:node:n1", Server: true},
		"a client's":        {CommonName: "system:node:n1", Organizations: []string{"system:nodes"}, Client: true},
		"some other server": {CommonName: "web", Server: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, a := withNode(t, leaf)
			defer l.stop()
			resp, body := l.call(t, "GET", "/api/v1/namespaces/default/pods/p/log", nil, "")
			if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), "the agent's certificate") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if met := a.met.Load(); met != nil {
				t.Errorf("the impostor has met %s", *met)
			}
		})
	}
}

func TestExec(t *testing.T) {
	l, _ := withNode(t, agentLeaf)
	defer l.stop()
	c, err := kubernetes.NewForConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	target := c.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name("p").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"cat", "-"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	spdy, err := remotecommand.NewSPDYExecutor(l.config, "POST", target)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := remotecommand.NewWebSocketExecutor(l.config, "GET", target.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, executor := range map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket": socket} {
		var out, errOut bytes.Buffer
		err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errOut})
		if err != nil || out.String() != "cat - < typed" || errOut.String() != "done" {
			t.Errorf("%s: %q, %q, %v", name, out.String(), errOut.String(), err)
		}
	}
}

func TestPortForward(t *testing.T) {
	l, _ := withNode(t, agentLeaf)
	defer l.stop()
	target, err := url.Parse(l.url + "/api/v1/namespaces/default/pods/p/portforward")
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, l.config)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{"0:5432"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "5432 hello" {
		t.Errorf("%q, %v", answer, err)
	}
	conn.Close()
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestProxy(t *testing.T) {
	l, _ := withNode(t, agentLeaf)
	defer l.stop()
	c, err := kubernetes.NewForConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	slice := `{"metadata":{"name":"s-1","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4","ports":[{"name":"http","port":8080}],
"endpoints":[{"addresses":["10.1.2.3"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","namespace":"default","name":"p"}},
{"addresses":["10.9.9.9"],"conditions":{"ready":true}}]}`
	if resp, text := l.call(t, "POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", nil, slice); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s", text)
	}
	const base = "/api/v1/namespaces/default/"
	for path, want := range map[string]string{
		base + "pods/p/proxy/a/b":          `200 GET /a/b auth="" as=""`,
		base + "pods/p:8080/proxy/":        `200 GET / auth="" as=""`,
		base + "pods/http:p:8080/proxy/x/": `200 GET /x/ auth="" as=""`,
		base + "services/s:http/proxy/q":   `200 GET /q auth="" as=""`,
		base + "services/s:80/proxy/q":     `200 GET /q auth="" as=""`,
		"/api/v1/nodes/n1/proxy/stats":     `200 stats`,
	} {
		for range 4 { // one of the service's endpoints is no pod: it must never be taken
			resp, body := l.call(t, "GET", path, nil, "")
			if got := fmt.Sprintf("%d %s", resp.StatusCode, body); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	if resp, body := l.call(t, "OPTIONS", base+"pods/p/proxy", nil, ""); string(body) != `OPTIONS / auth="" as=""` {
		t.Errorf("OPTIONS is not passed on: %d %s", resp.StatusCode, body)
	}
	for path, want := range map[string]string{
		base + "pods/p:1/proxy/":         "error trying to reach service: ",
		base + "services/s:81/proxy/":    `no service port 81 found for service "s"`,
		base + "services/none:80/proxy/": `services "none" not found`,
		"/api/v1/nodes/n2/proxy/stats":   `nodes "n2" not found`,
	} {
		if _, body := l.call(t, "GET", path, nil, ""); !strings.Contains(decodeStatus(t, body).Message, want) {
			t.Errorf("%s: %s, want %q", path, body, want)
		}
	}
	// A pod cannot make the server speak to itself.
	for _, address := range []string{"127.0.0.1", "169.254.1.1", "::1", "0.0.0.0"} {
		if allowedTarget(address) == nil {
			t.Errorf("%s is allowed", address)
		}
	}
}
