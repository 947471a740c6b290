package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

// spread stores n pods: in namespaces of a hundred, on nodes of a hundred.
func (s *reading) spread(t fatal, n int) {
	for i := range n {
		if i%100 == 0 {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("team-%d", i/100)}}
			if _, err := s.put(s.ctx, api.Of(ns), ns, store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		pod := somePod(fmt.Sprintf("team-%d", i/100), fmt.Sprintf("web-5d4f8c7b9-%05d", i))
		pod.Spec.NodeName = fmt.Sprintf("node-%d", i/100)
		podRow.Kind.Default(pod)
		if _, err := s.put(s.ctx, api.For[*corev1.Pod](), pod, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.fresh(s.ctx); err != nil {
		t.Fatal(err)
	}
}

// works are requests whose cost must not grow with what they do not ask for.
func (s *reading) works() map[string]func() error {
	pods, i := api.For[*corev1.Pod](), 0
	list := func(namespace string, o metav1.ListOptions, want int) error {
		result, err := s.list(s.ctx, &Request{Verb: "list", Resource: pods, Namespace: namespace, ListOptions: o})
		if err != nil {
			return err
		}
		if n := result.List.Len(); n != want {
			return fmt.Errorf("%d pods, want %d", n, want)
		}
		return result.List.Encode(io.Discard, asJSON)
	}
	return map[string]func() error{
		"list of a node":                   func() error { return list("", metav1.ListOptions{FieldSelector: "spec.nodeName=node-3"}, 100) },
		"list of a namespace":              func() error { return list("team-3", metav1.ListOptions{}, 100) },
		"list of a node, in its namespace": func() error { return list("team-3", metav1.ListOptions{FieldSelector: "spec.nodeName=node-3"}, 100) },
		"list of one name": func() error {
			return list("team-3", metav1.ListOptions{FieldSelector: "metadata.name=web-5d4f8c7b9-00301"}, 1)
		},
		"list of a page":        func() error { return list("team-3", metav1.ListOptions{Limit: 10}, 10) },
		"list of a page of all": func() error { return list("", metav1.ListOptions{Limit: 10}, 10) },
		"get": func() error {
			_, err := s.get(s.ctx, &Request{Verb: "get", Resource: pods, Namespace: "team-3", Name: "web-5d4f8c7b9-00301"})
			return err
		},
		"patch": func() error {
			i++
			_, err := s.serve(s.ctx, &Request{User: admin, UserAgent: "tester/1.0", Verb: "patch", Resource: pods, Namespace: "team-3", Name: "web-5d4f8c7b9-00301",
				PatchType: "application/merge-patch+json", Body: Body{Bytes: fmt.Appendf(nil, `{"metadata":{"annotations":{"i":"%d"}}}`, i)}})
			return err
		},
	}
}

// A request costs what it returns: with twenty times the pods in the cluster it
// allocates no more.
func TestCostDoesNotGrow(t *testing.T) {
	allocations := func(n int) map[string]float64 {
		s := newReading(t, 0)
		defer s.end()
		s.spread(t, n)
		counts := map[string]float64{}
		for name, work := range s.works() {
			counts[name] = testing.AllocsPerRun(5, func() {
				if err := work(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		return counts
	}
	few, many := allocations(500), allocations(10_000)
	for name, n := range few {
		// A level more in a tree, and what runs beside: no more than that.
		if many[name] > n*1.25+60 {
			t.Errorf("%s: %.0f allocations beside 500 pods, %.0f beside 10,000", name, n, many[name])
		}
	}
}

// BenchmarkGrowth measures the same beside 1,000 and 100,000 pods.
func BenchmarkGrowth(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		s := newReading(b, 0)
		s.spread(b, n)
		for name, work := range s.works() {
			b.Run(fmt.Sprintf("%s/%d pods", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := work(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		s.end()
	}
}

// BenchmarkManyWatchers: each of a thousand watchers has a node of its own, twenty
// have all pods. What a write costs to tell, to somebody and to nobody.
func BenchmarkManyWatchers(b *testing.B) {
	for _, watchers := range []int{0, 1000} {
		for _, on := range []string{"node-7", "node-without-watcher"} {
			b.Run(fmt.Sprintf("%d watchers, pod on %s", watchers, on), func(b *testing.B) {
				s := newReading(b, 0)
				defer s.end()
				t := s.table(api.For[*corev1.Pod]())
				var wait sync.WaitGroup
				ctx, cancel := context.WithCancel(b.Context())
				for i := range watchers {
					w, _ := s.cache.WatchFromNow(cache.Interest{Table: t, Indexed: true, Value: fmt.Sprintf("node-%d", i)})
					wait.Go(func() {
						defer w.Stop()
						for {
							select {
							case <-w.Wake():
								if _, err := w.Take(); err != nil {
									b.Error(err)
									return
								}
							case <-ctx.Done():
								return
							}
						}
					})
				}
				pod := somePod("default", "web")
				pod.Spec.NodeName = on
				b.ReportAllocs()
				cpu0 := cpu(b)
				for i := 0; b.Loop(); i++ {
					next := pod.DeepCopy()
					next.Annotations = map[string]string{"i": fmt.Sprint(i)}
					if _, err := s.put(s.ctx, api.For[*corev1.Pod](), next, store.Condition{Revision: -1}); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.fresh(s.ctx); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu(b)-cpu0).Microseconds())/float64(b.N), "cpu-µs/op")
				cancel()
				wait.Wait()
			})
		}
	}
}

// stuck is a client that takes nothing after its first bytes.
type stuck struct {
	header  http.Header
	begun   chan struct{}
	release <-chan struct{}
	once    sync.Once
}

func (w *stuck) Header() http.Header { return w.header }
func (w *stuck) WriteHeader(int)     {}
func (w *stuck) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	<-w.release
	return len(p), nil
}

// A list adds to memory what is being written of it just now, not its length: 64
// readers who have begun and take nothing more add less than 16 MiB to the bytes
// that the cache holds. With SKIFF_LONG set there are 50,000 pods.
func TestLongListsAddNoMemory(t *testing.T) {
	pods := longList + 1000
	if os.Getenv("SKIFF_LONG") != "" {
		pods = 50_000
	}
	const readers, allowed = 64, 16 << 20
	s := newReading(t, 0)
	defer s.end()
	s.spread(t, pods)
	list := func(w http.ResponseWriter) {
		req, err := http.NewRequestWithContext(s.ctx, "GET", "/api/v1/pods", nil)
		if err != nil {
			t.Error(err)
			return
		}
		r := s.locate(req)
		r.User = admin
		result, err := s.serve(s.ctx, r)
		s.respond(w, r, result, err)
		r.leave()
	}
	whole := &stuck{header: http.Header{}, begun: make(chan struct{}), release: make(chan struct{})}
	open := make(chan struct{})
	close(open)
	whole.release = open
	list(whole) // every form of every pod is made
	before := heap()
	release := make(chan struct{})
	var wait sync.WaitGroup
	for range readers {
		w := &stuck{header: http.Header{}, begun: make(chan struct{}), release: release}
		wait.Go(func() { list(w) })
		<-w.begun
	}
	added := heap() - before
	close(release)
	wait.Wait()
	t.Logf("%d pods: %d readers who have begun add %.1f MiB", pods, readers, float64(added)/(1<<20))
	if added > allowed {
		t.Errorf("%d slow readers add %.1f MiB, allowed are %d", readers, float64(added)/(1<<20), allowed>>20)
	}
}

// Pages know how many objects are left without counting them: the first from the
// size of the whole, each other from the token of the one before.
func TestRemainingItems(t *testing.T) {
	s := newReading(t, 0)
	defer s.end()
	s.spread(t, 230)
	for _, namespace := range []string{"", "team-1"} {
		total, token := map[string]int64{"": 230, "team-1": 100}[namespace], ""
		for seen := int64(0); ; {
			result, err := s.list(s.ctx, &Request{Verb: "list", Resource: podRow, Namespace: namespace, ListOptions: metav1.ListOptions{Limit: 30, Continue: token}})
			if err != nil {
				t.Fatal(err)
			}
			l := result.List
			if seen += int64(l.Len()); l.Continue == "" {
				if l.Remaining != nil || seen != total {
					t.Errorf("namespace %q: the last part says that %v are left, after %d of %d", namespace, l.Remaining, seen, total)
				}
				break
			}
			if l.Remaining == nil || *l.Remaining != total-seen {
				t.Errorf("namespace %q: after %d of %d, %v are said to be left", namespace, seen, total, l.Remaining)
			}
			token = l.Continue
		}
	}
}

// BenchmarkRestart is the start of a server over an embedded store with 100,000
// objects of a pod's size, until it answers.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	run := func(work func(s *Server)) time.Duration {
		begin, cpu0 := time.Now(), cpu(b)
		etcd, err := store.OpenEmbedded(b.Context(), store.EmbeddedConfig{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s-to-open")
		s, err := New(Config{Store: etcd, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		<-s.Ready()
		took := time.Since(begin)
		b.ReportMetric((cpu(b) - cpu0).Seconds(), "cpu-s")
		work(s)
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := etcd.Close(); err != nil {
			b.Error(err)
		}
		return took
	}
	run(func(s *Server) {
		var group errgroup.Group
		group.SetLimit(64)
		for i := range 100_000 {
			group.Go(func() error {
				_, err := s.put(b.Context(), podRow, somePod(fmt.Sprintf("team-%d", i/100), fmt.Sprintf("web-%06d", i)), store.Condition{})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
	})
	for b.Loop() {
		took := run(func(s *Server) {
			if n := s.table(podRow).Snapshot().Len(); n != 100_000 {
				b.Fatalf("%d pods after the restart", n)
			}
		})
		b.ReportMetric(took.Seconds(), "s-to-ready")
	}
}

// A list that is indented item by item reads as one that is indented as a whole.
func TestPrettyLists(t *testing.T) {
	s := newReading(t, 0)
	defer s.end()
	for _, n := range []int{0, 230} {
		if n > 0 {
			s.spread(t, n)
		}
		result, err := s.list(s.ctx, &Request{Verb: "list", Resource: podRow})
		if err != nil {
			t.Fatal(err)
		}
		var plain, pretty, want bytes.Buffer
		if err := errors.Join(result.List.Encode(&plain, asJSON), result.List.Encode(&pretty, Output{MediaType: "application/json", Pretty: true})); err != nil {
			t.Fatal(err)
		}
		if err := json.Indent(&want, bytes.TrimSpace(plain.Bytes()), "", "  "); err != nil {
			t.Fatal(err)
		}
		if want.WriteByte('\n'); pretty.String() != want.String() {
			t.Errorf("%d pods:\n%.600s\nwant\n%.600s", n, pretty.String(), want.String())
		}
	}
}
