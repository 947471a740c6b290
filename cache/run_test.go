package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/api"
	"skiff/store"
)

// flaky is a store whose watches can be cut, and made to fail from then on.
type flaky struct {
	store.Store
	fail error // of watches that are cut

	mu  sync.Mutex
	cut chan struct{} // closed to cut the watches that began with it; guarded by mu
}

func (f *flaky) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
}

func (f *flaky) Watch(ctx context.Context, prefix string, after int64) *store.Watcher {
	ctx, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	go func() {
		select {
		case <-cut:
			cancel(f.fail)
		case <-ctx.Done():
		}
	}()
	return f.Store.Watch(ctx, prefix, after)
}

// started runs a cache over s until the returned func is called.
func started(t *testing.T, s store.Store) (*Cache, context.Context, func()) {
	t.Helper()
	c, err := New(Config{Store: s, Resources: api.Catalogue, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return c, ctx, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// When the store has forgotten what the cache has not seen yet, the cache reads
// all anew: unchanged entries stay the same, and watchers are told that they
// have missed something.
func TestCacheStartsOverAfterCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := newStore(t)
		defer memory.Close()
		s := &flaky{Store: memory, cut: make(chan struct{}), fail: errors.New("the connection is gone")}
		c, ctx, stop := started(t, s)
		defer stop()
		kept := write(t, ctx, s, c, configMaps, configMap("n", "kept"), 0)
		gone := write(t, ctx, s, c, configMaps, configMap("n", "gone"), 0)
		if err := c.WaitFor(ctx, gone.Revision()); err != nil {
			t.Fatal(err)
		}
		w, _ := c.WatchFromNow(Interest{Table: c.Table(configMaps)})
		defer w.Stop()

		s.disconnect() // the cache's watch ends; before it tries again:
		synctest.Wait()
		if _, err := s.Delete(ctx, gone.Key(), store.Condition{Revision: store.Any}); err != nil {
			t.Fatal(err)
		}
		newer := write(t, ctx, s, c, configMaps, configMap("n", "new"), 0)
		if err := s.Compact(ctx, newer.Revision()); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitFor(ctx, newer.Revision()); err != nil {
			t.Fatal(err)
		}
		table := c.Table(configMaps)
		if e, _ := table.Get("n", "kept"); e != kept {
			t.Errorf("the unchanged entry is %v now", e)
		}
		if _, ok := table.Get("n", "gone"); ok {
			t.Error("the deleted object is still there")
		}
		if e, _ := table.Get("n", "new"); e != newer {
			t.Errorf("the new entry is %v, the writer's %v", e, newer)
		}
		<-w.Wake()
		if _, err := w.Take(); !errors.Is(err, ErrTooOld) {
			t.Errorf("the watcher got %v", err)
		}
		if _, err := c.Watch(kept.Revision(), Interest{Table: table}); !errors.Is(err, ErrTooOld) {
			t.Errorf("a watch from before: %v", err)
		}
	})
}

// A watch of the store that ends for any other reason goes on where it ended,
// and watchers do not notice.
func TestCacheGoesOnAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := newStore(t)
		defer memory.Close()
		s := &flaky{Store: memory, cut: make(chan struct{}), fail: errors.New("the connection is gone")}
		c, ctx, stop := started(t, s)
		defer stop()
		w, _ := c.WatchFromNow(Interest{Table: c.Table(configMaps)})
		defer w.Stop()
		s.disconnect()
		synctest.Wait()
		e := write(t, ctx, s, c, configMaps, configMap("n", "a"), 0)
		if err := c.WaitFor(ctx, e.Revision()); err != nil {
			t.Fatal(err)
		}
		if taken, err := w.Take(); err != nil || len(taken.Events) != 1 || taken.Events[0].New != e {
			t.Errorf("the watcher got %+v, %v", taken, err)
		}
	})
}

// A value that nobody can decode is kept as a broken entry, and what comes after
// it is applied.
func TestBrokenValueDoesNotStopTheCache(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		if _, err := s.Put(ctx, configMaps.Key("n", "broken"), []byte("k8s\x00nonsense"), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		e := write(t, ctx, s, c, configMaps, configMap("n", "sound"), 0)
		if err := c.WaitFor(ctx, e.Revision()); err != nil {
			t.Fatal(err)
		}
		broken, ok := c.Table(configMaps).Get("n", "broken")
		if !ok || broken.Err() == nil {
			t.Errorf("the broken entry is %v", broken)
		}
		mended := write(t, ctx, s, c, configMaps, configMap("n", "broken", "mended"), broken.Revision())
		if err := c.WaitFor(ctx, mended.Revision()); err != nil {
			t.Fatal(err)
		}
		if e, _ := c.Table(configMaps).Get("n", "broken"); e.Err() != nil {
			t.Error(e.Err())
		}
	})
}

// Nodes ask for their own pods only, and hear of nothing else; a pod that gets
// its node, or changes it, is told to both.
func TestWatchByIndexedField(t *testing.T) {
	pods := *api.For[*corev1.Pod]()
	pods.Kind.Fields = func(obj api.Object) fields.Set {
		return fields.Set{"spec.nodeName": obj.(*corev1.Pod).Spec.NodeName}
	}
	runningWith(t, []*api.Resource{&pods}, func(ctx context.Context, s store.Store, c *Cache) {
		table := c.Table(&pods)
		w, _ := c.WatchFromNow(Interest{Table: table, Indexed: true, Value: "n1"})
		defer w.Stop()
		put := func(name, node string) *Entry {
			return write(t, ctx, s, c, &pods, &corev1.Pod{ObjectMeta: configMap("n", name).ObjectMeta, Spec: corev1.PodSpec{NodeName: node}}, store.Any)
		}
		put("elsewhere", "n2")
		put("waiting", "")
		put("here", "n1")
		put("waiting", "n1")
		last := put("here", "n2")
		if err := c.WaitFor(ctx, last.Revision()); err != nil {
			t.Fatal(err)
		}
		taken, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range taken.Events {
			got = append(got, e.New.Name())
		}
		if fmt.Sprint(got) != "[here waiting here]" {
			t.Errorf("the watcher was told of %v", got)
		}
		var indexed []string
		for e := range table.Snapshot().Indexed("n2", "", "") {
			indexed = append(indexed, e.Name())
		}
		if fmt.Sprint(indexed) != "[elsewhere here]" {
			t.Errorf("on n2 are %v", indexed)
		}
	})
}

func TestWaitForEndsWithItsContext(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := c.WaitFor(ctx, c.Revision()+100); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitFor: %v", err)
		}
		if len(c.waiters.at) != 0 {
			t.Error("the waiter was not forgotten")
		}
	})
}

// Forms that nobody uses are let go after two sweeps, and made again when asked for.
func TestSweepDropsUnusedForms(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		e := write(t, ctx, s, c, configMaps, configMap("n", "a", "x"), 0)
		before, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*c.config.Sweep + time.Second)
		synctest.Wait()
		if e.object.Load() != nil || e.json.Load() != nil {
			t.Error("unused forms are still there")
		}
		if after, err := e.JSON(); err != nil || string(after) != string(before) {
			t.Errorf("JSON made again is %s, was %s, %v", after, before, err)
		}
	})
}

// A burst's events are forgotten after a while, so that it does not cost memory
// for ever; but a client of a quiet resource may come back late.
func TestHistoryExpires(t *testing.T) {
	running(t, func(ctx context.Context, s store.Store, c *Cache) {
		secrets := api.For[*corev1.Secret]()
		quiet := write(t, ctx, s, c, secrets, &corev1.Secret{ObjectMeta: configMap("n", "a").ObjectMeta}, 0)
		var last *Entry
		for i := range 1000 {
			last = write(t, ctx, s, c, configMaps, configMap("n", "a", fmt.Sprint(i)), store.Any)
		}
		time.Sleep((remembered + 2) * c.config.Sweep)
		synctest.Wait()
		if n := len(c.Table(configMaps).history.events); n != few {
			t.Errorf("%d events are kept", n)
		}
		if _, err := c.Watch(last.Revision()-few, Interest{Table: c.Table(configMaps)}); err != nil {
			t.Errorf("watching from the oldest that is kept: %v", err)
		}
		if _, err := c.Watch(last.Revision()-few-1, Interest{Table: c.Table(configMaps)}); !errors.Is(err, ErrTooOld) {
			t.Errorf("watching from before: %v", err)
		}
		if _, err := c.Watch(quiet.Revision()-1, Interest{Table: c.Table(secrets)}); err != nil {
			t.Errorf("watching a quiet resource: %v", err)
		}
		var bytes int64
		for _, table := range c.all().list {
			bytes += table.history.bytes
		}
		if bytes != c.history {
			t.Errorf("the histories hold %d bytes, counted are %d", bytes, c.history)
		}
	})
}
