package cache

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/store"
)

// running starts a cache over a memory store, in a synctest bubble.
func running(t *testing.T, run func(ctx context.Context, s store.Store, c *Cache)) {
	t.Helper()
	runningWith(t, api.Catalogue, run)
}

func runningWith(t *testing.T, rows []*api.Resource, run func(ctx context.Context, s store.Store, c *Cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		defer s.Close()
		c, err := New(Config{Store: s, Resources: rows})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		run(ctx, s, c)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

var configMaps = api.For[*corev1.ConfigMap]()

func configMap(namespace, name string, data ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for i, d := range data {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[fmt.Sprint(i)] = d
	}
	return cm
}

// write stores an object as the API server does.
func write(t testing.TB, ctx context.Context, s store.Store, c *Cache, r *api.Resource, obj api.Object, at int64) *Entry {
	t.Helper()
	d, err := c.Table(r).Deposit(obj)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := s.Put(ctx, d.Key(), d.Value, store.Condition{Revision: at})
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Commit(revision, 0)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestWriterAndCacheShareTheEntry(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		written := write(t, ctx, s, c, configMaps, configMap("default", "a", "x"), store.Any)
		if err := c.WaitFor(ctx, written.Revision()); err != nil {
			t.Fatal(err)
		}
		cached, ok := c.Table(configMaps).Get("default", "a")
		if !ok || cached != written {
			t.Fatalf("the cache holds %v, the writer %v", cached, written)
		}
		if got := cached.Object().GetResourceVersion(); got != formatRevision(written.Revision()) {
			t.Errorf("resourceVersion %q, want %d", got, written.Revision())
		}
	})
}
