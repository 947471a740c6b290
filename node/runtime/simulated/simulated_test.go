package simulated

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/runtime/runtimetest"
)

func TestSuite(t *testing.T) {
	runtimetest.Run(t, runtimetest.Subject{
		Runtime: New(Config{}), Image: "example.com/x:1", Missing: "registry.invalid/x:1",
		Runs: []string{"sleep"}, Ends: []string{"end"}, EndsAnnotations: map[string]string{ExitAfter: "10ms", ExitCode: "3"},
	})
}

func TestAddressesAreUsedAgain(t *testing.T) {
	r := New(Config{Pods: netip.MustParsePrefix("10.1.2.0/29")})
	config := func(uid string) *cri.PodSandboxConfig {
		return &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Uid: uid}}
	}
	var ids []string
	for i := range 6 {
		id, err := r.RunSandbox(t.Context(), config(string(rune('a'+i))), "")
		if err != nil {
			t.Fatal(i, err)
		}
		ids = append(ids, id)
	}
	if _, err := r.RunSandbox(t.Context(), config("more"), ""); err == nil {
		t.Error("a seventh pod has an address of a range for six")
	}
	if err := r.StopSandbox(t.Context(), ids[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RunSandbox(t.Context(), config("more"), ""); err != nil {
		t.Error(err)
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{SandboxDelay: time.Second, StartDelay: 2 * time.Second, PullDelay: 3 * time.Second})
		began := time.Now()
		step := func(want time.Duration) {
			t.Helper()
			if got := time.Since(began); got != want {
				t.Errorf("%v have passed, want %v", got, want)
			}
		}
		sid, err := r.RunSandbox(t.Context(), &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{}}, "")
		if err != nil {
			t.Fatal(err)
		}
		step(time.Second)
		if _, err := r.PullImage(t.Context(), &cri.ImageSpec{Image: "x"}, nil, nil); err != nil {
			t.Fatal(err)
		}
		step(4 * time.Second)
		id, err := r.CreateContainer(t.Context(), sid, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		step(6 * time.Second)
	})
}
