package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		os.Exit(crashWriter(dir))
	}
	if dir := os.Getenv(idleDirEnv); dir != "" {
		os.Exit(idle(dir))
	}
	// etcd keeps the connections open over which its members asked each other for
	// hashes at the start. Nothing else here is net/http.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"))
}

// patience bounds every wait in these tests: reaching it is a failure.
const patience = 20 * time.Second

// TestStore runs one suite on every kind of store.
func TestStore(t *testing.T) {
	kinds := []struct {
		name string
		open func(testing.TB) Store
	}{
		{"memory", func(t testing.TB) Store { return openMemory(t) }},
		{"embedded", func(t testing.TB) Store { return openEmbeddedTest(t, t.TempDir()) }},
		{"external", func(t testing.TB) Store { return openExternalTest(t) }},
	}
	t.Parallel()
	var group sync.WaitGroup
	defer group.Wait()
	for _, kind := range kinds {
		group.Go(func() { // not t.Parallel, of which there may be few: they wait for the disk mostly
			t.Run(kind.name, func(t *testing.T) {
				for _, test := range suite {
					t.Run(test.name, func(t *testing.T) { test.run(t, kind.open(t)) })
				}
			})
		})
	}
}

var suite = []struct {
	name string
	run  func(*testing.T, Store)
}{
	{"an empty store", testEmpty},
	{"create, read, update, delete", testCRUD},
	{"conditions", testConditions},
	{"fences", testFences},
	{"keys and values of any bytes", testBytes},
	{"a value too large", testTooLarge},
	{"a context that is over", testContextOver},
	{"list by prefix", testList},
	{"pages of one revision", testPages},
	{"list at a revision", testListAt},
	{"compaction", testCompaction},
	{"watch from the past and on", testWatch},
	{"watch resumes anywhere", testWatchResume},
	{"watch gives previous values", testWatchPrevious},
	{"watch from the future", testWatchFuture},
	{"watch of what is compacted", testWatchCompacted},
	{"watch learns what is not under its prefix", testWatchProgress},
	{"watch that is not read", testWatchSlow},
	{"watch that compaction overtakes", testWatchOvertaken},
	{"watch of large values", testWatchLarge},
	{"watch ends with its context", testWatchCancel},
	{"close ends everything", testClose},
	{"a revision for each write", testRevisions},
	{"compare and swap under contention", testContention},
	{"writes are linearizable", testLinearizable},
	{"random operations against a model", testModel},
}

func openMemory(t testing.TB) *Memory {
	m := OpenMemory(MemoryConfig{})
	t.Cleanup(func() { check(t, m.Close()) })
	return m
}

func openEmbeddedTest(t testing.TB, dir string) *Etcd {
	e, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: dir, Logger: testLogger(t)})
	check(t, err)
	t.Cleanup(func() { check(t, e.Close()) })
	return e
}

func openExternalTest(t testing.TB) *Etcd {
	socket := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
	server, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: t.TempDir(), ClientURLs: []string{socket}, Logger: testLogger(t)})
	check(t, err)
	t.Cleanup(func() { check(t, server.Close()) })
	e, err := OpenExternal(t.Context(), ExternalConfig{Endpoints: []string{socket}, Logger: testLogger(t)})
	check(t, err)
	t.Cleanup(func() { check(t, e.Close()) })
	return e
}

// testLogger shows what etcd finds wrong.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("test", t.Name())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v; want %v", err, want)
	}
}

func put(t testing.TB, s Store, key, value string) int64 {
	t.Helper()
	r, err := s.Put(t.Context(), key, []byte(value), Condition{Revision: Any})
	check(t, err)
	return r
}

func del(t testing.TB, s Store, key string) int64 {
	t.Helper()
	r, err := s.Delete(t.Context(), key, Condition{Revision: Any})
	check(t, err)
	return r
}

// read takes batches from w until it has n events or has reached revision, and
// checks what holds for every watch.
func read(t testing.TB, w *Watcher, n int, revision int64) []Event {
	t.Helper()
	var events []Event
	last := int64(0)
	timeout := time.After(patience)
	for len(events) < n || last < revision {
		select {
		case b, ok := <-w.C:
			if !ok {
				t.Fatalf("the watch ended after %d of %d events: %v", len(events), n, w.Err())
			}
			for _, e := range b.Events {
				if e.Revision <= last {
					t.Fatalf("revision %d came after %d", e.Revision, last)
				}
				last = e.Revision
			}
			if b.Revision < last {
				t.Fatalf("a batch with revision %d has an event of %d", b.Revision, last)
			}
			last = b.Revision
			events = append(events, b.Events...)
		case <-timeout:
			t.Fatalf("the watch gave %d of %d events, up to revision %d of %d", len(events), n, last, revision)
		}
	}
	return events
}

// brief writes events as "key=value@revision" and "-key@revision".
func brief(events []Event) string {
	var s []string
	for _, e := range events {
		if e.Value == nil {
			s = append(s, fmt.Sprintf("-%s@%d", e.Key, e.Revision))
		} else {
			s = append(s, fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Revision))
		}
	}
	return strings.Join(s, " ")
}

func keysOf(entries []Entry) string {
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return strings.Join(keys, " ")
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is\n  %v\nwant\n  %v", what, got, want)
	}
}

func testEmpty(t *testing.T, s Store) {
	r, err := s.Revision(t.Context())
	check(t, err)
	equal(t, "the revision of an empty store", r, 1)
	_, err = s.Get(t.Context(), "/a")
	wantErr(t, err, ErrNotFound)
	p, err := s.List(t.Context(), "/", "", 0, 0)
	check(t, err)
	equal(t, "the page's revision", p.Revision, 1)
	equal(t, "the number of entries", len(p.Entries), 0)
	equal(t, "the first write's revision", put(t, s, "/a", "1"), 2)
}

func testCRUD(t *testing.T, s Store) {
	created := put(t, s, "/a", "1")
	updated := put(t, s, "/a", "2")
	equal(t, "the update's revision", updated, created+1)
	e, err := s.Get(t.Context(), "/a")
	check(t, err)
	equal(t, "the entry", fmt.Sprint(e.Key, string(e.Value), e.Revision, e.Created), fmt.Sprint("/a", "2", updated, created))
	equal(t, "the deletion's revision", del(t, s, "/a"), updated+1)
	_, err = s.Get(t.Context(), "/a")
	wantErr(t, err, ErrNotFound)
	_, err = s.Delete(t.Context(), "/a", Condition{Revision: Any})
	wantErr(t, err, ErrNotFound)
	r, err := s.Revision(t.Context())
	check(t, err)
	equal(t, "the revision after a deletion of nothing", r, updated+1)
	again := put(t, s, "/a", "3")
	e, err = s.Get(t.Context(), "/a")
	check(t, err)
	equal(t, "the revision that created it again", e.Created, again)
}

func testConditions(t *testing.T, s Store) {
	at := put(t, s, "/there", "x")
	for _, c := range []struct {
		key      string
		revision int64
		put, del error
	}{
		{"/there", 0, ErrConflict, ErrConflict},
		{"/there", at + 100, ErrConflict, ErrConflict},
		{"/there", at - 1, ErrConflict, ErrConflict},
		{"/there", at, nil, nil},
		{"/there", Any, nil, nil},
		{"/not", 0, nil, ErrNotFound},
		{"/not", at, ErrConflict, ErrConflict},
		{"/not", Any, nil, ErrNotFound},
	} {
		name := fmt.Sprintf("%s at %d", c.key, c.revision)
		before, err := s.Revision(t.Context())
		check(t, err)
		r, err := s.Put(t.Context(), c.key, []byte("y"), Condition{Revision: c.revision})
		if !errors.Is(err, c.put) {
			t.Fatalf("put %s: %v; want %v", name, err, c.put)
		}
		after, err := s.Revision(t.Context())
		check(t, err)
		if c.put == nil {
			equal(t, "revision after put "+name, after, before+1)
			// As it was before, for the deletion's sake.
			switch {
			case c.key == "/not":
				_, err = s.Delete(t.Context(), c.key, Condition{Revision: r})
				check(t, err)
			case c.revision == at:
				c.revision = r
			}
		} else {
			equal(t, "revision after put "+name, after, before)
		}
		_, err = s.Delete(t.Context(), c.key, Condition{Revision: c.revision})
		if !errors.Is(err, c.del) {
			t.Fatalf("delete %s: %v; want %v", name, err, c.del)
		}
		if c.key == "/there" {
			if c.del == nil {
				at = put(t, s, "/there", "x")
			}
		}
	}
}

func testFences(t *testing.T, s Store) {
	epoch := put(t, s, "/leader", "me")
	ours := Fence{Key: "/leader", Revision: epoch}
	a, err := s.Put(t.Context(), "/a", []byte("1"), Condition{Revision: 0, Fence: ours})
	check(t, err)
	_, err = s.Put(t.Context(), "/a", []byte("2"), Condition{Revision: 0, Fence: ours})
	wantErr(t, err, ErrConflict)
	put(t, s, "/leader", "another")
	// Deposed: that comes before all else.
	for _, c := range []Condition{{Revision: a, Fence: ours}, {Revision: 0, Fence: ours}, {Revision: Any, Fence: ours}} {
		_, err = s.Put(t.Context(), "/a", []byte("2"), c)
		wantErr(t, err, ErrFenced)
		_, err = s.Delete(t.Context(), "/a", c)
		wantErr(t, err, ErrFenced)
	}
	del(t, s, "/leader")
	_, err = s.Put(t.Context(), "/a", []byte("2"), Condition{Revision: a, Fence: ours})
	wantErr(t, err, ErrFenced)
	_, err = s.Delete(t.Context(), "/a", Condition{Revision: a, Fence: Fence{Key: "/leader"}})
	check(t, err)
	_, err = s.Delete(t.Context(), "/a", Condition{Revision: Any, Fence: Fence{Key: "/leader"}})
	wantErr(t, err, ErrNotFound)
}

func testBytes(t *testing.T, s Store) {
	keys := []string{"\x00", "a", "a\x00b", "a\xff", "a\xff\xff", "b", "\xff", "\xff\xff"}
	w := s.Watch(t.Context(), "", 0)
	for i, key := range keys {
		value := []byte{0, 0xff, byte(i)}[:i%3]
		_, err := s.Put(t.Context(), key, value, Condition{})
		check(t, err)
		for j := range value {
			value[j] = 'x' // the caller's buffer is its own again
		}
		e, err := s.Get(t.Context(), key)
		check(t, err)
		if e.Value == nil || !slices.Equal(e.Value, []byte{0, 0xff, byte(i)}[:i%3]) {
			t.Fatalf("value of %q is %v", key, e.Value)
		}
	}
	slices.Sort(keys)
	for prefix, want := range map[string]int{"": 8, "a": 4, "a\xff": 2, "\xff": 2, "\xff\xff": 1, "zz": 0} {
		p, err := s.List(t.Context(), prefix, "", 0, 0)
		check(t, err)
		equal(t, fmt.Sprintf("the number of keys under %q", prefix), len(p.Entries), want)
		if prefix == "" {
			equal(t, "the order", keysOf(p.Entries), strings.Join(keys, " "))
		}
		for _, e := range p.Entries {
			if e.Value == nil {
				t.Fatalf("the value of %q is nil", e.Key)
			}
		}
	}
	for _, e := range read(t, w, len(keys), 0) {
		if e.Value == nil {
			t.Fatalf("the put of %q looks like a deletion", e.Key)
		}
	}
	if _, err := s.Put(t.Context(), "", nil, Condition{}); err == nil {
		t.Fatal("an empty key was taken")
	}
}

func testTooLarge(t *testing.T, s Store) {
	value := make([]byte, maxValue-len("/a"))
	_, err := s.Put(t.Context(), "/a", value, Condition{})
	check(t, err)
	_, err = s.Put(t.Context(), "/b", append(value, 0), Condition{})
	wantErr(t, err, ErrTooLarge)
}

func testContextOver(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Put(ctx, "/a", nil, Condition{})
	wantErr(t, err, context.Canceled)
	if errors.Is(err, ErrUnknown) {
		t.Fatal("a write that was never sent is reported as unknown")
	}
	_, err = s.Get(ctx, "/a")
	wantErr(t, err, context.Canceled)
	_, err = s.Get(t.Context(), "/a")
	wantErr(t, err, ErrNotFound)
}

func testList(t *testing.T, s Store) {
	for _, key := range []string{"/p/a", "/p/b", "/p/b/c", "/p/d", "/pq", "/o", "/p"} {
		put(t, s, key, key)
	}
	for _, c := range []struct {
		prefix, from string
		limit        int
		want         string
		total        int64
	}{
		{"/p/", "", 0, "/p/a /p/b /p/b/c /p/d", 4},
		{"/p/", "/p/", 0, "/p/a /p/b /p/b/c /p/d", 4},
		{"/p/", "/a", 0, "/p/a /p/b /p/b/c /p/d", 4},
		{"/p/", "", 2, "/p/a /p/b", 4},
		{"/p/", "/p/b", 2, "/p/b /p/b/c", 3},
		{"/p/", "/p/b\x00", 2, "/p/b/c /p/d", 2},
		{"/p/", "/p/b\x00", 1, "/p/b/c", 2},
		{"/p/", "/p/e", 0, "", 0},
		{"/p/", "/z", 0, "", 0},
		{"/p", "", 0, "/p /p/a /p/b /p/b/c /p/d /pq", 6},
		{"", "", 1, "/o", 7},
		{"/nothing/", "", 0, "", 0},
	} {
		p, err := s.List(t.Context(), c.prefix, c.from, c.limit, 0)
		check(t, err)
		name := fmt.Sprintf("list(%q, %q, %d)", c.prefix, c.from, c.limit)
		equal(t, name, keysOf(p.Entries), c.want)
		equal(t, "total of "+name, p.Total, c.total)
		equal(t, "more of "+name, p.More, p.Total > int64(len(p.Entries)))
		equal(t, "revision of "+name, p.Revision, 8)
	}
}

func testPages(t *testing.T, s Store) {
	for i := range 25 {
		put(t, s, fmt.Sprintf("/k/%02d", i), "old")
	}
	first, err := s.List(t.Context(), "/k/", "", 10, 0)
	check(t, err)
	// What happens between pages does not show in them.
	put(t, s, "/k/15", "new")
	del(t, s, "/k/20")
	put(t, s, "/k/155", "new")
	all, page := first.Entries, first
	for page.More {
		from := all[len(all)-1].Key + "\x00"
		page, err = s.List(t.Context(), "/k/", from, 10, first.Revision)
		check(t, err)
		equal(t, "the page's revision", page.Revision, first.Revision)
		equal(t, "its total", page.Total, int64(25-len(all)))
		all = append(all, page.Entries...)
	}
	equal(t, "the number of entries", len(all), 25)
	for i, e := range all {
		equal(t, "an entry", e.Key+string(e.Value), fmt.Sprintf("/k/%02dold", i))
	}
}

func testListAt(t *testing.T, s Store) {
	a := put(t, s, "/a", "1")
	b := put(t, s, "/b", "1")
	a2 := put(t, s, "/a", "2")
	gone := del(t, s, "/b")
	for at, want := range map[int64]string{1: "", a: "/a=1", b: "/a=1 /b=1", a2: "/a=2 /b=1", gone: "/a=2"} {
		p, err := s.List(t.Context(), "/", "", 0, at)
		check(t, err)
		var got []string
		for _, e := range p.Entries {
			got = append(got, e.Key+"="+string(e.Value))
		}
		equal(t, fmt.Sprintf("the list at %d", at), strings.Join(got, " "), want)
		equal(t, "its revision", p.Revision, at)
	}
	_, err := s.List(t.Context(), "/", "", 0, gone+1)
	wantErr(t, err, ErrFuture)
}

func testCompaction(t *testing.T, s Store) {
	put(t, s, "/a", "1")
	put(t, s, "/b", "1")
	gone := del(t, s, "/b")
	a2 := put(t, s, "/a", "2")
	wantErr(t, s.Compact(t.Context(), a2+1), ErrFuture)
	check(t, s.Compact(t.Context(), 0))
	check(t, s.Compact(t.Context(), gone))
	_, err := s.List(t.Context(), "/", "", 0, gone-1)
	wantErr(t, err, ErrCompacted)
	p, err := s.List(t.Context(), "/", "", 0, gone)
	check(t, err)
	equal(t, "the list at the compacted revision", keysOf(p.Entries)+string(p.Entries[0].Value), "/a1")
	check(t, s.Compact(t.Context(), gone))   // it holds already
	check(t, s.Compact(t.Context(), gone-1)) // and so does this
	check(t, s.Compact(t.Context(), a2))
	_, err = s.List(t.Context(), "/", "", 0, gone)
	wantErr(t, err, ErrCompacted)
	e, err := s.Get(t.Context(), "/a")
	check(t, err)
	equal(t, "the value after compaction", string(e.Value), "2")
	equal(t, "the next revision", put(t, s, "/b", "2"), a2+1)
}

func testWatch(t *testing.T, s Store) {
	put(t, s, "/a", "1")
	put(t, s, "/other", "1")
	w := s.Watch(t.Context(), "/a", 0)
	equal(t, "history", brief(read(t, w, 1, 0)), "/a=1@2")
	put(t, s, "/b", "1")
	put(t, s, "/a/x", "")
	del(t, s, "/a")
	put(t, s, "/a", "2")
	equal(t, "news", brief(read(t, w, 3, 0)), "/a/x=@5 -/a@6 /a=2@7")
}

func testWatchResume(t *testing.T, s Store) {
	var want []Event
	all := s.Watch(t.Context(), "/k/", 0)
	for i := range 40 {
		key := fmt.Sprintf("/k/%d", i%7)
		if i%5 == 4 {
			_, _ = s.Delete(t.Context(), key, Condition{Revision: Any})
		} else {
			put(t, s, key, fmt.Sprint(i))
		}
	}
	last, err := s.Revision(t.Context())
	check(t, err)
	want = read(t, all, 0, last)
	var watches []*Watcher
	for after := range last {
		watches = append(watches, s.Watch(t.Context(), "/k/", after))
	}
	for after, w := range watches {
		after := int64(after)
		i := slices.IndexFunc(want, func(e Event) bool { return e.Revision > after })
		if i < 0 {
			i = len(want) // the last operations found nothing to delete
		}
		equal(t, fmt.Sprintf("the watch after %d", after), brief(read(t, w, len(want)-i, last)), brief(want[i:]))
	}
}

func testWatchPrevious(t *testing.T, s Store) {
	live := s.Watch(t.Context(), "/a", 0)
	created := put(t, s, "/a", "1")
	updated := put(t, s, "/a", "")
	gone := del(t, s, "/a")
	again := put(t, s, "/a", "3")
	past := s.Watch(t.Context(), "/a", 0)
	for _, w := range []*Watcher{live, past} {
		for i, e := range read(t, w, 4, 0) {
			got := fmt.Sprintf("%d by %d: %q (nil %v) before %q (nil %v) of %d",
				e.Revision, e.Created, e.Value, e.Value == nil, e.Previous, e.Previous == nil, e.PreviousRevision)
			want := []string{
				fmt.Sprintf(`%d by %d: "1" (nil false) before "" (nil true) of 0`, created, created),
				fmt.Sprintf(`%d by %d: "" (nil false) before "1" (nil false) of %d`, updated, created, created),
				fmt.Sprintf(`%d by %d: "" (nil true) before "" (nil false) of %d`, gone, created, updated),
				fmt.Sprintf(`%d by %d: "3" (nil false) before "" (nil true) of 0`, again, again),
			}[i]
			equal(t, "an event", got, want)
		}
	}
}

func testWatchFuture(t *testing.T, s Store) {
	put(t, s, "/a", "1")
	w := s.Watch(t.Context(), "/", 5)
	for i := range 6 { // revisions 3 to 8
		put(t, s, "/a", fmt.Sprint(i))
	}
	equal(t, "what the watch gives", brief(read(t, w, 3, 0)), "/a=3@6 /a=4@7 /a=5@8")
}

func testWatchCompacted(t *testing.T, s Store) {
	running := s.Watch(t.Context(), "/", 0)
	for i := range 10 { // revisions 2 to 11
		put(t, s, "/a", fmt.Sprint(i))
	}
	read(t, running, 10, 0)
	check(t, s.Compact(t.Context(), 8))
	late := s.Watch(t.Context(), "/", 6) // needs 7
	for range late.C {
		t.Fatal("a compacted watch gave something")
	}
	wantErr(t, late.Err(), ErrCompacted)
	just := s.Watch(t.Context(), "/", 7) // needs 8
	equal(t, "the watch from the compacted revision", brief(read(t, just, 4, 0)), "/a=6@8 /a=7@9 /a=8@10 /a=9@11")
	put(t, s, "/a", "on")
	equal(t, "the running watch", brief(read(t, running, 1, 0)), "/a=on@12")
}

func testWatchProgress(t *testing.T, s Store) {
	w := s.Watch(t.Context(), "/mine/", 0)
	put(t, s, "/mine/a", "1")
	for range 3 {
		put(t, s, "/other", "1")
		r, err := s.Revision(t.Context())
		check(t, err)
		// Only an empty batch can say so.
		read(t, w, 0, r)
	}
	put(t, s, "/mine/b", "2")
	equal(t, "the next event", brief(read(t, w, 1, 0)), "/mine/b=2@6")
}

func testWatchSlow(t *testing.T, s Store) {
	w := s.Watch(t.Context(), "/", 0)
	const writers, each = 8, 250
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for j := range each {
				if _, err := s.Put(t.Context(), fmt.Sprintf("/%d", i), fmt.Append(nil, j), Condition{Revision: Any}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	events := read(t, w, writers*each, 0)
	for i, e := range events {
		equal(t, "an event's revision", e.Revision, int64(i+2))
		if i >= writers && e.Created != e.Revision && e.PreviousRevision == 0 {
			t.Fatalf("event %d has no previous value", i)
		}
	}
}

// A watch that compaction overtakes gives all that was, or a beginning of it
// without a gap and then says why it ends.
func testWatchOvertaken(t *testing.T, s Store) {
	w := s.Watch(t.Context(), "/", 0)
	const n = 3000
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range n / 8 {
				if _, err := s.Put(t.Context(), fmt.Sprint("/", i), nil, Condition{Revision: Any}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	check(t, s.Compact(t.Context(), n))
	next := int64(2)
	for next <= n+1 {
		b, ok := <-w.C
		if !ok {
			wantErr(t, w.Err(), ErrCompacted)
			t.Logf("it ended after %d of %d", next-2, n)
			return
		}
		for _, e := range b.Events {
			equal(t, "a revision", e.Revision, next)
			next++
		}
	}
}

// etcd sends what is larger than a message in fragments.
func testWatchLarge(t *testing.T, s Store) {
	value := bytes.Repeat([]byte("v"), 1<<20)
	for i := range 8 {
		_, err := s.Put(t.Context(), fmt.Sprint("/", i%2), value[i:], Condition{Revision: Any})
		check(t, err)
	}
	for i, e := range read(t, s.Watch(t.Context(), "/", 0), 8, 0) {
		equal(t, "an event", fmt.Sprint(e.Key, len(e.Value), e.Revision), fmt.Sprint(fmt.Sprint("/", i%2), len(value)-i, i+2))
		if i >= 2 {
			equal(t, "the size of what was before", len(e.Previous), len(value)-i+2)
		}
	}
}

func testWatchCancel(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	idle, blocked := s.Watch(ctx, "/idle", 0), s.Watch(ctx, "/", 0)
	put(t, s, "/a", "1")
	put(t, s, "/a", "2")
	cancel()
	for _, w := range []*Watcher{idle, blocked} {
		for range w.C {
		}
		wantErr(t, w.Err(), context.Canceled)
	}
	over := s.Watch(ctx, "/", 0)
	for range over.C {
	}
	wantErr(t, over.Err(), context.Canceled)
}

func testClose(t *testing.T, s Store) {
	put(t, s, "/a", "1")
	var watchers []*Watcher
	for range 5 {
		watchers = append(watchers, s.Watch(t.Context(), "/", 0), s.Watch(t.Context(), "/", 1000))
	}
	// Calls that are under way either happen, or say that they did not, or that
	// it is not known.
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for {
				_, err := s.Put(t.Context(), fmt.Sprint("/", i), nil, Condition{Revision: Any})
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil && !errors.Is(err, ErrUnknown) {
					t.Error(err)
					return
				}
			}
		})
	}
	read(t, watchers[0], 20, 0)
	check(t, s.Close())
	group.Wait()
	for _, w := range watchers {
		for range w.C {
		}
		wantErr(t, w.Err(), ErrClosed)
	}
	_, err := s.Get(t.Context(), "/a")
	wantErr(t, err, ErrClosed)
	w := s.Watch(t.Context(), "/", 0)
	_, open := <-w.C
	equal(t, "a closed store's watch is open", open, false)
	wantErr(t, w.Err(), ErrClosed)
	check(t, s.Close())
}

// "One object per revision, always."
func testRevisions(t *testing.T, s Store) {
	w := s.Watch(t.Context(), "/", 0)
	const writers, each = 16, 40
	var mu sync.Mutex
	acked := map[int64]string{}
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			last := int64(0)
			for j := range each {
				key := fmt.Sprintf("/%d/%d", i, j)
				r, err := s.Put(t.Context(), key, []byte(key), Condition{Revision: 0})
				if err != nil || r <= last {
					t.Errorf("put %s: revision %d after %d: %v", key, r, last, err)
					return
				}
				last = r
				if now, err := s.Revision(t.Context()); err != nil || now < r {
					t.Errorf("the revision is %d after a write at %d was acknowledged: %v", now, r, err)
				}
				mu.Lock()
				acked[r] = key
				mu.Unlock()
			}
		})
	}
	group.Wait()
	equal(t, "the number of revisions", len(acked), writers*each)
	for i, e := range read(t, w, writers*each, 0) {
		equal(t, "an event's revision", e.Revision, int64(i+2))
		equal(t, "its key", e.Key, acked[e.Revision])
	}
}

func testContention(t *testing.T, s Store) {
	put(t, s, "/n", "0")
	const workers, each = 8, 25
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for done := 0; done < each; {
				e, err := s.Get(t.Context(), "/n")
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				fmt.Sscan(string(e.Value), &n)
				_, err = s.Put(t.Context(), "/n", fmt.Append(nil, n+1), Condition{Revision: e.Revision})
				if err == nil {
					done++
				} else if !errors.Is(err, ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	e, err := s.Get(t.Context(), "/n")
	check(t, err)
	equal(t, "the sum", string(e.Value), fmt.Sprint(workers*each))
}
