// Package crash holds what a whole server must survive: it is killed, or its
// disk's power is cut, again and again, while clients write, read and watch over
// HTTPS; then all that they were told must be true. The package has no code but
// these tests. The server is a process, this test binary started again, that runs
// what `skiff server` runs.
package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/cluster/local"
	"skiff/store"
	"skiff/store/powercut"
)

const (
	killsEnv     = "SKIFF_CRASH_KILLS"      // how many times the server is killed
	powerCutsEnv = "SKIFF_CRASH_POWER_CUTS" // how many times the power is cut
	fireEnv      = "SKIFF_FIRE"             // how long the fire lasts: "20m"
	seedEnv      = "SKIFF_CRASH_SEED"       // of moments and operations; not set: another one each time
)

// number reads an environment variable.
func number(t *testing.T, env string, otherwise int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newBout(t *testing.T, s *server, n int) *bout {
	t.Helper()
	seed := uint64(number(t, seedEnv, int(rand.Uint32())))
	t.Logf("the seed is %d (%s)", seed, seedEnv)
	return &bout{t: t, server: s, history: newHistory(), namespace: fmt.Sprint("bout-", n), seed: seed}
}

func kill(p *process, _ *life) { p.cmd.Process.Kill() }

// "kill -9 of the server, at ten random moments under writes": every acknowledged
// write is there, revisions do not go back, watches go on without gap or duplicate.
func TestServerKilled(t *testing.T) {
	s := newServer(t, t.TempDir(), 0)
	b := newBout(t, s, 0)
	b.fight(number(t, killsEnv, 3), kill, func() {})
	b.askStore()
	b.history.judge(t)
}

// "A 2xx to a write survives power loss. After a failed fsync the process stops."
func TestServerPowerCut(t *testing.T) {
	if !powercut.Alone(t) {
		return
	}
	disk := powercut.New(t, 1<<30)
	cut := func(_ *process, l *life) {
		l.cutNow()
		disk.Cut(t)
	}
	between := func() {
		disk.Unmount(t)
		disk.Repair(t)
		disk.Mount(t)
	}
	// Five cuts in the life of a cluster, the first of them soon after its birth;
	// then the next cluster.
	for cuts, n := number(t, powerCutsEnv, 2), 0; cuts > 0; n++ {
		disk.Mount(t)
		s := newServer(t, filepath.Join(disk.Dir, fmt.Sprint("cluster-", n)), 0)
		b := newBout(t, s, n)
		lives := min(cuts, 5)
		b.fight(lives, cut, between)
		b.askStore()
		b.history.judge(t)
		cuts -= lives
		disk.Unmount(t)
	}
}

// Consistency under fire: compaction at every moment, watches from random
// revisions, and kills.
func TestConsistencyUnderFire(t *testing.T) {
	lasts := 2 * time.Second
	if text := os.Getenv(fireEnv); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	dir, end := t.TempDir(), time.Now().Add(lasts)
	s := newServer(t, dir, 200*time.Millisecond)
	for n := 0; n == 0 || time.Now().Before(end); n++ {
		s.again()
		b := newBout(t, s, n)
		b.fight(2, kill, func() {})
		b.history.judge(t)
		if t.Failed() {
			return
		}
	}
}

// askStore adds to the history what the store itself has recorded of it.
func (b *bout) askStore() {
	s, err := store.OpenEmbedded(b.t.Context(), store.EmbeddedConfig{Dir: local.Dirs(b.server.dir).Store()})
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	newest, err := s.Revision(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	told := stretch{who: "the store", from: 1, to: newest, base: map[string]change{}}
	prefix := "/registry/configmaps/" + b.namespace + "/"
	w := s.Watch(ctx, "/", 0) // of all: then the newest revision comes as an event
	for at := int64(0); at < newest; {
		batch, ok := <-w.C
		if !ok {
			b.t.Fatal(w.Err())
		}
		for _, e := range batch.Events {
			if !strings.HasPrefix(e.Key, prefix) {
				continue
			}
			told.changes = append(told.changes, b.recorded(e, strings.TrimPrefix(e.Key, prefix)))
		}
		at = batch.Revision
	}
	b.history.told(told, false)
}

func (b *bout) recorded(e store.Event, name string) change {
	c := change{revision: e.Revision, key: name, kind: "MODIFIED"}
	switch {
	case e.Value == nil:
		c.kind = "DELETED"
		return c
	case e.Created == e.Revision:
		c.kind = "ADDED"
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(e.Value, nil, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	c.value = obj.(*corev1.ConfigMap).Data["value"]
	return c
}
