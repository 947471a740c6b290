package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"skiff/cluster/pki"
)

// world is a fake Objects.
type world struct {
	accounts map[string]*corev1.ServiceAccount
	pods     map[string]*corev1.Pod
	nodes    map[string]*corev1.Node
	secrets  map[string]*corev1.Secret
}

func (w *world) ServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	return w.accounts[ns+"/"+name], nil
}
func (w *world) Pod(_ context.Context, ns, name string) (*corev1.Pod, error) {
	return w.pods[ns+"/"+name], nil
}
func (w *world) Node(_ context.Context, name string) (*corev1.Node, error) { return w.nodes[name], nil }
func (w *world) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return w.secrets[ns+"/"+name], nil
}

func meta(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}
}

func setup(t *testing.T) (*Authenticator, *Issuer, *world, *pki.Authority) {
	t.Helper()
	ca, err := pki.NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("https://kubernetes.default.svc", nil, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		accounts: map[string]*corev1.ServiceAccount{"a/robot": {ObjectMeta: meta("a", "robot", "u1")}},
		pods:     map[string]*corev1.Pod{"a/web": {ObjectMeta: meta("a", "web", "p1")}},
		nodes:    map[string]*corev1.Node{},
		secrets:  map[string]*corev1.Secret{},
	}
	pool := ca.Pool()
	a, err := New(Config{ClientCAs: func() *x509.CertPool { return pool }, Issuer: issuer, Objects: w})
	if err != nil {
		t.Fatal(err)
	}
	return a, issuer, w, ca
}

func bearer(token string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestWhoIsAsking(t *testing.T) {
	a, issuer, w, ca := setup(t)
	withCert := func(authority *pki.Authority, l pki.Leaf) *http.Request {
		cert, err := authority.Issue(l, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
		return r
	}
	stranger, _ := pki.NewAuthority("kubernetes", time.Now())
	token, _, err := issuer.Issue(Claim{Namespace: "a", ServiceAccount: Bound{"robot", "u1"}, Pod: &Bound{"web", "p1"}, Audiences: issuer.Audiences(), Life: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, _, _ := issuer.Issue(Claim{Namespace: "a", ServiceAccount: Bound{"robot", "u1"}, Audiences: []string{"vault"}, Life: time.Hour}, time.Now())
	w.secrets["kube-system/bootstrap-token-abcdef"] = &corev1.Secret{Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
		"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:skiff"),
	}}

	for _, c := range []struct {
		name    string
		request *http.Request
		user    string // "" means refused
		group   string
	}{
		{"nobody", bearer(""), "system:anonymous", "system:unauthenticated"},
		{"certificate", withCert(ca, pki.Leaf{CommonName: "eve", Organizations: []string{"devs"}, Client: true}), "eve", "devs"},
		{"certificate, authenticated", withCert(ca, pki.Leaf{CommonName: "eve", Client: true}), "eve", "system:authenticated"},
		{"certificate of a stranger", withCert(stranger, pki.Leaf{CommonName: "eve", Client: true}), "", ""},
		{"serving certificate", withCert(ca, pki.Leaf{CommonName: "eve", Server: true}), "", ""},
		{"service account", bearer(token), "system:serviceaccount:a:robot", "system:serviceaccounts:a"},
		{"token for another audience", bearer(elsewhere), "", ""},
		{"token with a changed signature", bearer(token[:len(token)-6] + "AAAAAA"), "", ""},
		{"bootstrap token", bearer("abcdef.0123456789abcdef"), "system:bootstrap:abcdef", "system:bootstrappers:skiff"},
		{"bootstrap token, wrong secret", bearer("abcdef.0123456789abcdee"), "", ""},
		{"nonsense", bearer("nonsense"), "", ""},
	} {
		resp, ok, err := a.AuthenticateRequest(c.request)
		switch {
		case c.user == "" && ok:
			t.Errorf("%s: is %s, want a refusal", c.name, resp.User.GetName())
		case c.user != "" && !ok:
			t.Errorf("%s: refused: %v", c.name, err)
		case c.user != "" && (resp.User.GetName() != c.user || !slices.Contains(resp.User.GetGroups(), c.group)):
			t.Errorf("%s: is %s %q, want %s of %s", c.name, resp.User.GetName(), resp.User.GetGroups(), c.user, c.group)
		}
	}
	resp, _, _ := a.AuthenticateRequest(bearer(token))
	if got := resp.User.GetExtra()["authentication.kubernetes.io/pod-name"]; !slices.Equal(got, []string{"web"}) {
		t.Errorf("pod of the token is %q, want web", got)
	}
}

func TestTokensFallWithWhatTheyAreBoundTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, issuer, w, _ := setup(t)
		token, expires, err := issuer.Issue(Claim{Namespace: "a", ServiceAccount: Bound{"robot", "u1"}, Pod: &Bound{"web", "p1"}, Audiences: issuer.Audiences(), Life: time.Hour}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		good := func() bool {
			time.Sleep(tokenTTL + time.Second) // what was good is remembered that long
			_, ok, _ := a.AuthenticateRequest(bearer(token))
			return ok
		}
		if !good() {
			t.Fatal("a fresh token is refused")
		}
		now := metav1.Now()
		w.pods["a/web"].DeletionTimestamp = &now
		if !good() {
			t.Error("refused while its pod is ending")
		}
		time.Sleep(deletionLeeway)
		if good() {
			t.Error("accepted a minute after its pod was to be gone")
		}
		w.pods["a/web"] = &corev1.Pod{ObjectMeta: meta("a", "web", "p2")}
		if good() {
			t.Error("accepted for another pod of the same name")
		}
		w.pods["a/web"] = &corev1.Pod{ObjectMeta: meta("a", "web", "p1")}
		if !good() {
			t.Error("refused although its pod is there")
		}
		delete(w.accounts, "a/robot")
		if good() {
			t.Error("accepted without its service account")
		}
		w.accounts["a/robot"] = &corev1.ServiceAccount{ObjectMeta: meta("a", "robot", "u1")}
		time.Sleep(time.Until(expires))
		if _, ok, err := a.AuthenticateRequest(bearer(token)); ok && good() {
			t.Errorf("accepted after its end: %v", err)
		}
	})
}

func TestTokenReviewAudience(t *testing.T) {
	a, issuer, _, _ := setup(t)
	token, _, _ := issuer.Issue(Claim{Namespace: "a", ServiceAccount: Bound{"robot", "u1"}, Audiences: []string{"vault", "other"}, Life: time.Hour}, time.Now())
	ctx := authenticator.WithAudiences(context.Background(), authenticator.Audiences{"vault"})
	resp, ok, err := a.AuthenticateToken(ctx, token)
	if !ok || !slices.Equal(resp.Audiences, authenticator.Audiences{"vault"}) || !slices.Contains(resp.User.GetGroups(), "system:authenticated") {
		t.Errorf("%v %v %v", resp, ok, err)
	}
}

func TestKeysAreADocument(t *testing.T) {
	_, issuer, _, _ := setup(t)
	if doc := string(issuer.Keys()); !strings.Contains(doc, `"kty":"EC"`) || strings.Contains(doc, `"d":`) {
		t.Errorf("JWKS %s must hold public keys and no private one", doc)
	}
}

func BenchmarkCertificate(b *testing.B) {
	ca, _ := pki.NewAuthority("kubernetes", time.Now())
	pool := ca.Pool()
	a, _ := New(Config{ClientCAs: func() *x509.CertPool { return pool }})
	cert, _ := ca.Issue(pki.Leaf{CommonName: "eve", Organizations: []string{"devs"}, Client: true}, time.Now())
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
	b.ReportAllocs()
	for range b.N {
		if _, ok, err := a.AuthenticateRequest(r); !ok {
			b.Fatal(err)
		}
	}
}
