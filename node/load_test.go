package node

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestLoad measures the agent with SKIFF_LOAD pods on containerd:
//
//	SKIFF_LOAD=92 go test ./node -run TestLoad -v
//
// It starts ten pods one after another, then the rest at once, and then looks at
// what the idle agent costs. Memory is this process': with the fake API and the
// test's own registry.
func TestLoad(t *testing.T) {
	pods, err := strconv.Atoi(os.Getenv("SKIFF_LOAD"))
	if err != nil {
		t.Skip("a measurement, not a test: set SKIFF_LOAD to the number of pods")
	}
	c := startContainerd(t)
	f := newFakeAPI()
	n := c.agent(t, f)
	t.Logf("idle without pods: %d MiB", residentMiB())
	var took []time.Duration
	for i := range 10 {
		name := fmt.Sprintf("one%d", i)
		began := time.Now()
		f.create(t, newPod(name, quick))
		f.wait(t, name, ready)
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("one after another: p50 %v, most %v", took[len(took)/2], took[len(took)-1])
	began := time.Now()
	for i := range pods - 10 {
		f.create(t, newPod(fmt.Sprintf("many%d", i), quick))
	}
	for i := range pods - 10 {
		f.wait(t, fmt.Sprintf("many%d", i), ready)
	}
	t.Logf("%d at once: all ready after %v", pods-10, time.Since(began).Round(time.Millisecond))
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("with %d pods: %d MiB resident, heap %d MiB, %d goroutines", pods, residentMiB(), m.HeapAlloc>>20, runtime.NumGoroutine())
	const idle = 30 * time.Second
	before, rtBefore := cpuTime(), processTime(t, "containerd")
	writes := f.counted()
	time.Sleep(idle) // the measurement itself
	t.Logf("idle for %v: agent %.2f %% of a core, containerd %.2f %%", idle, 100*float64(cpuTime()-before)/float64(idle), 100*float64(processTime(t, "containerd")-rtBefore)/float64(idle))
	for k, v := range f.counted() {
		if v != writes[k] {
			t.Logf("while idle: %s %d times", k, v-writes[k])
		}
	}
	began = time.Now()
	for _, p := range f.allPods() {
		if err := f.Delete(t.Context(), podRow, "default", p, deleteNow); err != nil {
			t.Error(err)
		}
	}
	for _, p := range f.allPods() {
		f.wait(t, p, func(p *corev1.Pod) bool { return p == nil })
	}
	t.Logf("all gone after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, func() error {
		all, err := n.rt.Sandboxes(t.Context())
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("%d sandboxes are left", len(all))
		}
		return err
	})
}

func (f *fakeAPI) allPods() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, obj := range f.objects[podRow] {
		out = append(out, obj.GetName())
	}
	return out
}

func residentMiB() int {
	data, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(v)[0])
			return kb / 1024
		}
	}
	return 0
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processTime is the CPU time of this process' child of the name.
func processTime(t *testing.T, name string) time.Duration {
	t.Helper()
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		data, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		before, after, ok := strings.Cut(string(data), ") ")
		if !ok || !strings.HasSuffix(before, "("+name) {
			continue
		}
		f := strings.Fields(after)
		if f[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		u, _ := strconv.Atoi(f[11])
		s, _ := strconv.Atoi(f[12])
		return time.Duration(u+s) * 10 * time.Millisecond
	}
	return 0
}
