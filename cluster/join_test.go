package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/apiserver"
	"skiff/client"
	"skiff/cluster/pki"
	"skiff/store"
)

func TestJoinTokenForm(t *testing.T) {
	pin := strings.Repeat("0f", 32)
	token, err := ParseJoinToken(" abcdef.0123456789abcdef." + pin + "\n")
	if err != nil || token != (JoinToken{"abcdef", "0123456789abcdef", pin}) {
		t.Errorf("%v %v", token, err)
	}
	for _, text := range []string{"", "abcdef.0123456789abcdef", "abcdef.0123456789abcdef." + pin[1:], "ABCDEF.0123456789abcdef." + pin, "abcdef.0123456789abcdef." + pin + "0"} {
		if _, err := ParseJoinToken(text); err == nil {
			t.Errorf("%q is taken for a token", text)
		}
	}
}

// tlsServer answers with a certificate of ca's, and shows chain beside it.
func tlsServer(t *testing.T, ca *pki.Authority, leaf pki.Leaf) string {
	t.Helper()
	cert, err := ca.Issue(leaf, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// Who joins believes only the authority that its token pins, and a server that has
// a serving certificate of it in the name by which it was asked.
func TestOnlyThePinnedAuthorityIsBelieved(t *testing.T) {
	ours, _ := pki.NewAuthority("kubernetes", time.Now())
	theirs, _ := pki.NewAuthority("kubernetes", time.Now())
	here := []net.IP{net.IPv4(127, 0, 0, 1)}
	good := pki.Leaf{CommonName: "kube-apiserver", Server: true, WithAuthority: true, IPs: here}

	ca, err := fetchAuthority(t.Context(), tlsServer(t, ours, good), ours.Hash())
	if err != nil || !ca.Equal(ours.Certificate) {
		t.Errorf("the right server: %v", err)
	}
	elsewhere, client := good, good
	elsewhere.IPs = []net.IP{net.IPv4(192, 0, 2, 1)}
	client.Server, client.Client = false, true
	for what, at := range map[string]string{
		"another cluster":                tlsServer(t, theirs, good),
		"a certificate of another name":  tlsServer(t, ours, elsewhere),
		"a client's certificate":         tlsServer(t, ours, client),
		"another's, shown with our root": impostor(t, theirs, ours, good),
	} {
		_, err := fetchAuthority(t.Context(), at, ours.Hash())
		if err == nil || !mistrusted(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// impostor has a certificate of theirs and shows our authority's with it.
func impostor(t *testing.T, theirs, ours *pki.Authority, leaf pki.Leaf) string {
	t.Helper()
	leaf.WithAuthority = false
	cert, err := theirs.Issue(leaf, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert.Certificate = append(cert.Certificate, ours.Certificate.Raw)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// An agent goes on to another server when one refuses connections, and when one
// takes them and does not answer.
func TestTheWayLeadsToAServerThatAnswers(t *testing.T) {
	ca, _ := pki.NewAuthority("kubernetes", time.Now())
	leaf := pki.Leaf{CommonName: "kube-apiserver", Server: true, DNSNames: []string{apiName}}
	serve := func(code int) string {
		cert, err := ca.Issue(leaf, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	sick, well := serve(http.StatusServiceUnavailable), serve(http.StatusOK)
	w := newWay([]string{closed.Addr().String(), sick, well}, nil, slog.New(slog.DiscardHandler))
	c := &http.Client{Transport: w.config(ca.Pool(), nil).Transport}
	var codes []int
	for range failures + 2 {
		resp, err := c.Get("https://" + apiName + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		codes = append(codes, resp.StatusCode)
	}
	if want := []int{503, 503, 503, 200, 200}; !slices.Equal(codes, want) {
		t.Errorf("%v, want %v", codes, want)
	}
	// The servers change: the one that answers stays first, what the user named stays.
	w.now([]string{"192.0.2.7:6443", well})
	if w.servers[0] != well || !slices.Contains(w.servers, "192.0.2.7:6443") || !slices.Contains(w.servers, sick) {
		t.Errorf("servers: %v", w.servers)
	}
}

// "No certificate expires while the program runs; renewal needs no restart." A node's
// certificates are signed by the controllers, and renewed.
func TestNodesRenewTheirCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		keys, err := NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		shared := store.OpenMemory(store.MemoryConfig{})
		defer shared.Close()
		plane, stop := runPlane(t, ctx, keys, shared, "one")
		name := "system:node:n1"
		renewals := 0
		s := &signed{
			file: filepath.Join(t.TempDir(), "client.pem"), signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
			usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			request: &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{user.NodesGroup}}},
			life:    time.Hour, log: slog.Default(), renewed: func() { renewals++ },
		}
		joining := plane.Client(&user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", NodeJoiners, user.AllAuthenticated}}, "test")
		if err := s.obtain(ctx, joining); err != nil {
			t.Fatal(err)
		}
		node := plane.Client(&user.DefaultInfo{Name: name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}, "test")
		done := make(chan error, 1)
		keeping, end := context.WithCancel(ctx)
		go func() { done <- s.keep(keeping, node) }()
		for range 6 * 12 { // six hours, five minutes at a time
			cert, err := s.Get()
			if err != nil || !time.Now().Before(cert.Leaf.NotAfter.Add(-5*time.Minute)) {
				t.Fatalf("%v: %v", time.Now(), err)
			}
			time.Sleep(5 * time.Minute)
		}
		if renewals < 6 || renewals > 11 {
			t.Errorf("%d certificates in six hours, each of one", renewals)
		}
		again := &signed{file: s.file, request: s.request}
		if ok, err := again.load(time.Now()); !ok || err != nil {
			t.Errorf("the next start does not find it: %v %v", ok, err)
		}
		end()
		if err := errors.Join(<-done, stop()); err != nil {
			t.Error(err)
		}
	})
}

// The service kubernetes leads to the servers that are there: one that stops is out
// at once, one that is cut off after a while.
func TestServersThatAreThereAreEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		keys, err := NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		shared := store.OpenMemory(store.MemoryConfig{})
		defer shared.Close()
		start := func(n int, s store.Store) (*ControlPlane, func() error) {
			return runConfig(t, ctx, ControlPlaneConfig{
				Store: s, Keys: keys, Identity: fmt.Sprint("s", n), NoControllers: true, NoScheduler: true,
				Advertise: apiserver.Advertise{IP: fmt.Sprintf("192.0.2.%d", n), Port: 6443},
			})
		}
		way := newStalled(shared, "/registry/masterleases/")
		first, stopFirst := start(1, shared)
		_, stopSecond := start(2, shared)
		_, stopThird := start(3, way)
		admin := first.Client(operator, "test")
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			endpoints, err := client.Get[*corev1.Endpoints](ctx, admin, "default", "kubernetes")
			if err != nil {
				t.Fatal(err)
			}
			slice, err := client.Get[*discoveryv1.EndpointSlice](ctx, admin, "default", "kubernetes")
			if err != nil {
				t.Fatal(err)
			}
			var old, now []string
			for _, a := range endpoints.Subsets[0].Addresses {
				old = append(old, a.IP)
			}
			for _, e := range slice.Endpoints {
				now = append(now, e.Addresses...)
			}
			if !slices.Equal(old, want) || !slices.Equal(now, want) {
				t.Errorf("%s: %v and %v, want %v", when, old, now, want)
			}
		}
		expect("at the start", "192.0.2.1", "192.0.2.2", "192.0.2.3")
		time.Sleep(10 * time.Minute)
		expect("after a while", "192.0.2.1", "192.0.2.2", "192.0.2.3")
		if err := stopSecond(); err != nil {
			t.Error(err)
		}
		expect("one has stopped", "192.0.2.1", "192.0.2.3")
		mended := make(chan struct{})
		way.set(mended)
		time.Sleep(30 * time.Second)
		expect("one is cut off", "192.0.2.1")
		close(mended)
		way.set(nil)
		time.Sleep(10 * time.Second)
		expect("it is back", "192.0.2.1", "192.0.2.3")
		if err := errors.Join(stopThird(), stopFirst()); err != nil {
			t.Error(err)
		}
	})
}
