package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/node/runtime/containerd"
	"skiff/node/runtime/cri"
)

const busyboxImage = "skiff.test/busybox:1"

// containerdForTest is a containerd of the test's own, with one image and a
// network plugin that gives each pod a veth of its own to the test.
type containerdForTest struct {
	dir    string
	rt     *cri.Runtime
	parent string // cgroup
}

func startContainerd(t *testing.T) *containerdForTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	bin, err := filepath.Abs("../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("../bin/runtime/containerd"); err != nil {
		t.Skip("bin/runtime/containerd is not built: make runtime")
	}
	programs, err := containerd.Find(bin)
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "nod")
	if err != nil {
		t.Fatal(err)
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	pushBusybox(t, handler)
	writeCNI(t, dir)
	r, err := containerd.New(containerd.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Programs: programs,
		SandboxImage: busyboxImage, Bundled: handler, CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDirs: []string{filepath.Join(dir, "cni")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	parent := "/skiff-node-test-" + filepath.Base(dir)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.KillAll(context.Background()); err != nil {
			t.Error(err)
		}
		removeTree(parent)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-r.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	rt, err := cri.New(cri.Config{Endpoint: r.Endpoint()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return &containerdForTest{dir: dir, rt: rt, parent: parent}
}

// removeTree removes the cgroups that a test left, in each hierarchy.
func removeTree(parent string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		var dirs []string
		_ = filepath.Walk(root, func(p string, info os.FileInfo, err error) error {
			if err == nil && info.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i]) // a group that is busy shows in the next test
		}
	}
}

func pushBusybox(t *testing.T, handler registryHandler) {
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
	add := func(h *tar.Header, data []byte) {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}, program)
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "ls", "id", "httpd", "nc", "true", "false", "stat", "hostname", "kill", "touch"} {
		add(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
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
	cf.Config.Entrypoint = []string{"/bin/sleep", "1000000"}
	cf.Config.Env = []string{"PATH=/bin"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	push := httptest.NewServer(handler)
	defer push.Close()
	ref, err := name.ParseReference(strings.Replace(busyboxImage, "skiff.test", strings.TrimPrefix(push.URL, "http://"), 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// cniPlugin gives a pod an address of a range that is routed nowhere, and the
// test's own namespace a route to it.
const cniPlugin = `#!/bin/sh
dir=%s
case "$CNI_COMMAND" in
ADD)
  n=$(flock $dir/lock sh -c 'n=$(cat '$dir'/count 2>/dev/null || echo 1); n=$((n+1)); echo $n >'$dir'/count; echo $n')
  ip=198.19.77.$n
  v=skt%s$n
  echo $v >$dir/$CNI_CONTAINERID
  nsenter --net=$CNI_NETNS ip link add eth0 type veth peer name $v netns 1 || exit 1
  nsenter --net=$CNI_NETNS ip link set lo up
  nsenter --net=$CNI_NETNS ip addr add $ip/32 dev eth0
  nsenter --net=$CNI_NETNS ip link set eth0 up
  nsenter --net=$CNI_NETNS ip route add 169.254.1.1 dev eth0
  nsenter --net=$CNI_NETNS ip route add default via 169.254.1.1 dev eth0
  ip addr add 169.254.1.1/32 dev $v
  ip link set $v up
  ip route add $ip/32 dev $v
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"'$ip'/32","interface":0}]}'
  ;;
DEL)
  v=$(cat $dir/$CNI_CONTAINERID 2>/dev/null) && ip link del $v 2>/dev/null
  rm -f $dir/$CNI_CONTAINERID
  ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
esac
exit 0
`

func writeCNI(t *testing.T, dir string) {
	t.Helper()
	work := filepath.Join(dir, "net")
	for _, d := range []string{"cni", "net.d", "net"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tag := filepath.Base(dir)
	tag = tag[len(tag)-4:]
	if err := os.WriteFile(filepath.Join(dir, "cni/skifftest"), []byte(fmt.Sprintf(cniPlugin, work, tag)), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"skifftest"}]}`
	if err := os.WriteFile(filepath.Join(dir, "net.d/10-test.conflist"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
}

// realNode is an agent on a containerd of its own.
type realNode struct {
	*containerdForTest
	api   *fakeAPI
	agent *Agent
	stop  func()
}

func (c *containerdForTest) agent(t *testing.T, f *fakeAPI) *realNode {
	t.Helper()
	level := slog.LevelWarn
	a, err := New(Config{
		NodeName: "n1", Client: f, Runtime: c.rt, RootDir: filepath.Join(c.dir, "node"), CgroupParent: c.parent,
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: "n1"}},
		ClusterDNS: []string{"198.19.0.10"},
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	n := &realNode{containerdForTest: c, api: f, agent: a}
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(n.stop)
	<-a.Registered()
	return n
}

// wait returns the pod once ok holds for it; nil stands for "gone".
func (f *fakeAPI) wait(t *testing.T, name string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		if p := f.pod(name); ok(p) {
			return p
		}
		select {
		case <-f.pods:
		case <-time.After(20 * time.Millisecond): // a deletion has no version to send
		case <-deadline:
			p := f.pod(name)
			if p != nil {
				t.Fatalf("pod %s: %s %+v\nevents %q", name, p.Status.Phase, p.Status.ContainerStatuses, f.events(name))
			}
			t.Fatalf("pod %s is gone; events %q", name, f.events(name))
		}
	}
}

func newPod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.NodeName = "n1"
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	grace := int64(30)
	p.Spec.TerminationGracePeriodSeconds = &grace
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: busyboxImage, TerminationMessagePath: "/dev/termination-log", ImagePullPolicy: corev1.PullIfNotPresent}}
	if change != nil {
		change(p)
	}
	return p
}

func (f *fakeAPI) create(t *testing.T, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	obj, err := f.Create(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func ready(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestPodOnContainerd(t *testing.T) {
	c := startContainerd(t)
	f := newFakeAPI()
	n := c.agent(t, f)
	began := time.Now()
	zero := int64(1)
	f.create(t, newPod("web", func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = &zero
	}))
	p := f.wait(t, "web", ready)
	t.Logf("ready after %v; ip %s", time.Since(began), p.Status.PodIP)
	began = time.Now()
	f.create(t, newPod("web2", func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = &zero
	}))
	p = f.wait(t, "web2", ready)
	t.Logf("second ready after %v; ip %s", time.Since(began), p.Status.PodIP)
	if p.Status.PodIP == "" || p.Status.HostIP != "127.0.0.1" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("status %+v", p.Status)
	}
	began = time.Now()
	if err := f.Delete(t.Context(), podRow, "default", "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wait(t, "web", func(p *corev1.Pod) bool { return p == nil })
	t.Logf("gone after %v", time.Since(began))
	_ = n
}
