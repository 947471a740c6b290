package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/store"
)

// stalled is one server's way to a shared store. Once it is cut, some writes
// wait until it is mended, and are then sent as they are: what a server writes
// that was frozen, or whose network was slow, while others thought it dead.
type stalled struct {
	store.Store
	prefixes []string // of the keys whose writes wait

	mu     sync.Mutex
	cut    chan struct{}     // closed when it is mended; nil: it is not cut
	waited map[string]error  // by key, of writes that waited: how they ended
	held   map[string]string // by key: the fence's key
}

func newStalled(s store.Store, prefixes ...string) *stalled {
	return &stalled{Store: s, prefixes: prefixes, waited: map[string]error{}, held: map[string]string{}}
}

func (s *stalled) set(cut chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = cut
}

// Put waits while the way is cut, however short the time that the writer gives it:
// the packet is under way.
func (s *stalled) Put(ctx context.Context, key string, value []byte, c store.Condition) (int64, error) {
	s.mu.Lock()
	cut := s.cut
	if !slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
		cut = nil
	}
	if cut != nil {
		s.held[key] = c.Fence.Key
	}
	s.mu.Unlock()
	if cut == nil {
		return s.Store.Put(ctx, key, value, c)
	}
	<-cut
	revision, err := s.Store.Put(context.WithoutCancel(ctx), key, value, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited[key] = err
	return revision, err
}

// waiting returns a key below prefix whose write waits and is fenced by fence, or "".
func (s *stalled) waiting(prefix, fence string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, by := range s.held {
		if strings.HasPrefix(key, prefix) && by == fence {
			return key
		}
	}
	return ""
}

// runPlane runs a control plane on a store in the bubble.
func runPlane(t *testing.T, ctx context.Context, keys *Keys, s store.Store, name string) (*ControlPlane, func() error) {
	t.Helper()
	return runConfig(t, ctx, ControlPlaneConfig{Store: s, Keys: keys, Identity: name})
}

func runConfig(t *testing.T, ctx context.Context, c ControlPlaneConfig) (*ControlPlane, func() error) {
	t.Helper()
	p, err := NewControlPlane(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-p.Ready():
	case err := <-done:
		t.Fatalf("%s: %v", c.Identity, err)
	}
	return p, func() error { stop(); return <-done }
}

// holder waits until somebody whose name is not not leads, and returns who.
func holder(t *testing.T, ctx context.Context, c client.Client, not string) string {
	t.Helper()
	for range 200 {
		lease, err := client.Get[*coordinationv1.Lease](ctx, c, "kube-system", "kube-controller-manager")
		if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != not && *lease.Spec.HolderIdentity != "" {
			return *lease.Spec.HolderIdentity
		}
		time.Sleep(time.Second) // virtual
	}
	t.Fatal("nobody leads")
	return ""
}

// "Every write of a built-in controller is fenced by its leadership epoch; a deposed
// leader's write is refused." Two whole control planes share a store. The one that
// leads wants to make pods, and its writes are stuck on the way. The other takes
// over and makes them; then the old ones arrive.
func TestDeposedLeadersWritesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		keys, err := NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		shared := store.OpenMemory(store.MemoryConfig{})
		defer shared.Close()
		way := newStalled(shared, "/registry/pods/", "/registry/leases/")
		_, stopOld := runPlane(t, ctx, keys, way, "old")
		successor, stopNew := runPlane(t, ctx, keys, shared, "new")
		admin := successor.Client(operator, "test")
		if who := holder(t, ctx, admin, ""); who != "old" {
			t.Fatalf("%s leads", who)
		}
		awaitAccount(t, ctx, admin)

		mended := make(chan struct{})
		way.set(mended)
		if _, err := client.Create(ctx, admin, replicas(3)); err != nil {
			t.Fatal(err)
		}
		if who := holder(t, ctx, admin, "old"); who != "new" {
			t.Fatalf("%s leads", who)
		}
		awaitPods(t, ctx, admin, 3)
		key := way.waiting("/registry/pods/default/", "/registry/leases/kube-system/kube-controller-manager-epoch")
		if key == "" {
			close(mended)
			t.Fatalf("the old leader wrote no pod in its epoch, so the test shows nothing: %v", way.held)
		}
		close(mended)
		way.set(nil)
		time.Sleep(time.Minute) // virtual: time for all that the old leader may try
		synctest.Wait()

		fenced := 0
		for key, err := range way.waited {
			switch {
			case errors.Is(err, store.ErrFenced):
				fenced++
			case strings.HasPrefix(key, "/registry/pods/"):
				t.Errorf("the deposed leader wrote %s: %v", key, err)
			}
		}
		if !errors.Is(way.waited[key], store.ErrFenced) {
			t.Errorf("%s: %v, want that it is refused (%d other writes were)", key, way.waited[key], fenced)
		}
		awaitPods(t, ctx, admin, 3)
		if err := errors.Join(stopNew(), stopOld()); err != nil {
			t.Error(err)
		}
	})
}

// awaitAccount waits for what pods of the namespace default need.
func awaitAccount(t *testing.T, ctx context.Context, c client.Client) {
	t.Helper()
	for range 100 {
		if _, err := client.Get[*corev1.ServiceAccount](ctx, c, "default", "default"); err == nil {
			return
		}
		time.Sleep(time.Second) // virtual
	}
	t.Fatal("no controller makes service accounts")
}

// awaitPods waits until there are n pods, and fails if there are ever more.
func awaitPods(t *testing.T, ctx context.Context, c client.Client, n int) {
	t.Helper()
	var pods []*corev1.Pod
	for range 120 {
		var err error
		if pods, err = client.List[*corev1.Pod](ctx, c, client.ListOptions{Namespace: "default"}); err != nil {
			t.Fatal(err)
		}
		if len(pods) == n {
			return
		}
		time.Sleep(time.Second) // virtual
	}
	t.Fatalf("there are %d pods, want %d", len(pods), n)
}

func replicas(n int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "any"}}},
		}},
	}
}
