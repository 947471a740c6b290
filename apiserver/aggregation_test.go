package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"skiff/cluster/pki"
)

// extension is an API server in the cluster, and the way to it: a dialer to whom
// every pod leads there.
type extension struct {
	*agent
	server *httptest.Server
}

func (e *extension) DialPod(ctx context.Context, _ *corev1.Pod, _ int32) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", e.server.Listener.Addr().String())
}

// newExtension serves flunders; it answers with who it believes to be asked by.
func newExtension(t *testing.T, ca *pki.Authority) *extension {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/apis/wardle.example.com/v1alpha1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wardle.example.com/v1alpha1","resources":[
{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list","create"],"shortNames":["fl"]},
{"name":"flunders/status","singularName":"","namespaced":true,"kind":"Flunder","verbs":["get"]}]}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		proxied := ""
		if len(r.TLS.PeerCertificates) > 0 {
			proxied = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(map[string]any{"path": r.URL.RequestURI(), "method": r.Method, "by": proxied, "user": r.Header.Get("X-Remote-User"),
			"groups": r.Header["X-Remote-Group"], "token": r.Header.Get("Authorization")}); err != nil {
			t.Error(err)
		}
	})
	leaf, err := ca.Issue(pki.Leaf{CommonName: "ext", DNSNames: []string{"ext.default.svc"}, Server: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e := &extension{server: httptest.NewUnstartedServer(mux)}
	e.server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.Pool()}
	e.server.StartTLS()
	t.Cleanup(e.server.Close)
	return e
}

// An APIService hands its group over: requests reach the extension with the name of
// who asks, discovery shows what is there, and when the extension is gone the status
// says so and requests are answered 503.
func TestAggregation(t *testing.T) {
	var e *extension
	l := listen(t, func(c *Config, ca *pki.Authority) {
		e = newExtension(t, ca)
		proxy := ca.Renewed(pki.Leaf{CommonName: "front-proxy-client", Client: true})
		c.Front.Nodes, c.Front.ProxyCertificate = e, proxy.Get
		c.Front.NodeCAs = func() *x509.CertPool { return ca.Pool() }
	})
	defer l.stop()
	create := func(path, body string) {
		t.Helper()
		if resp, text := l.call(t, "POST", path, nil, body); resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", path, text)
		}
	}
	create("/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`)
	create("/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	create("/api/v1/namespaces/default/pods", `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x"}]}}`)
	if resp, text := l.call(t, "PATCH", "/api/v1/namespaces/default/pods/p/status", map[string]string{"Content-Type": "application/merge-patch+json"},
		`{"status":{"phase":"Running","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}]}}`); resp.StatusCode != http.StatusOK {
		t.Fatalf("status of the pod: %s", text)
	}
	ca, err := json.Marshal(l.ca.PEM())
	if err != nil {
		t.Fatal(err)
	}
	create("/apis/apiregistration.k8s.io/v1/apiservices", `{"metadata":{"name":"v1alpha1.wardle.example.com"},"spec":{"group":"wardle.example.com","version":"v1alpha1",
"service":{"namespace":"default","name":"ext","port":7443},"groupPriorityMinimum":2000,"versionPriority":200,"caBundle":`+string(ca)+`}}`)

	condition := func() string {
		_, body := l.call(t, "GET", "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.wardle.example.com", nil, "")
		var service struct {
			Status struct{ Conditions []metav1.Condition }
		}
		if err := json.Unmarshal(body, &service); err != nil {
			t.Fatal(err)
		}
		for _, c := range service.Status.Conditions {
			return string(c.Status) + " " + c.Reason
		}
		return ""
	}
	becomes := func(want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); condition() != want; {
			if time.Now().After(end) {
				t.Fatalf("it is %q, and does not become %q", condition(), want)
			}
			time.Sleep(20 * time.Millisecond) // the server asks once a second
		}
	}
	becomes("False ServiceNotFound")
	const flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"
	if resp, body := l.call(t, "GET", flunders, nil, ""); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while nothing answers: %d %s", resp.StatusCode, body)
	}

	create("/api/v1/namespaces/default/services", `{"metadata":{"name":"ext"},"spec":{"ports":[{"port":7443}]}}`)
	create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"ext-1","labels":{"kubernetes.io/service-name":"ext"}},"addressType":"IPv4",
"ports":[{"name":"","port":443}],"endpoints":[{"addresses":["10.1.2.3"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","namespace":"default","name":"p"}}]}`)
	becomes("True Passed")

	resp, body := l.call(t, "GET", flunders+"?limit=3", nil, "")
	for _, want := range []string{`"path":"` + flunders + `?limit=3"`, `"by":"front-proxy-client"`, `"token":""`, `"system:masters"`} {
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("passed on: %d %s, want %s", resp.StatusCode, body, want)
		}
	}
	d, err := discovery.NewDiscoveryClientForConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	groups, resources, err := d.ServerGroupsAndResources()
	if err != nil || len(groups) < 20 {
		t.Fatalf("discovery: %d groups, %v", len(groups), err)
	}
	found := false
	for _, list := range resources {
		for _, r := range list.APIResources {
			found = found || list.GroupVersion == "wardle.example.com/v1alpha1" && r.Name == "flunders" && r.Kind == "Flunder" && r.ShortNames[0] == "fl"
		}
	}
	if !found {
		t.Error("discovery lacks the flunders")
	}
	if resp, body := l.call(t, "GET", "/openapi/v3", nil, ""); !strings.Contains(string(body), "apis/wardle.example.com/v1alpha1") {
		t.Errorf("/openapi/v3: %d lacks the group", resp.StatusCode)
	}

	if resp, text := l.call(t, "DELETE", "/api/v1/namespaces/default/services/ext", nil, ""); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", text)
	}
	// The next question is up to 30 s away: a change of the spec brings it nearer.
	if resp, text := l.call(t, "PATCH", "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.wardle.example.com", map[string]string{"Content-Type": "application/merge-patch+json"},
		`{"spec":{"versionPriority":201}}`); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", text)
	}
	becomes("False ServiceNotFound")
	if resp, body := l.call(t, "DELETE", "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.wardle.example.com", nil, ""); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", body)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // the feed brings it
		if _, body := l.call(t, "GET", "/apis", nil, ""); !strings.Contains(string(body), "wardle") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the group stays in discovery")
		}
	}
	if resp, _ := l.call(t, "GET", flunders, nil, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("after the APIService is gone: %d", resp.StatusCode)
	}
}
