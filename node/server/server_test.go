package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff/node/pod"
	"skiff/node/runtime/simulated"
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) issue(t *testing.T, name string, groups ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"n1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

type fixed struct{ views []pod.View }

func (f fixed) Views() []pod.View { return f.views }

func (f fixed) View(namespace, name string) (pod.View, bool) {
	for _, v := range f.views {
		if v.Pod.Namespace == namespace && v.Pod.Name == name {
			return v, true
		}
	}
	return pod.View{}, false
}

func (fixed) Summary(context.Context) (*statsv1.Summary, error) {
	cpu, memory := uint64(2_500_000_000), uint64(7<<20)
	now := metav1.Now()
	c, m := &statsv1.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu}, &statsv1.MemoryStats{Time: now, WorkingSetBytes: &memory}
	return &statsv1.Summary{Node: statsv1.NodeStats{NodeName: "n1", CPU: c, Memory: m},
		Pods: []statsv1.PodStats{{PodRef: statsv1.PodReference{Name: "web", Namespace: "default"}, CPU: c, Memory: m, Containers: []statsv1.ContainerStats{{Name: "main", CPU: c, Memory: m}}}}}, nil
}

// Only who shows a certificate of the right authority, and may, gets in.
func TestWhoMayComeIn(t *testing.T) {
	clients, strangers := newAuthority(t), newAuthority(t)
	serving := clients.issue(t, "system:node:n1")
	s := New(Config{Runtime: simulated.New(simulated.Config{}), Pods: fixed{}, Stats: fixed{},
		Certificate: func() (*tls.Certificate, error) { return &serving, nil }, ClientCAs: clients.pool,
		Authorize: func(ctx context.Context, u User, verb, part string) (bool, error) {
			if u.Name == "monitor" {
				return verb == "get" && part == "metrics", nil
			}
			if u.Name == "confused" {
				return true, errors.New("no answer")
			}
			return ByName(ctx, u, verb, part)
		}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	get := func(path string, certs ...tls.Certificate) int {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: clients.pool(), ServerName: "n1", Certificates: certs}}}
		r, err := c.Get("https://" + l.Addr().String() + path)
		if err != nil {
			return 0
		}
		defer r.Body.Close()
		return r.StatusCode
	}
	for _, tc := range []struct {
		who   string
		certs []tls.Certificate
		path  string
		want  int
	}{
		{"nobody", nil, "/pods", 401},
		{"nobody", nil, "/healthz", 401},
		{"the API server", []tls.Certificate{clients.issue(t, "system:kube-apiserver")}, "/pods", 200},
		{"an administrator", []tls.Certificate{clients.issue(t, "me", "system:masters")}, "/pods", 200},
		{"another node", []tls.Certificate{clients.issue(t, "system:node:n2", "system:nodes")}, "/pods", 403},
		{"a monitor", []tls.Certificate{clients.issue(t, "monitor")}, "/metrics/resource", 200},
		{"a monitor", []tls.Certificate{clients.issue(t, "monitor")}, "/pods", 403},
		{"one that cannot be judged", []tls.Certificate{clients.issue(t, "confused")}, "/pods", 500},
		{"a stranger", []tls.Certificate{strangers.issue(t, "system:kube-apiserver", "system:masters")}, "/pods", 0}, // no connection at all
	} {
		got := get(tc.path, tc.certs...)
		if got != tc.want {
			t.Errorf("%s at %s: %d, want %d", tc.who, tc.path, got, tc.want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLogsOfWhatIsNotThere(t *testing.T) {
	rt := simulated.New(simulated.Config{})
	sandbox := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "web", Uid: "u"}}
	sid, err := rt.RunSandbox(t.Context(), sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(t.Context(), sid, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "main"}}, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"}}
	status := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "pulling", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}}
	view := pod.View{Pod: p, Status: status, Sandbox: pod.Sandbox{ID: sid, Ready: true}, Containers: map[string]pod.ContainerView{
		"main": {Run: &pod.Run{ID: id, Running: true}}, "waiting": {}, "pulling": {}}}
	h := New(Config{Runtime: rt, Pods: fixed{[]pod.View{view}}, Stats: fixed{}}).Handler()
	for path, want := range map[string]string{
		"/containerLogs/default/web/main":                       "200 simulated container main of pod web started\n",
		"/containerLogs/default/web/main?tailLines=0":           "200 ",
		"/containerLogs/default/web/main?tailLines=x":           `400 {"message": "Unable to decode query: tailLines: "x" is not a number from 0 on"}`,
		"/containerLogs/default/web/main?previous=true":         `400 previous terminated container "main" in pod "web" not found`,
		"/containerLogs/default/web/waiting":                    `400 container "waiting" in pod "web" is waiting to start: ContainerCreating`,
		"/containerLogs/default/web/pulling":                    `400 container "pulling" in pod "web" is waiting to start: trying and failing to pull image`,
		"/containerLogs/default/none/main":                      `404 pod "none" does not exist`,
		"/exec/default/web/waiting?command=x&output=1":          `404 container not found ("waiting")`,
		"/exec/default/web/main?command=x":                      "400 you must specify at least 1 of stdin, stdout, stderr",
		"/exec/default/web/another-uid/main?command=x&output=1": "404 pod does not exist: default/web",
		"/portForward/default/web?port=0":                       `400 invalid port "0"`,
		"/healthz":                                              "200 ok",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if s := strings.TrimRight(strings.Join([]string{itoa(w.Code), w.Body.String()}, " "), "\n"); s != strings.TrimRight(want, "\n") {
			t.Errorf("%s: %q, want %q", path, s, want)
		}
	}
}

func itoa(n int) string { return big.NewInt(int64(n)).String() }

// The names that metrics-server reads.
func TestResourceMetrics(t *testing.T) {
	h := New(Config{Runtime: simulated.New(simulated.Config{}), Pods: fixed{}, Stats: fixed{}}).Handler()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics/resource", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	for _, want := range []string{
		"node_cpu_usage_seconds_total 2.5 ", "node_memory_working_set_bytes 7.340032e+06 ",
		`pod_cpu_usage_seconds_total{namespace="default",pod="web"} 2.5 `,
		`container_memory_working_set_bytes{container="main",namespace="default",pod="web"} 7.340032e+06 `, "resource_scrape_error 0",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}
