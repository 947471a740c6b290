package parts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/conformance/upstream"
	"skiff/image"
	"skiff/node/runtime/containerd"
	"skiff/registry"
	"skiff/skifftest"
)

// kubeletConfig keeps upstream's kubelet within one folder and loopback: it makes no groups of its own and no rules of packets.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: %d
healthzPort: 0
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
oomScoreAdj: 0
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
containerRuntimeEndpoint: %s
podLogsDir: %s/logs
volumePluginDir: %s/plugins
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s/ca.crt}}
authorization: {mode: Webhook}
`

// Upstream's kubelet is a node of Skiff's: it registers, becomes ready, gets a pod from Skiff's scheduler, runs it with containerd
// and takes it away again.
func TestUpstreamsKubeletOnSkiff(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	folder := programs(t, "kubelet")
	t.Parallel()
	keepTunables(t)
	dir, err := os.MkdirTemp("", "parts") // short: there are sockets in it
	ok(t, err)
	t.Cleanup(func() {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io") // the pattern is right
		for _, g := range groups {
			_ = os.Remove(g) // containerd's default, left empty; if it is not, it is somebody else's
		}
		// It mounts its folder on itself, and leaves that when it ends.
		if err := unix.Unmount(filepath.Join(dir, "kubelet"), 0); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount kubelet's folder: %v", err)
		}
		ok(t, os.RemoveAll(dir))
	})
	endpoint, pause := startContainerd(t, dir)

	k := skifftest.New(t, skifftest.Config{Nodes: -1, Listen: true})
	user := k.User("system:node:theirs", "system:nodes")
	kubeconfig, config := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "config.yaml")
	ports, err := upstream.FreePorts(1)
	ok(t, errors.Join(err,
		upstream.WriteKubeconfig(kubeconfig, user),
		os.WriteFile(filepath.Join(dir, "ca.crt"), user.CAData, 0o600)))
	ok(t, os.WriteFile(config, fmt.Appendf(nil, kubeletConfig, ports[0], endpoint, dir, dir, dir), 0o600))
	p, err := upstream.Run(dir, filepath.Join(folder, "kubelet"), "--kubeconfig="+kubeconfig, "--config="+config,
		"--root-dir="+filepath.Join(dir, "kubelet"), "--cert-dir="+filepath.Join(dir, "certs"), "--hostname-override=theirs")
	ok(t, err)
	stop(t, p)

	admin := open(t, k.RESTConfig())
	admin.account("default")
	pod := hostPod(pause)
	_, err = admin.CoreV1().Pods("default").Create(admin.ctx, pod, metav1.CreateOptions{})
	ok(t, err)
	until(admin, admin.CoreV1().RESTClient(), "", "nodes", "the node is ready", func(n *corev1.Node) bool {
		return n.Status.NodeInfo.KubeletVersion == "v1.37.2" && is(n.Status.Conditions, corev1.NodeReady)
	})
	until(admin, admin.CoreV1().RESTClient(), "default", "pods", "the pod runs", func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "theirs" && p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].Ready
	})
	pods, err := admin.CoreV1().Pods("default").List(admin.ctx, metav1.ListOptions{})
	ok(t, err)
	ok(t, admin.CoreV1().Pods("default").Delete(admin.ctx, pod.Name, metav1.DeleteOptions{}))
	admin.gone(pods)
}

func is(conditions []corev1.NodeCondition, kind corev1.NodeConditionType) bool {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// hostPod is a pod in the machine's network.
func hostPod(image string) *corev1.Pod {
	no, second := false, int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "still"},
		Spec: corev1.PodSpec{
			HostNetwork: true, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &second,
			Containers: []corev1.Container{{Name: "still", Image: image, ImagePullPolicy: corev1.PullNever}},
		},
	}
}

// startContainerd runs a containerd of the test's own that has the image of pause, and returns where it listens and the image's name.
// Its network is one in name: the test's pods have the machine's.
func startContainerd(t *testing.T, dir string) (endpoint, pause string) {
	t.Helper()
	repository, err := filepath.Abs(filepath.Join("..", ".."))
	ok(t, err)
	found, err := containerd.Find(filepath.Join(repository, "bin", "skiff"))
	if err != nil {
		t.Skip(err)
	}
	img, err := image.Pause("")
	ok(t, err)
	pause, err = image.PauseReference(img)
	ok(t, err)
	bundled, err := registry.Static(img)
	ok(t, err)
	networks, plugins := filepath.Join(dir, "net.d"), filepath.Join(dir, "cni")
	ok(t, errors.Join(os.Mkdir(networks, 0o755), os.Mkdir(plugins, 0o755),
		os.WriteFile(filepath.Join(plugins, "none"), []byte("#!/bin/sh\nexit 1\n"), 0o755),
		os.WriteFile(filepath.Join(networks, "10-none.conflist"), []byte(`{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"none"}]}`), 0o644)))
	r, err := containerd.New(containerd.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Programs: found, SandboxImage: pause, Bundled: bundled,
		CNIConfDir: networks, CNIBinDirs: []string{plugins}, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, r.KillAll(context.Background())); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-r.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return r.Endpoint(), pause
}

// keepTunables gives the kernel's settings back that upstream's kubelet changes when it starts.
func keepTunables(t *testing.T) {
	t.Helper()
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		path := filepath.Join("/proc/sys", name)
		was, err := os.ReadFile(path)
		ok(t, err)
		t.Cleanup(func() { ok(t, os.WriteFile(path, was, 0o644)) })
	}
}
