package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/api"
	"skiff/client"
	"skiff/cluster"
	"skiff/image"
	"skiff/node/runtime/cri"
	"skiff/registry"
)

// The images of the machines' containerd come from a registry on loopback, which it
// asks over plain HTTP.
const (
	imageRegistry = "127.0.0.1:5000"
	pauseImage    = imageRegistry + "/pause:1"
)

// foreign is a containerd that is no part of skiff, run on a machine as its owner
// would: with sockets, directories and network of its own choice.
type foreign struct {
	b        *box
	programs string // the directory of containerd, its shim and runc
	dir      string
	cmd      *exec.Cmd
}

// foreignPrograms finds a containerd of the oldest kind that is supported.
func foreignPrograms(t *testing.T) string {
	t.Helper()
	at, err := filepath.Abs("../../bin/older")
	must(t, err)
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := os.Stat(filepath.Join(at, name)); err != nil {
			t.Skipf("skipped: bin/older/%s is not there (tools/runtime/older.sh unpacks Debian's containerd 1.6)", name)
		}
	}
	return at
}

// foreignContainerd starts containerd on the machine.
func (b *box) foreignContainerd(programs string) *foreign {
	b.h.t.Helper()
	f := &foreign{b: b, programs: programs, dir: filepath.Join(b.h.dir, b.name+"-ctr")}
	must(b.h.t, os.MkdirAll(f.path("cni"), 0o755))
	must(b.h.t, os.WriteFile(f.path("config.toml"), []byte(f.config()), 0o600))
	f.serveImages()
	f.cmd = exec.Command(filepath.Join(programs, "containerd"), "--config", f.path("config.toml"))
	f.cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
	log := &logBuffer{}
	f.cmd.Stdout, f.cmd.Stderr = log, log
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- b.ns.RunIn(f.cmd, func() { close(started) }) }()
	select {
	case err := <-ended:
		b.h.t.Fatalf("containerd: %v\n%s", err, log)
	case <-started:
	}
	b.h.t.Cleanup(func() {
		f.cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if b.h.t.Failed() {
			text := log.String()
			b.h.t.Logf("the end of containerd's log on %s:\n%s", b.name, text[max(0, len(text)-4000):])
		}
		for _, d := range []string{"/run/containerd/s", "/run/containerd"} {
			os.Remove(d) // where shims of 1.6 have their sockets; stays if somebody else's are there
		}
	})
	return f
}

func (f *foreign) path(part string) string { return filepath.Join(f.dir, part) }
func (f *foreign) endpoint() string        { return "unix://" + f.path("sock") }

// flags tell skiff of the runtime.
func (f *foreign) flags() []string {
	return []string{"--runtime-endpoint", f.endpoint(), "--cni-conf-dir", f.path("cni"), "--cni-bin-dir", f.path("cni-bin")}
}

// config is what an owner who knows nothing of skiff would write, with paths inside
// dir; restrict_oom_score_adj lets sandboxes start where CAP_SYS_RESOURCE is missing.
func (f *foreign) config() string {
	return fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "%[1]s/sock"
[ttrpc]
address = "%[1]s/sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "%[2]s"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "%[1]s/cni-bin"
conf_dir = "%[1]s/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "%[3]s/runc"
Root = "%[1]s/runc"
`, f.dir, pauseImage, f.programs)
}

// serveImages is the machine's registry: whatever is asked for is the pause image.
func (f *foreign) serveImages() {
	t := f.b.h.t
	pause, err := image.Pause("")
	must(t, err)
	handler, err := registry.Static(pause)
	must(t, err)
	l, err := f.b.listen(imageRegistry)
	must(t, err)
	server := &http.Server{Handler: handler}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-served })
}

// busyPod is a pod with what pods usually have: a token, volumes, probes.
func busyPod(name, node, busybox string) *corev1.Pod {
	file := corev1.HostPathFile
	look := func(command string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/busybox", "sh", "-c", command}}}}
	}
	p := pod(name, node, corev1.Container{
		Name: "c", Image: imageRegistry + "/app:1", WorkingDir: "/data",
		Command:        []string{"/busybox", "sh", "-c", "echo it begins; /busybox touch /data/here; exec /busybox httpd -f -p 8080 -h /data"},
		VolumeMounts:   []corev1.VolumeMount{{Name: "busybox", MountPath: "/busybox"}, {Name: "data", MountPath: "/data"}, {Name: "settings", MountPath: "/settings"}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
		StartupProbe:   look("test -f /data/here"),
		LivenessProbe:  look("test -s /var/run/secrets/kubernetes.io/serviceaccount/token"),
		Resources:      corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": *resourceOf("64Mi"), "cpu": *resourceOf("500m")}},
	})
	p.Spec.Volumes = []corev1.Volume{
		{Name: "busybox", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: busybox, Type: &file}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
	}
	return p
}

// A server and an agent whose machines have a containerd already, of the oldest kind
// that is supported: pods start, answer and are looked into as with skiff's own.
func TestExternalRuntime(t *testing.T) {
	t.Parallel()
	h, m := newHall(t, 2)
	programs := foreignPrograms(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("skipped: busybox-static is not installed")
	}
	if _, err := os.Stat(filepath.Join(h.dir, "bin", "skiff-cni")); err != nil {
		t.Skip("skipped: bin/skiff-cni is not built (make skiff)")
	}
	var runtimes []*foreign
	for i, b := range m {
		b.name = fmt.Sprint("older-", i) // control groups bear it, and other tests have an m1, too
		runtimes = append(runtimes, b.foreignContainerd(programs))
	}
	runtimes[1].saysItsDriver()
	m[0].server(runtimes[0].flags()...)
	runtimes[0].endLater()
	m[1].agent(append(runtimes[1].flags(), "--server", m[0].url(), "--token", m[0].token())...)
	runtimes[1].endLater()

	admin := m[0].admin()
	_, err = client.Create(h.ctx, admin, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"colour": "green"}})
	must(t, err)
	for i, name := range []string{"web", "other"} {
		_, err := client.Create(h.ctx, admin, busyPod(name, m[i].name, busybox))
		must(t, err)
	}
	web := h.serviceFor(admin, "web")
	h.until(admin, "pods run", client.Source{Resource: api.For[*corev1.Pod](), Namespace: "default"}, func(v *client.View) bool {
		return running("web")(v) && running("other")(v)
	})
	h.until(admin, "the service is served", client.Source{Resource: api.For[*discoveryv1.EndpointSlice](), Namespace: "default"}, func(v *client.View) bool {
		return slices.ContainsFunc(slices.Collect(client.All[*discoveryv1.EndpointSlice](v, "default")), func(s *discoveryv1.EndpointSlice) bool {
			return s.Labels[discoveryv1.LabelServiceName] == "web" && len(s.Endpoints) == 1
		})
	})
	for _, b := range m {
		h.eventually("the service answers on "+b.name, func() error { return h.answers(b, web) })
		h.eventually("the service has a name on "+b.name, func() error { return h.named(b, web) })
	}

	clientset := m[0].clientset()
	for _, name := range []string{"web", "other"} {
		log, err := clientset.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(h.ctx)
		if err != nil || string(log) != "it begins\n" {
			t.Errorf("logs of %s: %q, %v", name, log, err)
		}
		out, err := m[0].kubectl("exec", name, "--", "/busybox", "sh", "-c", "/busybox cat /settings/colour; /busybox nslookup web.default.svc.cluster.local; /busybox nc -w 3 "+web+" 80 </dev/null && echo reached")
		if err != nil || !strings.HasPrefix(out, "green") || !strings.Contains(out, web) || !strings.Contains(out, "reached") {
			t.Errorf("exec in %s: %v\n%s", name, err, out)
		}
		h.eventually("its use is measured", func() error { return h.measured(clientset, m[slices.Index([]string{"web", "other"}, name)].name, name) })
	}

	// The agents go: containers go on, and the next agents know them.
	before := []string{h.containerOf(admin, "web"), h.containerOf(admin, "other")}
	m[1].process.kill()
	m[1].agent(runtimes[1].flags()...)
	m[0].stop()
	must(t, h.answers(m[0], web))
	m[0].server(runtimes[0].flags()...)
	admin = m[0].admin()
	clientset = m[0].clientset()
	must(t, clientset.CoreV1().Pods("default").Delete(h.ctx, "other", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	_, err = client.Create(h.ctx, admin, busyPod("later", m[1].name, busybox))
	must(t, err)
	h.until(admin, "one pod goes and one comes", client.Source{Resource: api.For[*corev1.Pod](), Namespace: "default"}, func(v *client.View) bool {
		_, there := client.Find[*corev1.Pod](v, "default", "other")
		return !there && running("later")(v) && running("web")(v)
	})
	if after := h.containerOf(admin, "web"); after != before[0] {
		t.Errorf("the container was started anew: %s became %s", before[0], after)
	}
}

func resourceOf(text string) *resource.Quantity { q := resource.MustParse(text); return &q }

// saysItsDriver fails unless the runtime, which has no call for that, tells its cgroup
// driver.
func (f *foreign) saysItsDriver() {
	rt, err := cri.New(cri.Config{Endpoint: f.endpoint()})
	must(f.b.h.t, err)
	defer rt.Close()
	f.b.h.eventually("containerd answers", func() error {
		_, err := rt.Version(f.b.h.ctx)
		return err
	})
	if driver, err := rt.CgroupDriver(f.b.h.ctx); driver != "cgroupfs" || err != nil {
		f.b.h.t.Errorf("its cgroup driver is %q (%v)", driver, err)
	}
}

// listen listens on the machine.
func (b *box) listen(address string) (l net.Listener, err error) {
	failed := b.ns.In(func() error {
		l, err = net.Listen("tcp", address)
		return nil
	})
	return l, errors.Join(failed, err)
}

// clientset is client-go's, with the administrator's rights.
func (b *box) clientset() *kubernetes.Clientset {
	b.h.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.AdminKubeconfig(b.data()))
	must(b.h.t, err)
	config.Dial = b.dial
	c, err := kubernetes.NewForConfig(config)
	must(b.h.t, err)
	return c
}

// endLater ends the node's pods with the test, as a machine leaves a cluster, and
// looks whether the runtime is as empty as it was.
func (f *foreign) endLater() {
	b := f.b
	b.h.t.Cleanup(func() {
		b.process.kill()
		args := append([]string{"agent", "--end", "--data-dir", b.data(), "--node-name", b.name}, f.flags()...)
		if out, err := b.skiff(args...); err != nil {
			b.h.t.Errorf("agent --end: %v\n%s", err, out)
		}
		rt, err := cri.New(cri.Config{Endpoint: f.endpoint()})
		must(b.h.t, err)
		defer rt.Close()
		if left, err := rt.Sandboxes(context.Background()); err != nil || len(left) > 0 {
			b.h.t.Errorf("in the runtime is left %v (%v)", left, err)
		}
		if files, err := os.ReadDir(f.path("cni")); err != nil || len(files) > 0 {
			b.h.t.Errorf("of the network configuration is left %v (%v)", files, err)
		}
	})
}

// serviceFor makes a service of port 80 before the pod of that name.
func (h *hall) serviceFor(admin client.Client, name string) (ip string) {
	h.t.Helper()
	s, err := client.Create(h.ctx, admin, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	})
	must(h.t, err)
	return s.Spec.ClusterIP
}

// kubectl runs kubectl on the machine, with the administrator's rights.
func (b *box) kubectl(args ...string) (string, error) {
	program, err := exec.LookPath("kubectl")
	if err != nil {
		if program, err = filepath.Abs("../../bin/kubectl"); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(b.h.ctx, program, append([]string{"--kubeconfig", cluster.AdminKubeconfig(b.data())}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = b.ns.RunIn(cmd, func() {})
	return out.String(), err
}

// measured tells whether the node knows what the pod uses.
func (h *hall) measured(c *kubernetes.Clientset, node, pod string) error {
	text, err := c.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("metrics/resource").DoRaw(h.ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "pod_memory_working_set_bytes{") && strings.Contains(line, `pod="`+pod+`"`) && !strings.HasSuffix(line, "} 0\n") {
			return nil
		}
	}
	return fmt.Errorf("not in %s", text)
}
