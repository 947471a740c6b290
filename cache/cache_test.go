package cache

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
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
		c, err := New(Config{Store: s, Resources: rows, Logger: slog.New(slog.DiscardHandler)})
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
	e, err := d.Commit(revision)
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

// The state that Taken gives is the one that its events lead to, also while the
// next events are being told.
func TestTakenSnapshotMatchesEvents(t *testing.T) {
	s := newStore(t)
	defer s.Close()
	c, ctx, stop := started(t, s)
	defer stop()
	table := c.Table(configMaps)
	w, states := c.WatchFromNow(Interest{Table: table})
	defer w.Stop()
	const writes = 2000
	go func() {
		for i := range writes {
			d, err := table.Deposit(configMap("n", fmt.Sprint(i%50), fmt.Sprint(i)))
			if err != nil {
				panic(err)
			}
			revision, err := s.Put(ctx, d.Key(), d.Value, store.Condition{Revision: store.Any})
			if err != nil {
				panic(err)
			}
			if _, err := d.Commit(revision); err != nil {
				panic(err)
			}
		}
	}()
	folded := show(states[0])
	for seen := 0; seen < writes; {
		<-w.Wake()
		taken, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range taken.Events {
			folded[e.New.Namespace()+"/"+e.New.Name()] = e.New.Revision()
		}
		seen += len(taken.Events)
		if taken.Complete() {
			if got := show(taken.Snapshot(table)); !maps.Equal(got, folded) {
				t.Fatalf("at %d the state is %v, the events led to %v", taken.Revision, got, folded)
			}
		}
	}
	for range 2 {
		c.sweep() // forgets what the watch did not ask for
	}
	if len(c.pending.byKey) != 0 {
		t.Errorf("deposits were left: %v", c.pending.byKey)
	}
}

// Two writers of the same bytes share nothing but them: each gets an entry of
// its own revision.
func TestEqualDeposits(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		table := c.Table(configMaps)
		first, _ := table.Deposit(configMap("n", "a"))
		second, _ := table.Deposit(configMap("n", "a"))
		revision, err := s.Put(ctx, second.Key(), second.Value, store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitFor(ctx, revision); err != nil {
			t.Fatal(err)
		}
		again, err := s.Put(ctx, first.Key(), first.Value, store.Condition{Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []struct {
			*Deposit
			at int64
		}{{second, revision}, {first, again}} {
			e, err := w.Commit(w.at)
			if err != nil || e.Revision() != w.at || e.Object().GetResourceVersion() != formatRevision(w.at) {
				t.Errorf("the write at %d has the entry %v of %d, %v", w.at, e, e.Revision(), err)
			}
		}
		if err := c.WaitFor(ctx, again); err != nil {
			t.Fatal(err)
		}
		c.sweep()
		if len(c.pending.byKey) != 0 {
			t.Errorf("deposits were left: %v", c.pending.byKey)
		}
	})
}
