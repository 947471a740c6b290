package node

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"skiff/node/pod"
)

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	j, err := openJournal(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	j.Put("a", pod.Record{Name: "a", StartTime: start, Containers: map[string]pod.ContainerRecord{"c": {Backoff: pod.Backoff{Span: 40 * time.Second, Last: start}}}})
	j.Put("b", pod.Record{Name: "b"})
	j.Put("b", pod.Record{Name: "b2"})
	j.Put("c", pod.Record{Name: "c"})
	j.Delete("c")
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(dir, log); err != nil {
		t.Fatal(err)
	}
	got, err := j.Load()
	if err != nil || len(got) != 2 || got["b"].Name != "b2" || !got["a"].StartTime.Equal(start) || got["a"].Containers["c"].Backoff.Span != 40*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	// What a power cut has damaged is put aside, and the agent starts.
	if err := os.WriteFile(filepath.Join(dir, "pods.db"), []byte("this is no database, and long enough to be looked at as one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(dir, log); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if got, err := j.Load(); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pods.db.damaged")); err != nil {
		t.Error(err)
	}
}
