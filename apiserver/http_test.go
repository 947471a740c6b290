package apiserver

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/cluster/pki"
	"skiff/store"
)

// listening is a whole server on a free port of the loopback interface.
type listening struct {
	*Server
	ca     *pki.Authority
	url    string
	config *rest.Config // of an administrator
	stop   func()
}

func listen(t testing.TB, change func(*Config, *pki.Authority)) *listening {
	t.Helper()
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := ca.Renewed(pki.Leaf{CommonName: "kube-apiserver", Server: true, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	pool := ca.Pool()
	cas := func() *x509.CertPool { return pool }
	memory := store.OpenMemory(store.MemoryConfig{})
	c := Config{Store: memory, Logger: slog.New(slog.DiscardHandler),
		Front: FrontConfig{Listeners: []net.Listener{l}, Certificate: serving.ForServer, ClientCAs: cas, Grace: 2 * time.Second},
		Auth:  AuthConfig{ClientCAs: cas}}
	if change != nil {
		change(&c, ca)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatalf("the server ended: %v", err)
	}
	me := &listening{Server: s, ca: ca, url: "https://" + l.Addr().String()}
	me.config = me.as(t, "admin", user.SystemPrivilegedGroup)
	me.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended: %v", err)
		}
		memory.Close()
	}
	return me
}

// as is the configuration of a client with a certificate.
func (l *listening) as(t testing.TB, name string, groups ...string) *rest.Config {
	t.Helper()
	leaf, err := l.ca.Issue(pki.Leaf{CommonName: name, Organizations: groups, Client: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.EncodeKey(leaf.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: l.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: l.ca.PEM(), CertData: pki.EncodeCertificate(leaf.Certificate[0]), KeyData: key}}
}

// kubeconfig writes the administrator's configuration for kubectl.
func (l *listening) kubeconfig(t testing.TB) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: l.url, CertificateAuthorityData: l.config.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: l.config.CertData, ClientKeyData: l.config.KeyData}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: "default"}
	c.CurrentContext = "x"
	name := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// call sends one request as the administrator and returns the answer.
func (l *listening) call(t testing.TB, method, path string, header map[string]string, body string) (*http.Response, []byte) {
	t.Helper()
	return callAs(t, l.config, method, path, header, body)
}

func callAs(t testing.TB, config *rest.Config, method, path string, header map[string]string, body string) (*http.Response, []byte) {
	t.Helper()
	config = rest.CopyConfig(config)
	config.DisableCompression = true
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req, err := http.NewRequest(method, config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, data
}

func decodeStatus(t testing.TB, data []byte) *metav1.Status {
	t.Helper()
	var status metav1.Status
	if err := json.Unmarshal(data, &status); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return &status
}

// certificateState is what TLS tells a handler about the administrator.
func certificateState(t testing.TB, l *listening) *tls.ConnectionState {
	t.Helper()
	pair, err := tls.X509KeyPair(l.config.CertData, l.config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
}
