package node

import (
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/pod"
	"skiff/node/runtime/simulated"
)

func TestLogRotation(t *testing.T) {
	dir := t.TempDir()
	rt := simulated.New(simulated.Config{})
	sandbox := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Uid: "u"}}
	sid, err := rt.RunSandbox(t.Context(), sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(t.Context(), sid, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}}, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	p := newPod("p", nil)
	p.UID = "u"
	view := pod.View{Pod: p, Containers: map[string]pod.ContainerView{"c": {Run: &pod.Run{ID: id, Running: true}}}}
	r := &rotator{runtime: rt, layout: pod.Layout{Root: dir}, views: func() []pod.View { return []pod.View{view} }, size: 100, files: 3, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	path := filepath.Join(r.layout.PodLogs("default", "p", "u"), "c/0.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	write := func(i, n int) {
		if err := os.WriteFile(path, []byte(strings.Repeat(fmt.Sprint(i), n)), 0o640); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		r.look(t.Context(), now)
	}
	write(0, 99)
	if _, err := os.Stat(path); err != nil {
		t.Error("a small log was put aside")
	}
	for i := 1; i <= 4; i++ {
		write(i, 200)
		if _, err := os.Stat(path); err == nil {
			t.Error("a large log stays")
		}
	}
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) != 2 {
		t.Fatalf("left are %v, want two beside the one being written", left)
	}
	f, err := os.Open(left[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(z); err != nil || string(data) != strings.Repeat("3", 200) {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := os.ReadFile(left[1]); err != nil || string(data) != strings.Repeat("4", 200) {
		t.Errorf("%q, %v", data, err)
	}
}
