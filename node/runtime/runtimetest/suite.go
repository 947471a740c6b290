// Package runtimetest is the suite that every container runtime must pass: the
// simulated one always, containerd where it is there. What it holds is what
// package pod relies on. Only tests call it.
package runtimetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"skiff/node/runtime"
)

// Subject is a runtime under test.
type Subject struct {
	Runtime runtime.Runtime
	// Image is one that can be had; Missing is one that cannot.
	Image, Missing string
	// LogDirectory is where sandboxes' logs go; empty: there are no files.
	LogDirectory string
	// Command of a container that runs until it is stopped, and of one that ends
	// with code 3 at once after writing "said" to its log. The annotations make a
	// simulated container do the same.
	Runs, Ends       []string
	EndsAnnotations  map[string]string
	CgroupParent     string
	StopGrace        time.Duration // enough for Runs to end by itself, or short
	ShowsOwnLogLines bool          // the log holds what Ends wrote
}

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Subject)
	}{
		{"names itself", namesItself},
		{"images", images},
		{"a sandbox", sandboxLife},
		{"a container", containerLife},
		{"an end by itself", endsByItself},
		{"events", events},
		{"exec", execSync},
		{"what is not there", notThere},
		{"the end of the sandbox ends its containers", sandboxEnds},
		{"logs", readLogs},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, s) })
	}
}

func namesItself(t *testing.T, s Subject) {
	v, err := s.Runtime.Version(t.Context())
	if err != nil || v.RuntimeName == "" || v.RuntimeApiVersion != "v1" {
		t.Errorf("%+v, %v", v, err)
	}
	st, err := s.Runtime.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Status.Conditions {
		if (c.Type == "RuntimeReady" || c.Type == "NetworkReady") && !c.Status {
			t.Errorf("%+v", c)
		}
	}
	if d, err := s.Runtime.CgroupDriver(t.Context()); err != nil || !slices.Contains([]string{"", "cgroupfs", "systemd"}, d) {
		t.Errorf("cgroup driver %q, %v", d, err)
	}
}

func images(t *testing.T, s Subject) {
	ctx := t.Context()
	if img, err := s.Runtime.ImageStatus(ctx, &cri.ImageSpec{Image: s.Missing}); err != nil || img != nil {
		t.Errorf("an image that is not there: %v, %v", img, err)
	}
	if _, err := s.Runtime.PullImage(ctx, &cri.ImageSpec{Image: s.Missing}, nil, nil); err == nil {
		t.Error("an image that is nowhere was pulled")
	}
	img := s.image(t)
	if img.Id == "" || img.Size == 0 {
		t.Errorf("image %+v", img)
	}
	all, err := s.Runtime.Images(ctx)
	if err != nil || !slices.ContainsFunc(all, func(i *cri.Image) bool { return i.Id == img.Id }) {
		t.Errorf("not listed: %v, %v", all, err)
	}
	if err := s.Runtime.RemoveImage(ctx, &cri.ImageSpec{Image: s.Missing}); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

// image makes sure that the image is there.
func (s Subject) image(t *testing.T) *cri.Image {
	t.Helper()
	spec := &cri.ImageSpec{Image: s.Image}
	img, err := s.Runtime.ImageStatus(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if img == nil {
		if _, err := s.Runtime.PullImage(t.Context(), spec, nil, nil); err != nil {
			t.Fatal(err)
		}
		if img, err = s.Runtime.ImageStatus(t.Context(), spec); err != nil || img == nil {
			t.Fatal(img, err)
		}
	}
	return img
}

func (s Subject) sandbox(t *testing.T, annotations map[string]string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "").Replace(t.Name()))
	name = name[max(0, len(name)-40):]
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "suite", Uid: fmt.Sprintf("uid-%s-%d", name, time.Now().UnixNano())},
		Labels:   map[string]string{runtime.LabelPodName: name}, Annotations: annotations,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: s.CgroupParent},
	}
	c.Labels[runtime.LabelPodUID] = c.Metadata.Uid
	if s.LogDirectory != "" {
		c.LogDirectory = s.LogDirectory + "/" + name
	}
	id, err := s.Runtime.RunSandbox(t.Context(), c, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Runtime.StopSandbox(context.Background(), id); err != nil {
			t.Error(err)
		}
		if err := s.Runtime.RemoveSandbox(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	return id, c
}

func (s Subject) container(t *testing.T, sandbox string, config *cri.PodSandboxConfig, command []string) string {
	t.Helper()
	id, err := s.Runtime.CreateContainer(t.Context(), sandbox, &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "c", Attempt: 2}, Image: &cri.ImageSpec{Image: s.image(t).Id, UserSpecifiedImage: s.Image},
		Command: command, LogPath: "c.log", Labels: map[string]string{runtime.LabelPodUID: config.Metadata.Uid, runtime.LabelContainerName: "c"},
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{}, SecurityContext: &cri.LinuxContainerSecurityContext{}},
	}, config)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s Subject) state(t *testing.T, id string) *cri.ContainerStatus {
	t.Helper()
	st, err := s.Runtime.ContainerStatus(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func sandboxLife(t *testing.T, s Subject) {
	id, c := s.sandbox(t, nil)
	st, err := s.Runtime.SandboxStatus(t.Context(), id)
	if err != nil || st.State != cri.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() == "" || st.Metadata.Uid != c.Metadata.Uid {
		t.Fatalf("%+v, %v", st, err)
	}
	other, _ := s.sandbox(t, nil)
	ost, err := s.Runtime.SandboxStatus(t.Context(), other)
	if err != nil || ost.Network.Ip == st.Network.Ip {
		t.Errorf("two sandboxes have the address %s; %v", ost.Network.Ip, err)
	}
	all, err := s.Runtime.Sandboxes(t.Context())
	if err != nil || !slices.ContainsFunc(all, func(o *cri.PodSandbox) bool { return o.Id == id && o.Labels[runtime.LabelPodUID] == c.Metadata.Uid }) {
		t.Errorf("not listed: %v, %v", all, err)
	}
	for range 2 { // the second time there is nothing to do
		if err := s.Runtime.StopSandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := s.Runtime.SandboxStatus(t.Context(), id); err != nil || st.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("stopped: %+v, %v", st, err)
	}
}

func containerLife(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, nil)
	id := s.container(t, sandbox, config, s.Runs)
	if st := s.state(t, id); st.State != cri.ContainerState_CONTAINER_CREATED || st.Metadata.Attempt != 2 {
		t.Errorf("created: %+v", st)
	}
	if err := s.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	st := s.state(t, id)
	if st.State != cri.ContainerState_CONTAINER_RUNNING || st.StartedAt == 0 || st.Labels[runtime.LabelContainerName] != "c" || st.ImageRef == "" {
		t.Errorf("started: %+v", st)
	}
	if err := s.Runtime.StartContainer(t.Context(), id); err == nil {
		t.Error("started twice")
	}
	if err := s.Runtime.UpdateContainer(t.Context(), id, &cri.LinuxContainerResources{CpuShares: 512}); err != nil {
		t.Errorf("update: %v", err)
	}
	for range 2 {
		if err := s.Runtime.StopContainer(t.Context(), id, s.StopGrace); err != nil {
			t.Fatal(err)
		}
	}
	st = s.state(t, id)
	if st.State != cri.ContainerState_CONTAINER_EXITED || st.FinishedAt < st.StartedAt || st.ExitCode == 0 {
		t.Errorf("stopped: %+v", st)
	}
	if err := s.Runtime.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.ContainerStatus(t.Context(), id); !runtime.IsNotFound(err) {
		t.Errorf("removed: %v", err)
	}
}

// ended waits for a container's end by the runtime's events, as the agent does.
func (s Subject) ended(t *testing.T, id string, act func()) *cri.ContainerStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	connected, done := make(chan struct{}), make(chan struct{})
	var once, onceDone sync.Once
	go func() {
		_ = s.Runtime.Events(ctx, func() { once.Do(func() { close(connected) }) }, func(e *cri.ContainerEventResponse) {
			if e.ContainerId == id && e.ContainerEventType == cri.ContainerEventType_CONTAINER_STOPPED_EVENT {
				onceDone.Do(func() { close(done) })
			}
		})
		once.Do(func() { close(connected) })
	}()
	<-connected
	act()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("no event told of the container's end")
	}
	return s.state(t, id)
}

func endsByItself(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, s.EndsAnnotations)
	id := s.container(t, sandbox, config, s.Ends)
	st := s.ended(t, id, func() {
		if err := s.Runtime.StartContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
	if st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("%+v", st)
	}
}

func events(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, nil)
	id := s.container(t, sandbox, config, s.Runs)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	connected, ended := make(chan struct{}), make(chan error, 1)
	got := make(chan *cri.ContainerEventResponse, 64)
	go func() {
		ended <- s.Runtime.Events(ctx, func() { close(connected) }, func(e *cri.ContainerEventResponse) {
			// Of what was before, a runtime may tell or not.
			if e.ContainerId == id && e.ContainerEventType != cri.ContainerEventType_CONTAINER_CREATED_EVENT {
				got <- e
			}
		})
	}()
	<-connected
	if err := s.Runtime.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Runtime.StopContainer(ctx, id, s.StopGrace); err != nil {
		t.Fatal(err)
	}
	for _, want := range []cri.ContainerEventType{cri.ContainerEventType_CONTAINER_STARTED_EVENT, cri.ContainerEventType_CONTAINER_STOPPED_EVENT} {
		select {
		case e := <-got:
			if e.ContainerEventType != want || e.GetPodSandboxStatus().GetMetadata().GetUid() != config.Metadata.Uid {
				t.Errorf("event %+v, want %s", e, want)
			}
		case <-ctx.Done():
			t.Fatalf("no %s", want)
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a stream that ended says nothing")
	}
}

func execSync(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, nil)
	id := s.container(t, sandbox, config, s.Runs)
	if _, err := s.Runtime.ExecSync(t.Context(), id, []string{"true"}, 0); err == nil {
		t.Error("a command ran in a container that was not started")
	}
	if err := s.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Runtime.ExecSync(t.Context(), id, []string{"true"}, time.Minute); err != nil || r.Code != 0 {
		t.Errorf("true: %+v, %v", r, err)
	}
	if r, err := s.Runtime.ExecSync(t.Context(), id, []string{"false"}, time.Minute); err != nil || r.Code != 1 {
		t.Errorf("false: %+v, %v", r, err)
	}
	if r, err := s.Runtime.ExecSync(t.Context(), id, []string{"echo", "hello"}, time.Minute); err != nil || !strings.Contains(string(r.Stdout), "hello") {
		t.Errorf("echo: %+v, %v", r, err)
	}
	if _, err := s.Runtime.ExecSync(t.Context(), id, []string{"sleep", "20"}, time.Second); !runtime.IsTimeout(err) {
		t.Errorf("a command that takes too long: %v", err)
	}
}

func notThere(t *testing.T, s Subject) {
	ctx, none := t.Context(), strings.Repeat("f", 64)
	if _, err := s.Runtime.ContainerStatus(ctx, none); !runtime.IsNotFound(err) {
		t.Errorf("container: %v", err)
	}
	if _, err := s.Runtime.SandboxStatus(ctx, none); !runtime.IsNotFound(err) {
		t.Errorf("sandbox: %v", err)
	}
	if err := s.Runtime.StartContainer(ctx, none); err == nil {
		t.Error("started what is not there")
	}
	for what, err := range map[string]error{
		"stop": s.Runtime.StopContainer(ctx, none, 0), "remove": s.Runtime.RemoveContainer(ctx, none),
		"stop sandbox": s.Runtime.StopSandbox(ctx, none), "remove sandbox": s.Runtime.RemoveSandbox(ctx, none),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func sandboxEnds(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, nil)
	id := s.container(t, sandbox, config, s.Runs)
	if err := s.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := s.Runtime.StopSandbox(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, id); st.State != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %s", st.State)
	}
	if err := s.Runtime.RemoveSandbox(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.ContainerStatus(t.Context(), id); !runtime.IsNotFound(err) {
		t.Errorf("the container outlived its sandbox: %v", err)
	}
}

func readLogs(t *testing.T, s Subject) {
	sandbox, config := s.sandbox(t, s.EndsAnnotations)
	id := s.container(t, sandbox, config, s.Ends)
	s.ended(t, id, func() {
		if err := s.Runtime.StartContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
	path := config.LogDirectory + "/c.log"
	read := func(o *logs.LogOptions) string {
		var b strings.Builder
		if err := s.Runtime.ReadLog(t.Context(), id, path, o, &b, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	all := read(&logs.LogOptions{})
	if strings.Count(all, "\n") != 1 || (s.ShowsOwnLogLines && all != "said\n") {
		t.Errorf("log %q", all)
	}
	if got := read(&logs.LogOptions{Follow: true}); got != all {
		t.Errorf("followed after the end: %q", got)
	}
	none := int64(0)
	if got := read(&logs.LogOptions{TailLines: &none}); got != "" {
		t.Errorf("no lines: %q", got)
	}
	if got := read(&logs.LogOptions{Since: time.Now().Add(time.Hour)}); got != "" {
		t.Errorf("from the future: %q", got)
	}
	stamp, rest, ok := strings.Cut(read(&logs.LogOptions{Timestamp: true}), " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || !ok || rest != all {
		t.Errorf("with time: %q %q", stamp, rest)
	}
}
