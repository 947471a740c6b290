package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What has a time to live ends by itself, and nothing else does.
func testTTL(t *testing.T, s Store, atMost time.Duration) {
	const ttl = time.Second
	w := s.Watch(t.Context(), "/", 0)
	start := time.Now()
	short := func(key string) {
		_, err := s.Put(t.Context(), key, []byte("1"), Condition{Revision: Any, TTL: ttl})
		check(t, err)
	}
	for _, key := range []string{"/a", "/b", "/kept", "/longer", "/deleted", "/again"} {
		short(key)
	}
	put(t, s, "/kept", "2") // without a time to live it has none any more
	_, err := s.Put(t.Context(), "/longer", []byte("2"), Condition{Revision: Any, TTL: time.Hour})
	check(t, err)
	del(t, s, "/deleted")
	del(t, s, "/again")
	short("/again")
	last, err := s.Revision(t.Context())
	check(t, err)
	read(t, w, 11, last)

	events := read(t, w, 3, last+3)
	if took := time.Since(start); took < ttl || took > atMost {
		t.Fatalf("keys with %v to live lived for %v", ttl, took)
	}
	var gone []string
	for i, e := range events {
		equal(t, "a revision", e.Revision, last+1+int64(i)) // of its own
		if e.Value != nil || string(e.Previous) != "1" {
			t.Fatalf("%s is not the end of a key", brief(events[i:i+1]))
		}
		gone = append(gone, e.Key)
	}
	slices.Sort(gone)
	equal(t, "what ended", fmt.Sprint(gone), "[/a /again /b]")
	p, err := s.List(t.Context(), "/", "", 0, 0)
	check(t, err)
	equal(t, "what is left", keysOf(p.Entries), "/kept /longer")
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := OpenMemory(MemoryConfig{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			testTTL(t, m, time.Second) // to the nanosecond
			idle := m.Watch(ctx, "/", 0)
			time.Sleep(time.Hour)
			_, err := m.Get(ctx, "/longer")
			wantErr(t, err, ErrNotFound)
			_, err = m.Put(ctx, "/z", nil, Condition{TTL: time.Hour})
			check(t, err)
			check(t, m.Close()) // with a timer and a watch that wait
			for range idle.C {
			}
			wantErr(t, idle.Err(), ErrClosed)
		})
	})
	// These wait two seconds, of a real clock.
	var group sync.WaitGroup
	defer group.Wait()
	run := func(name string, test func(*testing.T)) { group.Go(func() { t.Run(name, test) }) }
	run("embedded", func(t *testing.T) { testTTL(t, openEmbeddedTest(t, t.TempDir()), time.Minute) })
	run("external", func(t *testing.T) { testTTL(t, openExternalTest(t), time.Minute) })
	run("over a restart", func(t *testing.T) {
		config := EmbeddedConfig{Dir: t.TempDir(), Logger: testLogger(t)}
		s, err := OpenEmbedded(t.Context(), config)
		check(t, err)
		_, err = s.Put(t.Context(), "/a", nil, Condition{TTL: time.Second})
		check(t, err)
		check(t, s.Close())
		s = openEmbeddedTest(t, config.Dir)
		w := s.Watch(t.Context(), "/", 2)
		equal(t, "what happened", brief(read(t, w, 1, 0)), "-/a@3")
	})
}

func TestCompactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := OpenMemory(MemoryConfig{})
		defer m.Close()
		c, err := NewCompactor(CompactorConfig{Store: m})
		check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		var at [4]int64 // the revision at each interval's start
		for i := range at {
			at[i] = put(t, m, "/a", fmt.Sprint(i))
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		}
		// After the fourth interval only what is younger than the third is left.
		_, err = m.List(t.Context(), "/", "", 0, at[2]-1)
		wantErr(t, err, ErrCompacted)
		p, err := m.List(t.Context(), "/", "", 0, at[2])
		check(t, err)
		equal(t, "the value then", string(p.Entries[0].Value), "2")
		cancel()
		check(t, <-done)
	})
}
