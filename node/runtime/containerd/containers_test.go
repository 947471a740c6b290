package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const testImage = "skiff.test/busybox:1"

// busybox is an image of Debian's static busybox, made to run as a sandbox and as a container.
func busybox(t testing.TB) v1.Image {
	t.Helper()
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(program); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config.Entrypoint = []string{"/busybox", "sleep", "1000000"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// newRuntime is a containerd for one test, with everything in a directory of the test. What it leaves, KillAll removes.
func newRuntime(t testing.TB) *Runtime {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	programs := pinned(t)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	push := httptest.NewServer(handler)
	defer push.Close()
	ref, err := name.ParseReference(strings.Replace(testImage, "skiff.test", strings.TrimPrefix(push.URL, "http://"), 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, busybox(t)); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ctd") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Programs: programs, SandboxImage: testImage,
		Bundled: handler, CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDirs: []string{filepath.Join(dir, "cni")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.logTail())
		}
		if err := r.KillAll(context.Background()); err != nil {
			t.Errorf("tear down: %v", err)
		}
		if err := removeCgroup(cgroupParent()); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

// cgroupParent is what the agent would make for its pods.
func cgroupParent() string { return fmt.Sprintf("/skiff-test-%d", os.Getpid()) }

// run starts Run and returns what ends it.
func run(t testing.TB, r *Runtime) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	select {
	case <-r.Ready():
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func connect(t testing.TB, r *Runtime) cri.RuntimeServiceClient {
	t.Helper()
	conn, err := r.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return cri.NewRuntimeServiceClient(conn)
}

var again = grpc.WaitForReady(true)

// startPod runs a sandbox with one container and returns the container's ID.
func startPod(t testing.TB, client cri.RuntimeServiceClient, pod string) string {
	t.Helper()
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: pod, Namespace: "default", Uid: pod}, LogDirectory: t.TempDir(),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: cgroupParent(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
				Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}},
		},
	}
	s, err := client.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: sandbox}, again)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: testImage}, LogPath: "main.log",
			Command: []string{"/busybox", "sh", "-c", "echo hello; /busybox sleep 1000000 & exec /busybox sleep 1000000"},
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 10, OomScoreAdj: 500},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
					Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}},
			}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return c.ContainerId
}

func startedAt(t *testing.T, client cri.RuntimeServiceClient, id string) int64 {
	t.Helper()
	s, err := client.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id}, again)
	if err != nil {
		t.Fatal(err)
	}
	if s.Status.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("the container is %s", s.Status.State)
	}
	return s.Status.StartedAt
}

// untilAnswers waits until CRI serves again: the socket takes calls a moment
// before it can answer them.
func untilAnswers(t *testing.T, r *Runtime) {
	t.Helper()
	conn, err := r.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := waitForCRI(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
}

func TestPodOnTheRealThing(t *testing.T) {
	r := newRuntime(t)
	stop := run(t, r)
	client := connect(t, r)
	began := time.Now()
	id := startPod(t, client, "one")
	t.Logf("pod started after %v", time.Since(began).Round(time.Millisecond))
	out, err := client.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/busybox", "cat", "/proc/self/status"}, Timeout: 10})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out.Stdout), "Seccomp:\t2") {
		t.Errorf("the container runs without its seccomp filter:\n%s", out.Stdout)
	}
	first := startedAt(t, client, id)

	// A crash: containerd is started again, the container has not noticed.
	old := r.PID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	client.Version(t.Context(), &cri.VersionRequest{}) // fails where the old connection breaks: the next call waits for the new one
	untilAnswers(t, r)
	if got := startedAt(t, client, id); got != first {
		t.Errorf("the container was started anew: %d, before %d", got, first)
	}
	if now := r.PID(); now == old || now == 0 {
		t.Errorf("containerd is process %d, before %d", now, old)
	}

	// The agent stops: containerd ends, the container goes on, and the next agent finds it.
	last := r.PID()
	stop()
	if err := syscall.Kill(last, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("containerd (process %d) is still there: %v", last, err)
	}
	next, err := New(r.c)
	if err != nil {
		t.Fatal(err)
	}
	stop = run(t, next)
	if got := startedAt(t, connect(t, next), id); got != first {
		t.Errorf("after the agent's restart the container is another one")
	}
	stop()
}

func TestAdoption(t *testing.T) {
	r := newRuntime(t)
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	// The agent dies: nobody stops the containerd that it started.
	orphan, err := r.adoptOrStart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, err := New(r.c)
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, next)
	if next.PID() != orphan.record.PID {
		t.Errorf("process %d was not adopted but replaced by %d", orphan.record.PID, next.PID())
	}

	// An adopted one that crashes is replaced too.
	if err := syscall.Kill(orphan.record.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-orphan.ended
	untilAnswers(t, next)
	client := connect(t, next)
	if _, err := client.Version(t.Context(), &cri.VersionRequest{}, again); err != nil {
		t.Error(err)
	}
	stop()

	// With another configuration it is stopped and started anew.
	if orphan, err = r.adoptOrStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	changed := r.c
	changed.CNIConfDir += "2"
	other, err := New(changed)
	if err != nil {
		t.Fatal(err)
	}
	stop = run(t, other)
	if other.PID() == orphan.record.PID {
		t.Error("a containerd with another configuration was adopted")
	}
	stop()
}

func TestKillAllLeavesNothing(t *testing.T) {
	r := newRuntime(t)
	stop := run(t, r)
	client := connect(t, r)
	startPod(t, client, "one")
	startPod(t, client, "two")
	cgroups := r.containerCgroups()
	if len(cgroups) != 4 {
		t.Errorf("cgroups %v", cgroups)
	}
	stop()
	if mounts(t, r) == 0 {
		t.Error("no mount is left: the test sees nothing")
	}
	if err := r.KillAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := mounts(t, r); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
	table, err := readProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for pid := range table {
		if r.isShim(pid) {
			t.Errorf("shim %d is left", pid)
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		for _, c := range cgroups {
			if strings.Contains(string(b), c) {
				t.Errorf("process %d is left in %s", pid, c)
			}
		}
	}
	for _, c := range cgroups {
		for _, dir := range []string{c, "/memory" + c, "/pids" + c} {
			if _, err := os.Stat(cgroupRoot + dir); err == nil {
				t.Errorf("cgroup %s is left", dir)
			}
		}
	}
	if _, err := os.Stat(r.c.State); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
	if err := r.KillAll(t.Context()); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func mounts(t *testing.T, r *Runtime) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+r.c.State+"/")
}

func TestARuntimeThatCannotStartSaysWhy(t *testing.T) {
	r := newRuntime(t)
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	// A state directory that is no directory of containerd's: its socket cannot be made.
	if err := os.MkdirAll(r.c.Socket, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.c.Socket, "in-the-way"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := r.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), r.c.LogFile) || !strings.Contains(err.Error(), "containerd: ") {
		t.Errorf("got %v", err)
	}
}
