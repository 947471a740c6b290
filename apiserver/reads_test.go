package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

var configMaps = api.For[*corev1.ConfigMap]()

// reading is a server of which nothing runs but the cache: enough for the verbs
// that read, and for storing.
type reading struct {
	*Server
	ctx context.Context
	end func()
}

func newReading(t testing.TB, history int64) *reading {
	t.Helper()
	memory := store.OpenMemory(store.MemoryConfig{})
	s, err := New(Config{Store: memory, History: history, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.cache.Run(ctx) }()
	if err := s.cache.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return &reading{s, ctx, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		memory.Close()
	})}
}

// fatal is what *testing.T, *testing.B and *rapid.T have in common.
type fatal interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func (s *reading) write(t fatal, cm *corev1.ConfigMap, at int64) *cache.Entry {
	t.Helper()
	e, err := s.put(s.ctx, configMaps, cm, store.Condition{Revision: at})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func labelled(namespace, name string, kv ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u-" + "1"}}
	for i := 0; i+1 < len(kv); i += 2 {
		if cm.Labels == nil {
			cm.Labels = map[string]string{}
		}
		cm.Labels[kv[i]] = kv[i+1]
	}
	return cm
}

func (s *reading) listOf(namespace string, o metav1.ListOptions) (*List, error) {
	result, err := s.list(s.ctx, &Request{Verb: "list", Resource: configMaps, Namespace: namespace, ListOptions: o})
	if err != nil {
		return nil, err
	}
	return result.List, nil
}

func names(l *List) string {
	var out []string
	for _, e := range l.Entries {
		out = append(out, e.Namespace()+"/"+e.Name())
	}
	return strings.Join(out, " ")
}

func rv(n int64) string { return strconv.FormatInt(n, 10) }

// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
func TestListRevisionRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		first := s.write(t, labelled("n", "a"), 0).Revision()
		second := s.write(t, labelled("n", "b"), 0).Revision()
		third := s.write(t, labelled("n-1", "c"), 0).Revision()
		const exact, notOlder = metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan
		for _, c := range []struct {
			o        metav1.ListOptions
			want     string // "" with code: an error
			revision int64
			more     bool
			code     int32
			message  string
		}{
			{o: metav1.ListOptions{}, want: "n-1/c n/a n/b", revision: third},
			{o: metav1.ListOptions{Limit: 2}, want: "n-1/c n/a", revision: third, more: true},
			{o: metav1.ListOptions{Limit: 3}, want: "n-1/c n/a n/b", revision: third},
			{o: metav1.ListOptions{ResourceVersion: "0", Limit: 1}, want: "n-1/c n/a n/b", revision: third},
			{o: metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: notOlder, Limit: 1}, want: "n-1/c n/a n/b", revision: third},
			{o: metav1.ListOptions{ResourceVersion: rv(first)}, want: "n-1/c n/a n/b", revision: third},
			{o: metav1.ListOptions{ResourceVersion: rv(first), Limit: 5}, want: "n/a", revision: first},
			{o: metav1.ListOptions{ResourceVersion: rv(second), ResourceVersionMatch: exact}, want: "n/a n/b", revision: second},
			{o: metav1.ListOptions{ResourceVersion: rv(second), ResourceVersionMatch: exact, Limit: 1}, want: "n/a", revision: second, more: true},
			{o: metav1.ListOptions{ResourceVersion: rv(second), ResourceVersionMatch: notOlder, Limit: 1}, want: "n-1/c", revision: third, more: true},
			{o: metav1.ListOptions{ResourceVersion: "9999"}, code: 504, message: fmt.Sprintf("Timeout: Too large resource version: 9999, current: %d", third)},
			{o: metav1.ListOptions{ResourceVersion: "9999", ResourceVersionMatch: exact}, code: 504, message: "Too large resource version"},
			{o: metav1.ListOptions{ResourceVersion: "x"}, code: 400, message: `invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint`},
			{o: metav1.ListOptions{Continue: "x"}, code: 400, message: "invalid continue token: continue key is not valid"},
			{o: metav1.ListOptions{Continue: encodeContinue(third, "../x")}, code: 400, message: "continue key is not valid: ../x"},
			{o: metav1.ListOptions{Continue: encodeContinue(third, "n/b"), ResourceVersion: "5"}, code: 400, message: "specifying resource version is not allowed when using continue"},
			{o: metav1.ListOptions{Continue: encodeContinue(third, "n/b")}, want: "n/b", revision: third},
			{o: metav1.ListOptions{Continue: encodeContinue(-1, "n/b")}, want: "n/b", revision: third},
		} {
			l, err := s.listOf("", c.o)
			if c.code != 0 {
				var status apierrors.APIStatus
				if !errors.As(err, &status) || status.Status().Code != c.code || !strings.Contains(err.Error(), c.message) {
					t.Errorf("%+v: got %v, want %d %s", c.o, err, c.code, c.message)
				}
				continue
			}
			if err != nil {
				t.Errorf("%+v: %v", c.o, err)
				continue
			}
			if names(l) != c.want || l.Revision != c.revision || (l.Continue != "") != c.more {
				t.Errorf("%+v: got %q at %d, continue %q; want %q at %d", c.o, names(l), l.Revision, l.Continue, c.want, c.revision)
			}
		}
	})
}

func TestSelectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		s.write(t, labelled("n", "a", "app", "web"), 0)
		s.write(t, labelled("n", "b", "app", "db"), 0)
		s.write(t, labelled("m", "a", "app", "web", "tier", "x"), 0)
		s.write(t, labelled("m", "c"), 0)
		for _, c := range []struct{ namespace, labels, fields, want string }{
			{"", "app=web", "", "m/a n/a"},
			{"n", "app=web", "", "n/a"},
			{"", "app!=web", "", "m/c n/b"},
			{"", "app in (web,db),!tier", "", "n/a n/b"},
			{"", "", "metadata.name=a", "m/a n/a"},
			{"", "", "metadata.name=a,metadata.namespace=m", "m/a"},
			{"", "", "metadata.namespace=n", "n/a n/b"},
			{"n", "", "metadata.namespace=m", ""},
			{"", "", "metadata.name!=a", "m/c n/b"},
			{"n", "", "metadata.name=a", "n/a"},
			{"n", "app=db", "metadata.name=a", ""},
		} {
			l, err := s.listOf(c.namespace, metav1.ListOptions{LabelSelector: c.labels, FieldSelector: c.fields})
			if err != nil || names(l) != c.want {
				t.Errorf("%+v: got %q, %v", c, names(l), err)
			}
		}
		l, err := s.listOf("", metav1.ListOptions{LabelSelector: "app", Limit: 1})
		if err != nil || l.Continue == "" || l.Remaining != nil {
			t.Errorf("with a selector the number of remaining items is not known: %+v, %v", l, err)
		}
		l, _ = s.listOf("", metav1.ListOptions{Limit: 1})
		if l.Remaining == nil || *l.Remaining != 3 {
			t.Errorf("remaining %v, want 3", l.Remaining)
		}
	})
}

// A list that is read in parts shows one state, whatever is written meanwhile,
// from the history or from the store; once the store has forgotten it, the
// client is told, and may go on with what is.
func TestContinueIsConsistent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newReading(t, rapid.SampledFrom([]int64{1, 4000, 0}).Draw(rt, "history"))
		defer s.end()
		namespaces := []string{"n", "n-1", "n0"}
		name := rapid.StringMatching("[a-d][0-9]?")
		now := map[string]bool{}
		change := func() {
			cm := labelled(rapid.SampledFrom(namespaces).Draw(rt, "namespace"), name.Draw(rt, "name"))
			key := cm.Namespace + "/" + cm.Name
			if now[key] && rapid.Bool().Draw(rt, "delete") {
				e, err := s.currentStored(s.ctx, configMaps, cm.Namespace, cm.Name)
				if err != nil {
					rt.Fatal(err)
				}
				if _, err := s.remove(s.ctx, configMaps, e, store.Condition{Revision: e.Revision()}); err != nil {
					rt.Fatal(err)
				}
				delete(now, key)
				return
			}
			cm.Data = map[string]string{"k": rapid.String().Draw(rt, "data")}
			s.write(rt, cm, store.Any)
			now[key] = true
		}
		for range rapid.IntRange(1, 20).Draw(rt, "objects") {
			change()
		}
		namespace := rapid.SampledFrom([]string{"", "n", "n-1"}).Draw(rt, "of")
		var want []string
		for key := range now {
			if namespace == "" || strings.HasPrefix(key, namespace+"/") {
				want = append(want, key)
			}
		}
		slices.Sort(want) // as the store orders keys
		o := metav1.ListOptions{Limit: int64(rapid.IntRange(1, 4).Draw(rt, "limit"))}
		var got []string
		var revision int64
		compacted := false
		for {
			l, err := s.listOf(namespace, o)
			if compacted && apierrors.IsResourceExpired(err) {
				status := err.(apierrors.APIStatus).Status()
				rest, err := s.listOf(namespace, metav1.ListOptions{Continue: status.ListMeta.Continue})
				if err != nil {
					rt.Fatalf("going on inconsistently: %v", err)
				}
				for _, e := range rest.Entries {
					if len(got) > 0 && e.Namespace()+"/"+e.Name() <= got[len(got)-1] {
						rt.Fatalf("the rest begins with %s, after %s", e, got[len(got)-1])
					}
				}
				return
			}
			if err != nil {
				rt.Fatal(err)
			}
			if revision == 0 {
				revision = l.Revision
			}
			if l.Revision != revision {
				rt.Fatalf("parts are of revisions %d and %d", revision, l.Revision)
			}
			for _, e := range l.Entries {
				got = append(got, e.Namespace()+"/"+e.Name())
			}
			if l.Remaining != nil && len(got)+int(*l.Remaining) != len(want) {
				rt.Fatalf("%d are read and %d remain, of %d", len(got), *l.Remaining, len(want))
			}
			if o.Continue = l.Continue; o.Continue == "" {
				break
			}
			change()
			if rapid.IntRange(0, 9).Draw(rt, "compact") == 0 {
				newest, _ := s.store.Revision(s.ctx)
				if err := s.cache.WaitFor(s.ctx, newest); err != nil {
					rt.Fatal(err)
				}
				if err := s.store.Compact(s.ctx, newest); err != nil {
					rt.Fatal(err)
				}
				compacted = true
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("the parts are %v, want %v", got, want)
		}
	})
}

// A token ends when the store has forgotten its revision, also where the cache
// could still serve it; the client may go on with the rest of the newest state.
func TestContinueEndsWithItsRevision(t *testing.T) {
	s := newReading(t, 0)
	defer s.end()
	for i := range 10 {
		s.write(t, labelled("n", fmt.Sprintf("m%d", i)), 0)
	}
	first, err := s.listOf("n", metav1.ListOptions{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	later := s.write(t, labelled("other", "x"), 0).Revision()
	if _, err := s.listOf("n", metav1.ListOptions{Limit: 3, Continue: first.Continue}); err != nil {
		t.Fatalf("a token of a revision that is known: %v", err)
	}
	if err := s.store.Compact(s.ctx, later); err != nil {
		t.Fatal(err)
	}
	_, err = s.listOf("n", metav1.ListOptions{Limit: 3, Continue: first.Continue})
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsResourceExpired(err) || status.Status().ListMeta.Continue == "" {
		t.Fatalf("a token of a revision that is forgotten: %v", err)
	}
	seen, o := 3, metav1.ListOptions{Limit: 3, Continue: status.Status().ListMeta.Continue}
	for o.Continue != "" {
		l, err := s.listOf("n", o)
		if err != nil || l.Revision != later || l.Entries[0].Name() != fmt.Sprintf("m%d", seen) {
			t.Fatalf("the rest after %d: %v %v", seen, l, err)
		}
		seen += l.Len()
		if l.Remaining != nil && int(*l.Remaining)+seen != 10 {
			t.Errorf("after %d of 10, %d are said to be left", seen, *l.Remaining)
		}
		o.Continue = l.Continue
	}
	if seen != 10 {
		t.Errorf("%d of 10 were listed", seen)
	}
}

func (s *reading) watchOf(t fatal, namespace string, o metav1.ListOptions) *Watch {
	t.Helper()
	result, err := s.Server.watch(s.ctx, &Request{Verb: "watch", Resource: configMaps, Namespace: namespace, ListOptions: o})
	if err != nil {
		t.Fatal(err)
	}
	return result.Watch
}

// A watch from any revision in the window, with any selector, leads from the
// list at that revision to the list at the bookmark: in order, without gap or
// duplicate, objects entering and leaving the selection.
func TestWatchLeadsFromListToList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newReading(t, 0)
		defer s.end()
		apps := rapid.SampledFrom([]string{"web", "db"})
		writes := func(n int) {
			for range n {
				cm := labelled(rapid.SampledFrom([]string{"n", "m"}).Draw(rt, "namespace"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name"), "app", apps.Draw(rt, "app"))
				if rapid.IntRange(0, 2).Draw(rt, "delete") == 0 {
					if e, err := s.currentStored(s.ctx, configMaps, cm.Namespace, cm.Name); err == nil {
						if _, err := s.remove(s.ctx, configMaps, e, store.Condition{Revision: e.Revision()}); err != nil {
							rt.Fatal(err)
						}
					}
					continue
				}
				s.write(rt, cm, store.Any)
			}
		}
		start := s.write(rt, labelled("n", "a", "app", "web"), 0).Revision()
		writes(rapid.IntRange(0, 30).Draw(rt, "writes before"))
		if err := s.fresh(s.ctx); err != nil {
			rt.Fatal(err)
		}
		from := rapid.Int64Range(start, s.cache.Revision()).Draw(rt, "from")
		namespace := rapid.SampledFrom([]string{"", "n"}).Draw(rt, "namespace")
		label := rapid.SampledFrom([]string{"", "app=web"}).Draw(rt, "labels")
		field := rapid.SampledFrom([]string{"", "metadata.name=a", "metadata.name!=a"}).Draw(rt, "fields")

		seen := map[string]int64{}
		l, err := s.listOf(namespace, metav1.ListOptions{ResourceVersion: rv(from), ResourceVersionMatch: metav1.ResourceVersionMatchExact, LabelSelector: label, FieldSelector: field})
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range l.Entries {
			seen[e.Key()] = e.Revision()
		}
		w := s.watchOf(rt, namespace, metav1.ListOptions{ResourceVersion: rv(from), LabelSelector: label, FieldSelector: field})
		defer w.Close()
		writes(rapid.IntRange(0, 30).Draw(rt, "writes after"))
		// The last write is one that every selection sees.
		last := s.write(rt, labelled("n", "a", "app", "web"), store.Any)
		gone, err := s.remove(s.ctx, configMaps, last, store.Condition{Revision: last.Revision()})
		if err != nil {
			rt.Fatal(err)
		}
		all := strings.HasSuffix(field, "!=a") // which does not see that one
		if all {
			gone = s.write(rt, labelled("n", "z", "app", "web"), store.Any)
		}
		for revision := from; revision < gone.Revision(); {
			events, err := w.Next(s.ctx)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range events {
				if e.Entry == nil || e.Entry.Revision() <= revision {
					rt.Fatalf("after revision %d came %s of %v", revision, e.Type, e.Entry)
				}
				revision = e.Entry.Revision()
				_, known := seen[e.Entry.Key()]
				if known != (e.Type != watch.Added) {
					rt.Fatalf("%s of %s, which was known: %v", e.Type, e.Entry, known)
				}
				if seen[e.Entry.Key()] = revision; e.Type == watch.Deleted {
					delete(seen, e.Entry.Key())
				}
				if got := e.Entry.Object().GetResourceVersion(); got != rv(revision) {
					rt.Fatalf("the object at %d says resourceVersion %s", revision, got)
				}
			}
		}
		l, err = s.listOf(namespace, metav1.ListOptions{LabelSelector: label, FieldSelector: field})
		if err != nil {
			rt.Fatal(err)
		}
		want := map[string]int64{}
		for _, e := range l.Entries {
			want[e.Key()] = e.Revision()
		}
		if !maps.Equal(seen, want) {
			rt.Fatalf("the watch led to %v, the list says %v", seen, want)
		}
	})
}

func next(t *testing.T, s *reading, w *Watch) string {
	t.Helper()
	events, err := w.Next(s.ctx)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, e := range events {
		switch {
		case e.Status != nil:
			out = append(out, fmt.Sprintf("ERROR %d %s %s", e.Status.Code, e.Status.Reason, e.Status.Message))
		case e.Entry == nil:
			out = append(out, fmt.Sprintf("BOOKMARK %d %v", e.Revision, e.Initial))
		default:
			out = append(out, fmt.Sprintf("%s %s %d", e.Type, e.Entry.Name(), e.Entry.Revision()))
		}
	}
	return strings.Join(out, ", ")
}

func TestWatchBeginnings(t *testing.T) {
	yes, no, notOlder := true, false, metav1.ResourceVersionMatchNotOlderThan
	const both, marked, onlyB, nothing = "ADDED a 2, ADDED b 3", "ADDED a 2, ADDED b 3, BOOKMARK 3 true", "ADDED b 3", ""
	for _, c := range []struct {
		o    metav1.ListOptions
		want string // before anything else happens
	}{
		{metav1.ListOptions{}, both},
		{metav1.ListOptions{ResourceVersion: "0"}, both},
		{metav1.ListOptions{ResourceVersion: "0", AllowWatchBookmarks: true}, marked},
		{metav1.ListOptions{ResourceVersion: "2", SendInitialEvents: &yes, ResourceVersionMatch: notOlder, AllowWatchBookmarks: true}, marked},
		{metav1.ListOptions{SendInitialEvents: &no, ResourceVersionMatch: notOlder}, nothing},
		{metav1.ListOptions{ResourceVersion: "1"}, both},
		{metav1.ListOptions{ResourceVersion: "2"}, onlyB},
		{metav1.ListOptions{ResourceVersion: "3"}, nothing},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newReading(t, 0)
			defer s.end()
			s.write(t, labelled("n", "a"), 0)
			s.write(t, labelled("n", "b"), 0)
			if err := s.fresh(s.ctx); err != nil { // resourceVersion 0 is content with less
				t.Fatal(err)
			}
			w := s.watchOf(t, "", c.o)
			defer w.Close()
			if c.want != "" {
				if got := next(t, s, w); got != c.want {
					t.Errorf("%+v: %s, want %s", c.o, got, c.want)
				}
			}
			e := s.write(t, labelled("n", "c"), 0)
			if got := next(t, s, w); got != "ADDED c 4" {
				t.Errorf("%+v: then %s", c.o, got)
			}
			if _, err := s.remove(s.ctx, configMaps, e, store.Condition{Revision: store.Any}); err != nil {
				t.Fatal(err)
			}
			if got := next(t, s, w); got != "DELETED c 5" {
				t.Errorf("%+v: then %s", c.o, got)
			}
		})
	}
}

func TestWatchOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		yes := true
		if _, err := s.Server.watch(s.ctx, &Request{Resource: configMaps, ListOptions: metav1.ListOptions{
			ResourceVersion: "99999", SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}}); !apierrors.IsTimeout(err) {
			t.Errorf("initial events of the future: %v", err)
		}
		w := s.watchOf(t, "", metav1.ListOptions{ResourceVersion: "3"})
		defer w.Close()
		for _, name := range []string{"a", "b", "c"} {
			s.write(t, labelled("n", name), 0)
		}
		if got := next(t, s, w); got != "ADDED c 4" {
			t.Errorf("after revision 3 came %s", got)
		}
	})
}

func TestWatchBookmarksAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		revision := s.write(t, labelled("n", "a"), 0).Revision()
		seconds := int64(90)
		w := s.watchOf(t, "", metav1.ListOptions{ResourceVersion: rv(revision), AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
		defer w.Close()
		// Somebody writes what this watch is not of: the bookmark shows it.
		if _, err := s.store.Put(s.ctx, "/registry/secrets/n/x", []byte("k8s\x00"), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if got, want := next(t, s, w), fmt.Sprintf("BOOKMARK %d false", revision+1); got != want {
			t.Errorf("after %v: %s, want %s", time.Since(began), got, want)
		}
		if time.Since(began) != time.Minute {
			t.Errorf("the bookmark came after %v", time.Since(began))
		}
		e := s.write(t, labelled("n", "b"), 0)
		if got, want := next(t, s, w), fmt.Sprintf("ADDED b %d", e.Revision()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if got, want := next(t, s, w), fmt.Sprintf("BOOKMARK %d false", e.Revision()); got != want {
			t.Errorf("at the end: %s, want %s", got, want)
		}
		if time.Since(began) != 90*time.Second {
			t.Errorf("the end came after %v", time.Since(began))
		}
		if got := next(t, s, w); got != io.EOF.Error() {
			t.Errorf("after the end: %s", got)
		}
	})
}

func TestWatchTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 2000)
		defer s.end()
		e := s.write(t, labelled("n", "a"), 0)
		slow := s.watchOf(t, "", metav1.ListOptions{ResourceVersion: rv(e.Revision())})
		defer slow.Close()
		for i := range 1000 {
			cm := labelled("n", "a")
			cm.Data = map[string]string{"k": fmt.Sprint(i)}
			s.write(t, cm, store.Any)
		}
		if err := s.fresh(s.ctx); err != nil {
			t.Fatal(err)
		}
		w := s.watchOf(t, "", metav1.ListOptions{ResourceVersion: rv(e.Revision())})
		defer w.Close()
		if got := next(t, s, w); !strings.HasPrefix(got, fmt.Sprintf("ERROR 410 Expired too old resource version: %d (", e.Revision())) {
			t.Errorf("a watch from too long ago: %s", got)
		}
		if got := next(t, s, w); got != io.EOF.Error() {
			t.Errorf("then %s", got)
		}
		// The slow one gets what was kept for it, and is then told.
		revision, expired := e.Revision(), false
		for !expired {
			events, err := slow.Next(s.ctx)
			if err != nil {
				t.Fatalf("after revision %d: %v", revision, err)
			}
			for _, event := range events {
				if expired = event.Status != nil && event.Status.Code == http.StatusGone; expired {
					continue
				}
				if event.Entry.Revision() != revision+1 {
					t.Fatalf("after revision %d came %v", revision, event)
				}
				revision = event.Entry.Revision()
			}
		}
	})
}

func TestStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		a := s.write(t, labelled("n", "a"), 0)
		if _, err := s.put(s.ctx, configMaps, labelled("n", "a"), store.Condition{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("creating it again: %v", err)
		}
		if same, err := s.put(s.ctx, configMaps, labelled("n", "a"), store.Condition{Revision: a.Revision()}); err != nil || same != a {
			t.Errorf("writing the same: %v, %v", same, err)
		}
		b, err := s.put(s.ctx, configMaps, labelled("n", "a", "k", "v"), store.Condition{Revision: a.Revision()})
		if err != nil || b.Revision() <= a.Revision() {
			t.Fatalf("writing something else: %v, %v", b, err)
		}
		_, err = s.put(s.ctx, configMaps, labelled("n", "a", "k", "w"), store.Condition{Revision: a.Revision()})
		if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`) {
			t.Errorf("writing over an old state: %v", err)
		}
		if _, err := s.put(s.ctx, configMaps, labelled("n", "c"), store.Condition{Fence: store.Fence{Key: a.Key(), Revision: a.Revision()}}); !apierrors.IsConflict(err) {
			t.Errorf("writing in an epoch that is over: %v", err)
		}
		gone, err := s.remove(s.ctx, configMaps, b, store.Condition{Revision: b.Revision()})
		if err != nil || gone.Object().GetResourceVersion() != rv(gone.Revision()) || gone.Revision() <= b.Revision() {
			t.Errorf("removing: %v, %v", gone, err)
		}
		if _, err := s.remove(s.ctx, configMaps, b, store.Condition{Revision: store.Any}); !apierrors.IsNotFound(err) {
			t.Errorf("removing again: %v", err)
		}
		for _, read := range []func(context.Context, *api.Resource, string, string) (*cache.Entry, error){s.current, s.currentStored} {
			if e, err := read(s.ctx, configMaps, "n", "nothing"); !apierrors.IsNotFound(err) {
				t.Errorf("reading nothing: %v, %v", e, err)
			}
		}
		large := labelled("n", "large")
		large.Data = map[string]string{"k": strings.Repeat("x", 2<<20)}
		if _, err := s.put(s.ctx, configMaps, large, store.Condition{}); !apierrors.IsRequestEntityTooLargeError(err) {
			t.Errorf("writing 2 MiB: %v", err)
		}
	})
}
