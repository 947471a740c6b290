package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"skiff/api"
	"skiff/node/runtime/containerd"
	"skiff/node/runtime/cri"
	"skiff/node/runtime/runtimetest"
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

// The stories share one containerd: starting it takes longer than they do.
func TestContainerd(t *testing.T) {
	c := startContainerd(t)
	t.Run("the runtimes' suite", func(t *testing.T) {
		runtimetest.Run(t, runtimetest.Subject{
			Runtime: c.rt, Image: busyboxImage, Missing: "127.0.0.1:1/none:1", LogDirectory: filepath.Join(c.dir, "suite"), CgroupParent: c.parent + "/suite",
			Runs: []string{"/bin/sleep", "1000"}, Ends: sh("echo said; exit 3"), StopGrace: time.Second, ShowsOwnLogLines: true,
		})
	})
	f := newFakeAPI()
	n := c.agent(t, f)
	stories := []struct {
		name string
		tell func(*testing.T, *realNode)
	}{
		{"a pod comes and goes", comesAndGoes},
		{"volumes", volumesStory},
		{"environment and files of the pod", environmentStory},
		{"an end with a message", endMessageStory},
		{"restarts", restartStory},
		{"probes", probeStory},
		{"logs and exec", logsStory},
		{"security", securityStory},
		{"resources", resourceStory},
		{"graceful end", gracefulStory},
		{"a container for debugging", ephemeralStory},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) { s.tell(t, n) })
	}
	t.Run("adoption", func(t *testing.T) { adoptionStory(t, n) })
}

func quick(p *corev1.Pod) {
	grace := int64(1)
	p.Spec.TerminationGracePeriodSeconds = &grace
}

func (f *fakeAPI) remove(t *testing.T, name string) {
	t.Helper()
	if err := f.Delete(t.Context(), podRow, "default", name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wait(t, name, func(p *corev1.Pod) bool { return p == nil })
}

func comesAndGoes(t *testing.T, n *realNode) {
	f := n.api
	for i := range 3 {
		name := fmt.Sprintf("web%d", i)
		began := time.Now()
		f.create(t, newPod(name, quick))
		p := f.wait(t, name, ready)
		t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
		if p.Status.PodIP == "" || p.Status.HostIP != "127.0.0.1" || p.Status.Phase != corev1.PodRunning {
			t.Errorf("status %+v", p.Status)
		}
	}
	began := time.Now()
	for i := range 3 {
		f.remove(t, fmt.Sprintf("web%d", i))
	}
	t.Logf("three gone one after another in %v", time.Since(began).Round(time.Millisecond))
	if left, err := os.ReadDir(filepath.Join(n.dir, "node/pods")); err != nil || len(left) != 0 {
		t.Errorf("pods' directories: %v, %v", left, err)
	}
}

// exec runs a command in a pod's container.
func (n *realNode) exec(t *testing.T, pod, container, script string) string {
	t.Helper()
	p := n.api.pod(pod)
	id := ""
	for _, cs := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
		if cs.Name == container {
			id = strings.TrimPrefix(cs.ContainerID, "containerd://")
		}
	}
	r, err := n.rt.ExecSync(t.Context(), id, sh(script), 10*time.Second)
	if err != nil || r.Code != 0 {
		t.Fatalf("%s: %v, code %d, %s%s", script, err, r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func volumesStory(t *testing.T, n *realNode) {
	f := n.api
	host := filepath.Join(n.dir, "host")
	must := func(obj api.Object) {
		if _, err := f.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	must(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"a": "1", "b": "2"}})
	must(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keys"}, Data: map[string][]byte{"key": []byte("s3cret")}})
	dirOrCreate := corev1.HostPathDirectoryOrCreate
	seconds := int64(3600)
	f.create(t, newPod("vols", func(p *corev1.Pod) {
		quick(p)
		p.Labels = map[string]string{"app": "vols"}
		group := int64(2000)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: quantity("1Mi")}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: &dirOrCreate}}},
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "a", Path: "deep/a.txt"}}}}},
			{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
			}}}},
		}
		c := &p.Spec.Containers[0]
		c.Env = []corev1.EnvVar{{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		c.VolumeMounts = []corev1.VolumeMount{
			{Name: "empty", MountPath: "/empty"}, {Name: "mem", MountPath: "/mem"}, {Name: "host", MountPath: "/host"},
			{Name: "cm", MountPath: "/cm"}, {Name: "all", MountPath: "/all"},
			{Name: "host", MountPath: "/sub", SubPathExpr: "$(NAME)/x"}, {Name: "cm", MountPath: "/one", SubPath: "deep/a.txt"},
		}
	}))
	f.wait(t, "vols", ready)
	for script, want := range map[string]string{
		"cat /cm/deep/a.txt": "1", "cat /one": "1", "cat /all/key": "s3cret", "cat /all/b": "2", "cat /all/labels": `app="vols"`,
		"touch /empty/f && stat -c %g:%a /empty": "2000:2777", "stat -c %g:%a /all/..data/key": "2000:644", "stat -c %g:%a /all/..data/token": "2000:640",
		"touch /sub/here && echo ok": "ok", "touch /cm/x 2>&1 | grep -c Read-only": "1",
		"dd if=/dev/zero of=/mem/f bs=1M count=2 2>&1 | grep -c 'No space'": "1",
	} {
		script = strings.ReplaceAll(strings.ReplaceAll(script, "grep", "busybox grep"), "dd if", "busybox dd if")
		if got := n.exec(t, "vols", "main", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := n.exec(t, "vols", "main", "cat /all/token"); !strings.HasPrefix(got, "token-of-default-") {
		t.Errorf("token %q", got)
	}
	if _, err := os.Stat(filepath.Join(host, "vols/x/here")); err != nil {
		t.Error(err)
	}
	if _, err := f.Update(t.Context(), "", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"a": "new", "b": "2"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got := n.exec(t, "vols", "main", "cat /cm/deep/a.txt"); got != "new" {
			return fmt.Errorf("the mounted config map says %q", got)
		}
		return nil
	})
	f.remove(t, "vols")
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), filepath.Join(n.dir, "node/pods")) {
		t.Errorf("mounts are left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(host, "vols/x/here")); err != nil {
		t.Errorf("the host's directory was cleared with the pod: %v", err)
	}
}

// eventually asks for something outside the agent's reach until it holds.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func environmentStory(t *testing.T, n *realNode) {
	f := n.api
	if _, err := f.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "my-db"},
		Spec: corev1.ServiceSpec{ClusterIP: "198.19.0.7", Ports: []corev1.ServicePort{{Port: 5432, Protocol: corev1.ProtocolTCP}}}}); err != nil {
		t.Fatal(err)
	}
	f.create(t, newPod("env", func(p *corev1.Pod) {
		quick(p)
		p.Spec.Hostname, p.Spec.Subdomain = "box", "sub"
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.1.2.3", Hostnames: []string{"alias.example"}}}
		p.Spec.DNSPolicy = corev1.DNSClusterFirst
		c := &p.Spec.Containers[0]
		c.Command, c.Args = []string{"/bin/sh", "-c"}, []string{"echo 'got $(GREETING) $$(GREETING)'; exec sleep 1000000"}
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: *quantity("500m"), corev1.ResourceMemory: *quantity("64Mi")}
		c.EnvFrom = []corev1.EnvFromSource{{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		c.Env = []corev1.EnvVar{
			{Name: "WHO", Value: "world"}, {Name: "GREETING", Value: "hello-$(WHO)-$(NOBODY)"},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: *quantity("1m")}}},
			{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}, Key: "key"}}},
		}
	}))
	p := f.wait(t, "env", ready)
	for script, want := range map[string]string{
		"echo $GREETING": "hello-world-$(NOBODY)", "echo $IP": p.Status.PodIP, "echo $CPU": "500", "echo $KEY": "s3cret", "echo $CM_b": "2",
		"echo $MY_DB_SERVICE_HOST:$MY_DB_PORT_5432_TCP_PORT": "198.19.0.7:5432", "hostname": "box",
		"busybox grep -c 'search default.svc.cluster.local svc.cluster.local cluster.local' /etc/resolv.conf": "1",
		"busybox grep nameserver /etc/resolv.conf":                                                            "nameserver 198.19.0.10", "busybox grep ndots /etc/resolv.conf": "options ndots:5",
		"busybox grep alias.example /etc/hosts": "10.1.2.3\talias.example",
		"busybox grep box /etc/hosts":           p.Status.PodIP + "\tbox.sub.default.svc.cluster.local\tbox",
	} {
		if got := n.exec(t, "env", "main", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := n.logs(t, "env", "main", ""); got != "got hello-world-$(NOBODY) $(GREETING)\n" {
		t.Errorf("log %q", got)
	}
	f.remove(t, "env")
}

// logs reads a container's log through the agent's server.
func (n *realNode) logs(t *testing.T, pod, container, query string) string {
	t.Helper()
	w := httptest.NewRecorder()
	n.agent.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/containerLogs/default/"+pod+"/"+container+"?"+query, nil))
	if w.Code != 200 {
		return fmt.Sprintf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func endMessageStory(t *testing.T, n *realNode) {
	f := n.api
	end := func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodFailed }
	f.create(t, newPod("told", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Command = sh("echo farewell >/dev/termination-log; exit 3")
	}))
	s := f.wait(t, "told", end).Status.ContainerStatuses[0].State.Terminated
	if s == nil || s.ExitCode != 3 || s.Message != "farewell\n" || s.Reason != "Error" {
		t.Errorf("ended as %+v", s)
	}
	f.create(t, newPod("logged", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		p.Spec.Containers[0].Command = sh("echo last words; exit 4")
	}))
	s = f.wait(t, "logged", end).Status.ContainerStatuses[0].State.Terminated
	if s == nil || s.Message != "last words\n" {
		t.Errorf("ended as %+v", s)
	}
	if got := n.logs(t, "logged", "main", ""); got != "last words\n" {
		t.Errorf("the log of a finished pod: %q", got)
	}
	f.create(t, newPod("nocommand", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Command = []string{"/no/such/program"}
	}))
	s = f.wait(t, "nocommand", end).Status.ContainerStatuses[0].State.Terminated
	if s == nil || s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("ended as %+v", s)
	}
	for _, name := range []string{"told", "logged", "nocommand"} {
		f.remove(t, name)
	}
}

func restartStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("again", func(p *corev1.Pod) {
		quick(p)
		p.Spec.Containers[0].Command = sh("echo life; exit 1")
	}))
	p := f.wait(t, "again", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses
		return len(w) == 1 && w[0].State.Waiting != nil && w[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 1 {
		t.Errorf("status %+v", s)
	}
	if got := n.logs(t, "again", "main", "previous=true"); got != "life\n" {
		t.Errorf("the previous log: %q", got)
	}
	f.remove(t, "again")
}

func probeStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("probed", func(p *corev1.Pod) {
		quick(p)
		c := &p.Spec.Containers[0]
		c.Command = sh("mkdir -p /tmp/www; echo fine >/tmp/www/healthz; exec httpd -f -p 8080 -h /tmp/www")
		c.Command = []string{"/bin/busybox", "sh", "-c", "busybox mkdir -p /tmp/www; echo fine >/tmp/www/healthz; exec httpd -f -p 8080 -h /tmp/www"}
		c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
		c.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}}
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("web")}}}
		c.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/www/healthz"}}}}
	}))
	f.wait(t, "probed", ready)
	n.exec(t, "probed", "main", "busybox rm /tmp/www/healthz")
	f.wait(t, "probed", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 })
	f.wait(t, "probed", ready)
	f.remove(t, "probed")
}

func logsStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("talk", func(p *corev1.Pod) {
		quick(p)
		p.Spec.Containers[0].Command = sh("for i in 1 2 3 4 5; do echo line $i; done; exec sleep 1000000")
	}))
	f.wait(t, "talk", ready)
	eventually(t, func() error {
		if got := n.logs(t, "talk", "main", ""); got != "line 1\nline 2\nline 3\nline 4\nline 5\n" {
			return fmt.Errorf("log %q", got)
		}
		return nil
	})
	n.exec(t, "talk", "main", "echo oops >/proc/1/fd/2") // the two streams have no order of their own
	eventually(t, func() error {
		if got := n.logs(t, "talk", "main", ""); got != "line 1\nline 2\nline 3\nline 4\nline 5\noops\n" {
			return fmt.Errorf("log %q", got)
		}
		return nil
	})
	for query, want := range map[string]string{"tailLines=2": "line 5\noops\n", "limitBytes=6": "line 1", "sinceTime=2100-01-01T00:00:00Z": "", "stream=Stderr": "oops\n"} {
		if got := n.logs(t, "talk", "main", query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if got := n.logs(t, "talk", "other", ""); !strings.HasPrefix(got, `400 container "other" is not valid for pod talk`) {
		t.Errorf("log of a container that is not: %q", got)
	}
	ts := httptest.NewServer(n.agent.Handler())
	defer ts.Close()
	out, errOut, err := execOver(t, ts.URL+"/exec/default/talk/main?command=/bin/sh&command=-c&command=cat%3Becho+err+%3E%262%3Bexit+7&input=1&output=1&error=1", "typed\n")
	if out != "typed\n" || errOut != "err\n" || err == nil || !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("exec: %q, %q, %v", out, errOut, err)
	}
	f.remove(t, "talk")
	f.create(t, newPod("serve", func(p *corev1.Pod) {
		quick(p)
		p.Spec.Containers[0].Command = []string{"/bin/busybox", "sh", "-c", "busybox mkdir -p /tmp/www; echo page >/tmp/www/x; exec httpd -f -p 8080 -h /tmp/www"}
	}))
	f.wait(t, "serve", ready)
	eventually(t, func() error {
		if got := forwarded(t, ts.URL+"/portForward/default/serve", 8080); !strings.HasSuffix(got, "page\n") {
			return fmt.Errorf("through the forwarded port: %q", got)
		}
		return nil
	})
	f.remove(t, "serve")
}

// forwarded asks a web server in a pod through a forwarded port.
func forwarded(t *testing.T, address string, port int) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
	if err != nil {
		t.Fatal(err)
	}
	stop, readyCh := make(chan struct{}), make(chan struct{})
	fw, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{fmt.Sprintf("0:%d", port)}, stop, readyCh, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fw.ForwardPorts() }()
	defer func() {
		close(stop)
		<-done
	}()
	select {
	case <-readyCh:
	case err := <-done:
		done <- err
		return fmt.Sprint(err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/x", ports[0].Local))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// execOver runs a command over SPDY, as an API server does.
func execOver(t *testing.T, address, stdin string) (stdout, stderr string, err error) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut})
	return out.String(), errOut.String(), err
}

func securityStory(t *testing.T, n *realNode) {
	f := n.api
	yes, no := true, false
	user, group := int64(1234), int64(4321)
	f.create(t, newPod("safe", func(p *corev1.Pod) {
		quick(p)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, RunAsNonRoot: &yes, SupplementalGroups: []int64{777},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	}))
	f.wait(t, "safe", ready)
	for script, want := range map[string]string{
		"id -u": "1234", "id -g": "4321", "id -G": "4321 777", "touch /x 2>&1 | busybox grep -c Read-only": "1",
		"busybox grep NoNewPrivs /proc/self/status": "NoNewPrivs:\t1", "busybox grep CapBnd /proc/self/status": "CapBnd:\t0000000000000000",
		"busybox grep Seccomp: /proc/self/status": "Seccomp:\t2",
	} {
		if got := n.exec(t, "safe", "main", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	f.create(t, newPod("root", func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
	}))
	p := f.wait(t, "root", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(got, `container has runAsNonRoot and image will run as root (pod: "root_default(`) {
		t.Errorf("message %q", got)
	}
	f.create(t, newPod("shared", func(p *corev1.Pod) {
		quick(p)
		p.Spec.ShareProcessNamespace = &yes
		p.Spec.HostNetwork = true
	}))
	p = f.wait(t, "shared", ready)
	if p.Status.PodIP != "127.0.0.1" {
		t.Errorf("a pod in the node's network has the address %q", p.Status.PodIP)
	}
	if got := n.exec(t, "shared", "main", "cat /proc/1/cmdline"); !strings.Contains(got, "sleep") || n.exec(t, "shared", "main", "echo $$") == "1" {
		t.Errorf("process 1 is %q", got)
	}
	for _, name := range []string{"safe", "root", "shared"} {
		f.remove(t, name)
	}
}

// cgroupFile reads a file of a pod's cgroup, v1 or v2.
func (n *realNode) cgroupFile(t *testing.T, controller, rel, v1, v2 string) string {
	t.Helper()
	path := filepath.Join("/sys/fs/cgroup", n.parent, rel, v2)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		path = filepath.Join("/sys/fs/cgroup", controller, n.parent, rel, v1)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func resourceStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("sized", func(p *corev1.Pod) {
		quick(p)
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: *quantity("100m"), corev1.ResourceMemory: *quantity("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: *quantity("200m"), corev1.ResourceMemory: *quantity("64Mi")}}
	}))
	p := f.wait(t, "sized", ready)
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("class %s", p.Status.QOSClass)
	}
	group := "kubepods/burstable/pod" + string(p.UID)
	if got := n.cgroupFile(t, "memory", group, "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit %s", got)
	}
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	if got := n.cgroupFile(t, "cpu", group+"/"+id, "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "20000") {
		t.Errorf("CPU quota %s", got)
	}
	resized := p.DeepCopy()
	resized.ResourceVersion = ""
	resized.Spec.Containers[0].Resources.Limits[corev1.ResourceCPU] = *quantity("400m")
	resized.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = *quantity("96Mi")
	if _, err := f.Update(t.Context(), "", resized); err != nil {
		t.Fatal(err)
	}
	p = f.wait(t, "sized", func(p *corev1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().String() == "400m"
	})
	if got := n.cgroupFile(t, "cpu", group+"/"+id, "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "40000") {
		t.Errorf("CPU quota after the resize %s", got)
	}
	if p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the resize restarted the container")
	}
	f.remove(t, "sized")
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup/memory", n.parent, group)); err == nil {
		t.Error("the pod's cgroup is left")
	}
}

func gracefulStory(t *testing.T, n *realNode) {
	f := n.api
	marker := filepath.Join(n.dir, "marker")
	f.create(t, newPod("polite", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: n.dir}}}}
		c := &p.Spec.Containers[0]
		c.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
		c.Command = sh("trap 'echo term >>/host/marker; exit 0' TERM; while true; do sleep 0.1; done")
		c.Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: sh("echo start >>/host/marker")}},
			PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: sh("echo stop >>/host/marker")}},
		}
	}))
	f.wait(t, "polite", ready)
	began := time.Now()
	f.remove(t, "polite")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a container that ends at once took %v", took)
	}
	if data, err := os.ReadFile(marker); err != nil || string(data) != "start\nstop\nterm\n" {
		t.Errorf("order of hooks and signal: %q, %v", data, err)
	}
}

func ephemeralStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("target", quick))
	p := f.wait(t, "target", ready).DeepCopy()
	p.ResourceVersion = ""
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: busyboxImage, Command: sh("cat /proc/1/cmdline; echo; exec sleep 1000")}, TargetContainerName: "main"}}
	if _, err := f.Update(t.Context(), "", p); err != nil {
		t.Fatal(err)
	}
	f.wait(t, "target", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})
	eventually(t, func() error {
		if got := n.logs(t, "target", "debug", ""); !strings.HasPrefix(got, "/bin/sleep") {
			return fmt.Errorf("process 1 of the target is seen as %q", got)
		}
		return nil
	})
	if !ready(f.pod("target")) {
		t.Error("the pod is not ready any more")
	}
	f.remove(t, "target")
}

// "kill -9 of a node's agent: containers run on, and are adopted, not restarted."
func adoptionStory(t *testing.T, n *realNode) {
	f := n.api
	f.create(t, newPod("stays", quick))
	f.create(t, newPod("goes", quick))
	f.create(t, newPod("ends", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Command = sh("echo bye >/dev/termination-log; sleep 2; exit 5")
	}))
	before := f.wait(t, "stays", ready)
	f.wait(t, "goes", ready)
	f.wait(t, "ends", ready)
	n.stop()
	zero := int64(0)
	if err := f.Delete(t.Context(), podRow, "default", "goes", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // the container's own time: nobody tells of its end
	n.containerdForTest.agent(t, f)
	p := f.wait(t, "ends", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 5 || s.Message != "bye\n" {
		t.Errorf("what ended while the agent was away: %+v", s)
	}
	after := f.pod("stays")
	if after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || !ready(after) {
		t.Errorf("not adopted: %+v", after.Status.ContainerStatuses)
	}
	eventually(t, func() error {
		all, err := n.rt.Sandboxes(t.Context())
		if err != nil || len(all) != 2 {
			return fmt.Errorf("%d sandboxes, %v", len(all), err)
		}
		return nil
	})
	f.remove(t, "stays")
	f.remove(t, "ends")
}
