package apiserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/apiserver/authn"
	"skiff/client"
	"skiff/cluster/pki"
	"skiff/store"
)

// body is one of the two forms of client.Client, and a way to cut it off.
type body struct {
	client.Client
	server *Server
	// away is called around f: meanwhile the client's feeds learn nothing.
	away func(f func())
}

// TestClient runs one suite on both bodies.
func TestClient(t *testing.T) {
	bodies := map[string]func(*testing.T) *body{"in process": newInProcessBody, "remote": newRemoteBody}
	for name, start := range bodies {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for name, test := range clientSuite {
				t.Run(name, func(t *testing.T) {
					if _, err := client.Create(ctx, b, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: nameOf(t)}}); err != nil {
						t.Fatal(err)
					}
					test(ctx, t, b, nameOf(t))
				})
			}
		})
	}
}

// nameOf makes a namespace's name of the test's.
func nameOf(t *testing.T) string {
	_, name, _ := strings.Cut(t.Name(), "/")
	return strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(name))
}

// clientSuite is what every client.Client does. Each test has a namespace of its own.
var clientSuite = map[string]func(context.Context, *testing.T, *body, string){
	"objects":       testObjects,
	"posts":         testPosts,
	"fence":         testFence,
	"feed":          testFeed,
	"feed selected": testFeedSelected,
	"feed sources":  testFeedSources,
	"feed of none":  testFeedOfNone,
	"feed away":     testFeedAway,
}

const smallHistory = 3000

func newSuiteServer(t *testing.T, auth AuthConfig) *Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if auth.Issuer, err = authn.NewIssuer("https://issuer.example", nil, key); err != nil {
		t.Fatal(err)
	}
	memory := store.OpenMemory(store.MemoryConfig{})
	s, err := New(Config{Store: memory, Logger: slog.New(slog.DiscardHandler), History: smallHistory, Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		memory.Close()
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	return s
}

func newInProcessBody(t *testing.T) *body {
	s := newSuiteServer(t, AuthConfig{})
	return &body{s.Client(&user.DefaultInfo{Name: "suite", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}, "suite"), s,
		func(f func()) { f() }} // who does not read its feed is away
}

func newRemoteBody(t *testing.T) *body {
	var down atomic.Bool
	s, front, config := serveSuite(t, &down)
	c, err := client.NewRemote(config, "suite")
	if err != nil {
		t.Fatal(err)
	}
	return &body{c, s, func(f func()) {
		down.Store(true)
		front.CloseClientConnections()
		f()
		down.Store(false)
	}}
}

// serveSuite serves over HTTPS, unless down is set, and returns how to get there.
func serveSuite(t *testing.T, down *atomic.Bool) (*Server, *httptest.Server, *rest.Config) {
	ca, err := pki.NewAuthority("suite", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := newSuiteServer(t, AuthConfig{ClientCAs: func() *x509.CertPool { return ca.Pool() }})
	handler := s.Handler()
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	front.EnableHTTP2 = true
	front.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: ca.Pool()}
	front.StartTLS()
	t.Cleanup(front.Close)
	leaf, err := ca.Issue(pki.Leaf{CommonName: "suite", Organizations: []string{user.SystemPrivilegedGroup}, Client: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.EncodeKey(leaf.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return s, front, &rest.Config{Host: front.URL, TLSClientConfig: rest.TLSClientConfig{
		CAData:   pki.EncodeCertificate(front.Certificate().Raw),
		CertData: pki.EncodeCertificate(leaf.Certificate[0]), KeyData: key,
	}}
}

func suiteConfigMap(namespace, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"k": value}}
}

func testObjects(ctx context.Context, t *testing.T, b *body, ns string) {
	mine := suiteConfigMap(ns, "a", "1")
	created, err := client.Create(ctx, b, mine)
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.Kind != "" || mine.UID != "" {
		t.Errorf("created %+v of %+v", created.ObjectMeta, mine.ObjectMeta)
	}
	if _, err := client.Create(ctx, b, mine); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating it again: %v", err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, b, ns, "nothing"); !apierrors.IsNotFound(err) {
		t.Errorf("getting nothing: %v", err)
	}
	next := created.DeepCopy()
	next.Data["k"] = "2"
	updated, err := client.Update(ctx, b, "", next)
	if err != nil || updated.Data["k"] != "2" || updated.ResourceVersion == created.ResourceVersion {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	if _, err := client.Update(ctx, b, "", next); !apierrors.IsConflict(err) {
		t.Errorf("updating an old state: %v", err)
	}
	obj, err := b.Patch(ctx, configMaps, ns, "a", client.Patch{Type: types.MergePatchType, Data: []byte(`{"data":{"k":"3"}}`)})
	if err != nil || obj.(*corev1.ConfigMap).Data["k"] != "3" {
		t.Errorf("patched %+v, %v", obj, err)
	}
	obj, err = b.Patch(ctx, configMaps, ns, "a", client.Patch{Type: types.ApplyPatchType, Manager: "other", Force: true,
		Data: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"4"}}`)})
	if err != nil || obj.(*corev1.ConfigMap).Data["k"] != "4" {
		t.Errorf("applied %+v, %v", obj, err)
	}
	got, err := client.Get[*corev1.ConfigMap](ctx, b, ns, "a")
	if err != nil || got.ResourceVersion != obj.GetResourceVersion() {
		t.Errorf("read %+v, %v after the write at %s", got, err, obj.GetResourceVersion())
	}
	list, version, err := b.List(ctx, configMaps, client.ListOptions{Namespace: ns})
	if err != nil || len(list) != 1 || list[0].GetResourceVersion() != got.ResourceVersion || version == "" {
		t.Errorf("listed %v at %s, %v", list, version, err)
	}
	none, _, err := b.List(ctx, configMaps, client.ListOptions{Namespace: ns, Labels: labels.SelectorFromSet(labels.Set{"x": "y"})})
	if err != nil || len(none) != 0 {
		t.Errorf("listed %v by a label that nothing has, %v", none, err)
	}
	wrong := types.UID("wrong")
	if err := b.Delete(ctx, configMaps, ns, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("deleting another one: %v", err)
	}
	if err := b.Delete(ctx, configMaps, ns, "a", metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting: %v", err)
	}
	if err := b.Delete(ctx, configMaps, ns, "a", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deleting again: %v", err)
	}
}

// testPosts creates each subresource that components create.
func testPosts(ctx context.Context, t *testing.T, b *body, ns string) {
	if _, err := client.Create(ctx, b, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: ns}}); err != nil {
		t.Fatal(err)
	}
	hour := int64(3600)
	answer, err := b.Post(ctx, api.For[*corev1.ServiceAccount](), ns, "robot", "token", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}})
	if token, ok := answer.(*authenticationv1.TokenRequest); err != nil || !ok || token.Status.Token == "" {
		t.Errorf("token: %v, %v", answer, err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}, Spec: corev1.PodSpec{
		ServiceAccountName: "robot", AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "c", Image: "app:1"}},
	}}
	if _, err := client.Create(ctx, b, pod); err != nil {
		t.Fatal(err)
	}
	pods := api.For[*corev1.Pod]()
	if _, err := b.Post(ctx, pods, ns, "p", "binding", &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}); err != nil {
		t.Errorf("binding: %v", err)
	}
	if got, err := client.Get[*corev1.Pod](ctx, b, ns, "p"); err != nil || got.Spec.NodeName != "n1" {
		t.Errorf("after binding: %v, %v", got, err)
	}
	if _, err := b.Post(ctx, pods, ns, "p", "eviction", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}}); err != nil {
		t.Errorf("eviction: %v", err)
	}
	if got, err := client.Get[*corev1.Pod](ctx, b, ns, "p"); err != nil || got.DeletionTimestamp == nil {
		t.Errorf("after eviction: %v, %v", got, err)
	}
}

func testFence(ctx context.Context, t *testing.T, b *body, ns string) {
	lease, err := client.Create(ctx, b, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "epoch"}})
	if err != nil {
		t.Fatal(err)
	}
	epoch := client.Epoch{Resource: api.For[*coordinationv1.Lease](), Namespace: ns, Name: "epoch", ResourceVersion: lease.ResourceVersion}
	fenced := b.Fenced(epoch)
	a, err := client.Create(ctx, fenced, suiteConfigMap(ns, "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	next := lease.DeepCopy()
	next.Labels = map[string]string{"leader": "another"}
	if _, err := client.Update(ctx, b, "", next); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(ctx, fenced, suiteConfigMap(ns, "b", "1")); !apierrors.IsConflict(err) {
		t.Errorf("creating when the epoch is over: %v", err)
	}
	changed := a.DeepCopy()
	changed.Data["k"] = "2"
	if _, err := client.Update(ctx, fenced, "", changed); !apierrors.IsConflict(err) {
		t.Errorf("updating when the epoch is over: %v", err)
	}
	if err := fenced.Delete(ctx, configMaps, ns, "a", metav1.DeleteOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("deleting when the epoch is over: %v", err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, fenced, ns, "a"); err != nil {
		t.Errorf("reading when the epoch is over: %v", err)
	}
}

// model is what a reader of a feed knows; it checks that each change fits.
type model struct {
	t        *testing.T
	known    map[string]api.Object
	revision int64
}

func follow(ctx context.Context, t *testing.T, b *body, sources ...client.Source) (*client.Feed, *model) {
	return b.Follow(ctx, sources...), &model{t: t, known: map[string]api.Object{}}
}

func (m *model) apply(batch client.Batch) {
	m.t.Helper()
	if batch.Revision < m.revision {
		m.t.Errorf("a batch of revision %d after one of %d", batch.Revision, m.revision)
	}
	m.revision = batch.Revision
	for _, c := range batch.Changes {
		key := c.Resource.Key(c.Object().GetNamespace(), c.Object().GetName())
		old := m.known[key]
		switch {
		case (old == nil) != (c.Old == nil):
			m.t.Errorf("%s: the change says that there was %v, but it was %v", key, c.Old, old)
		case old != nil && (old.GetResourceVersion() != c.Old.GetResourceVersion() || old.GetUID() != c.Old.GetUID()):
			m.t.Errorf("%s: the change is from %s, but known is %s", key, c.Old.GetResourceVersion(), old.GetResourceVersion())
		case c.New != nil && old != nil && c.New.GetUID() != old.GetUID():
			m.t.Errorf("%s: another object came in one change", key)
		}
		if m.known[key] = c.New; c.New == nil {
			delete(m.known, key)
		}
	}
}

// until reads the feed until it has shown the revision.
func (m *model) until(ctx context.Context, f *client.Feed, version string) {
	m.t.Helper()
	revision, err := parseRevision(version)
	if err != nil {
		m.t.Fatal(err)
	}
	for m.revision < revision {
		select {
		case batch, ok := <-f.C:
			if !ok {
				m.t.Fatal("the feed has ended")
			}
			m.apply(batch)
		case <-ctx.Done():
			m.t.Fatalf("the feed is at %d, and does not come to %d", m.revision, revision)
		}
	}
}

func (m *model) values() string {
	var out []string
	for _, obj := range m.known {
		if cm, ok := obj.(*corev1.ConfigMap); ok {
			out = append(out, cm.Name+"="+cm.Data["k"])
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func testFeed(ctx context.Context, t *testing.T, b *body, ns string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := client.Create(ctx, b, suiteConfigMap(ns, "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	feed, m := follow(ctx, t, b, client.Source{Resource: configMaps, Namespace: ns})
	m.apply(<-feed.C)
	if m.values() != "a=1" || m.revision == 0 {
		t.Errorf("the first batch showed %q at %d", m.values(), m.revision)
	}
	next := a.DeepCopy()
	next.Data["k"] = "2"
	if _, err = client.Update(ctx, b, "", next); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, configMaps, ns, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	last, err := client.Create(ctx, b, suiteConfigMap(ns, "a", "3"))
	if err != nil {
		t.Fatal(err)
	}
	m.until(ctx, feed, last.ResourceVersion)
	if m.values() != "a=3" {
		t.Errorf("then %q", m.values())
	}
	cancel()
	for range feed.C {
	}
}

func testFeedSelected(ctx context.Context, t *testing.T, b *body, ns string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	feed, m := follow(ctx, t, b, client.Source{Resource: configMaps, Namespace: ns, Labels: labels.SelectorFromSet(labels.Set{"app": "web"})})
	m.apply(<-feed.C)
	if m.values() != "" {
		t.Errorf("the first batch showed %q", m.values())
	}
	write := func(name, app string) *corev1.ConfigMap {
		cm := suiteConfigMap(ns, name, app)
		cm.Labels = map[string]string{"app": app}
		if old, err := client.Get[*corev1.ConfigMap](ctx, b, ns, name); err == nil {
			cm.ResourceVersion = old.ResourceVersion
			if cm, err = client.Update(ctx, b, "", cm); err != nil {
				t.Fatal(err)
			}
			return cm
		}
		cm, err := client.Create(ctx, b, cm)
		if err != nil {
			t.Fatal(err)
		}
		return cm
	}
	m.until(ctx, feed, write("a", "web").ResourceVersion)
	write("b", "db")
	write("a", "db")
	m.until(ctx, feed, write("b", "web").ResourceVersion)
	if m.values() != "b=web" {
		t.Errorf("selected are %q", m.values())
	}
	m.until(ctx, feed, write("b", "db").ResourceVersion)
	if m.values() != "" {
		t.Errorf("selected are %q", m.values())
	}
}

func testFeedSources(ctx context.Context, t *testing.T, b *body, ns string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := client.Create(ctx, b, suiteConfigMap(ns, "a", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(ctx, b, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	feed, m := follow(ctx, t, b, client.Source{Resource: configMaps, Namespace: ns}, client.Source{Resource: api.For[*corev1.Secret](), Namespace: ns})
	m.apply(<-feed.C)
	if len(m.known) != 2 {
		t.Errorf("the first batch showed %v", m.known)
	}
	if _, err := client.Create(ctx, b, suiteConfigMap(ns, "b", "1")); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, api.For[*corev1.Secret](), ns, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(m.known) != 2 || m.values() != "a=1 b=1" {
		select {
		case batch := <-feed.C:
			m.apply(batch)
		case <-ctx.Done():
			t.Fatalf("known are %v", m.known)
		}
	}
}

func testFeedOfNone(ctx context.Context, t *testing.T, b *body, _ string) {
	ctx, cancel := context.WithCancel(ctx)
	feed := b.Follow(ctx)
	if batch := <-feed.C; len(batch.Changes) != 0 {
		t.Errorf("no sources have the changes %v", batch.Changes)
	}
	cancel()
	if _, more := <-feed.C; more {
		t.Error("the feed goes on after its context")
	}
}

// Who was away for longer than the history lasts gets the difference; an object
// that was replaced by another one of its name is delivered as two changes.
func testFeedAway(ctx context.Context, t *testing.T, b *body, ns string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, name := range []string{"deleted", "replaced", "changed", "same"} {
		if _, err := client.Create(ctx, b, suiteConfigMap(ns, name, "1")); err != nil {
			t.Fatal(err)
		}
	}
	feed, m := follow(ctx, t, b, client.Source{Resource: configMaps, Namespace: ns})
	m.apply(<-feed.C)
	var last *corev1.ConfigMap
	b.away(func() {
		direct := b.server.Client(admin, "direct")
		for _, name := range []string{"deleted", "replaced"} {
			if err := direct.Delete(ctx, configMaps, ns, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Create(ctx, direct, suiteConfigMap(ns, "replaced", "2")); err != nil {
			t.Fatal(err)
		}
		cm, err := client.Get[*corev1.ConfigMap](ctx, direct, ns, "changed")
		if err != nil {
			t.Fatal(err)
		}
		last = cm
		for i := range 1000 {
			next := last.DeepCopy()
			next.Data["k"] = fmt.Sprint(i)
			if last, err = client.Update(ctx, direct, "", next); err != nil {
				t.Fatal(err)
			}
		}
	})
	m.until(ctx, feed, last.ResourceVersion)
	if m.values() != "changed=999 replaced=2 same=1" {
		t.Errorf("after the absence known are %q", m.values())
	}
}
