package cache

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"skiff/api"
	"skiff/store"
)

// A twin is the slow and obvious cache: every state that ever was, as a map.
type twin struct {
	states map[int64]map[string]int64 // revision → key → revision of its object
	newest int64
	events []string // "revision old new key", in order
	at     []int64  // revisions of events
}

func newTwin(revision int64) *twin {
	return &twin{states: map[int64]map[string]int64{revision: {}}, newest: revision}
}

func (m *twin) write(key string, revision int64, deleted bool) {
	next := maps.Clone(m.states[m.newest])
	old := next[key]
	now := revision
	if deleted {
		delete(next, key)
		now = 0
	} else {
		next[key] = revision
	}
	m.states[revision], m.newest = next, revision
	m.events = append(m.events, fmt.Sprintf("%d %d %d %s", revision, old, now, key))
	m.at = append(m.at, revision)
}

func show(s Snapshot) map[string]int64 {
	out := map[string]int64{}
	for e := range s.All("") {
		out[e.Namespace()+"/"+e.Name()] = e.Revision()
	}
	return out
}

func showEvent(e *Event) string {
	var old, now int64
	entry := e.New
	if e.Old != nil {
		old, entry = e.Old.Revision(), e.Old
	}
	if e.New != nil {
		now = e.New.Revision()
	}
	return fmt.Sprintf("%d %d %d %s/%s", e.Revision, old, now, entry.Namespace(), entry.Name())
}

// A follower of the model test: a watcher, and where it began.
type testWatcher struct {
	*Watcher
	in    Interest
	after int64
	got   []string
	ended bool
}

func (w *testWatcher) take(t *rapid.T, m *twin) {
	if w.ended {
		return
	}
	for {
		taken, err := w.Take()
		if err != nil {
			w.ended = true // too slow for the history; that it may be is checked by the caller
			return
		}
		for _, e := range taken.Events {
			w.got = append(w.got, showEvent(e))
		}
		if taken.Complete() {
			break
		}
	}
	var want []string
	for i, e := range m.events {
		fields := strings.SplitN(e, " ", 4)
		namespace, _, _ := strings.Cut(fields[3], "/")
		if m.at[i] > w.after && (w.in.Namespace == "" || w.in.Namespace == namespace) {
			want = append(want, e)
		}
	}
	if !slices.Equal(w.got, want) {
		t.Fatalf("a watcher of %q after %d was told\n%s\nwant\n%s", w.in.Namespace, w.after, strings.Join(w.got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCacheAgainstTwin writes at random, through deposits and past them, and
// checks at random that the newest state, every past state and every watcher
// agree with the twin, and that snapshots taken earlier did not change.
func TestCacheAgainstTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { checkAgainstTwin(t, rt) })
}

func checkAgainstTwin(t *testing.T, rt *rapid.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := newStore(t)
	defer s.Close()
	history := rapid.SampledFrom([]int64{3000, 20000, 1 << 20}).Draw(rt, "history")
	c, err := New(Config{Store: s, Resources: []*api.Resource{configMaps, api.For[*corev1.Secret]()}, History: history,
		Queue: rapid.SampledFrom([]int{1, 2, 256}).Draw(rt, "queue")})
	if err != nil {
		rt.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if err := c.WaitReady(ctx); err != nil {
		rt.Fatal(err)
	}
	table := c.Table(configMaps)
	m := newTwin(c.Revision())
	type kept struct {
		Snapshot
		was map[string]int64
	}
	var snapshots []kept
	var watchers []*testWatcher
	names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	namespaces := rapid.SampledFrom([]string{"n", "n-1", "n0"})

	rt.Repeat(map[string]func(*rapid.T){
		"put": func(rt *rapid.T) {
			obj := configMap(namespaces.Draw(rt, "namespace"), names.Draw(rt, "name"), rapid.StringN(0, 40, -1).Draw(rt, "data"))
			key := obj.Namespace + "/" + obj.Name
			if rapid.Bool().Draw(rt, "deposit") {
				m.write(key, write(t, ctx, s, c, configMaps, obj, store.Any).Revision(), false)
				return
			}
			raw, err := table.codec.marshal(obj)
			if err != nil {
				rt.Fatal(err)
			}
			revision, err := s.Put(ctx, configMaps.Key(obj.Namespace, obj.Name), table.codec.wrap(raw), store.Condition{Revision: store.Any})
			if err != nil {
				rt.Fatal(err)
			}
			m.write(key, revision, false)
		},
		"delete": func(rt *rapid.T) {
			now := m.states[m.newest]
			if len(now) == 0 {
				rt.Skip("nothing there")
			}
			keys := slices.Collect(maps.Keys(now))
			sort.Strings(keys)
			key := rapid.SampledFrom(keys).Draw(rt, "key")
			namespace, name, _ := strings.Cut(key, "/")
			revision, err := s.Delete(ctx, configMaps.Key(namespace, name), store.Condition{Revision: store.Any})
			if err != nil {
				rt.Fatal(err)
			}
			m.write(key, revision, true)
		},
		"write something else": func(rt *rapid.T) {
			if _, err := s.Put(ctx, "/registry/elsewhere/x", []byte("x"), store.Condition{Revision: store.Any}); err != nil {
				rt.Fatal(err)
			}
		},
		"compact": func(rt *rapid.T) {
			revision, _ := s.Revision(ctx)
			if err := c.WaitFor(ctx, revision); err != nil { // else the cache would start over, which another test does
				rt.Fatal(err)
			}
			if err := s.Compact(ctx, revision); err != nil {
				rt.Fatal(err)
			}
		},
		"watch": func(rt *rapid.T) {
			w := &testWatcher{in: Interest{Table: table, Namespace: rapid.SampledFrom([]string{"", "n", "n-1"}).Draw(rt, "namespace")}}
			if rapid.Bool().Draw(rt, "from now") {
				watcher, states := c.WatchFromNow(w.in)
				w.Watcher, w.after = watcher, states[0].Revision
			} else {
				w.after = rapid.Int64Range(1, m.newest).Draw(rt, "after")
				watcher, err := c.Watch(w.after, w.in)
				if err != nil {
					if c.mu.Lock(); w.after >= table.history.start {
						rt.Fatalf("watch after %d, the history starts at %d: %v", w.after, table.history.start, err)
					}
					c.mu.Unlock()
					return
				}
				w.Watcher = watcher
			}
			watchers = append(watchers, w)
		},
		"read": func(rt *rapid.T) {
			revision, err := s.Revision(ctx)
			if err != nil {
				rt.Fatal(err)
			}
			if err := c.WaitFor(ctx, revision); err != nil {
				rt.Fatal(err)
			}
			now := table.Snapshot()
			if got := show(now); !maps.Equal(got, m.states[m.newest]) {
				rt.Fatalf("the state is %v, want %v", got, m.states[m.newest])
			}
			snapshots = append(snapshots, kept{now, show(now)})
			for _, w := range watchers {
				w.take(rt, m)
			}
		},
		"past": func(rt *rapid.T) {
			revision, err := s.Revision(ctx)
			if err != nil {
				rt.Fatal(err)
			}
			if err := c.WaitFor(ctx, revision); err != nil {
				rt.Fatal(err)
			}
			at := rapid.Int64Range(1, revision).Draw(rt, "at")
			past, err := table.At(at)
			if err != nil {
				if at >= table.history.start {
					rt.Fatalf("at %d: %v", at, err)
				}
				return
			}
			want := m.states[at]
			for r := at; want == nil; r-- {
				want = m.states[r]
			}
			if got := show(past); !maps.Equal(got, want) {
				rt.Fatalf("at %d: %v, want %v", at, got, want)
			}
			snapshots = append(snapshots, kept{past, show(past)})
		},
		"": func(rt *rapid.T) {
			for _, k := range snapshots {
				if got := show(k.Snapshot); !maps.Equal(got, k.was) {
					rt.Fatalf("the snapshot at %d has changed from %v to %v", k.Revision, k.was, got)
				}
			}
		},
	})
	for _, w := range watchers {
		w.Stop()
	}
	if len(table.watchers) != 0 {
		rt.Fatalf("stopped watchers are still registered: %v", table.watchers)
	}
}
