package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/runtime"
)

// setting is one pod being set up or torn down.
type setting struct {
	m       *Manager
	pod     *corev1.Pod
	attempt uint32
	had     Sandbox // from before; ID empty: none
	sandbox Sandbox // the result
}

// step is one thing that must be there before containers start. do may be done
// again: what is there already stays. undo may be called when do was not.
type step struct {
	name   string
	beside bool // runs at the same time as the step before it
	do     func(context.Context, *setting) error
	undo   func(context.Context, *setting) error
}

// steps is all that is set up for a pod, in order; it is undone in reverse.
var steps = []step{
	{name: "promises", do: onlyWhatWeCan, undo: nothing},
	{name: "directories", do: makeDirectories, undo: removeDirectories},
	{name: "cgroup", do: makeCgroup, undo: removeCgroup},
	{name: "volumes", do: setUpVolumes, undo: tearDownVolumes},
	{name: "sandbox", do: runSandbox, undo: stopSandbox, beside: true},
	{name: "hosts file", do: writeHosts, undo: nothing},
}

func nothing(context.Context, *setting) error { return nil }

// setUp runs the steps and tells the machine how it went.
func (m *Manager) setUp(ctx context.Context, p *corev1.Pod, had Sandbox, attempt uint32) Event {
	s := &setting{m: m, pod: p, attempt: attempt, had: had}
	for i := 0; i < len(steps); {
		g, gctx := errgroup.WithContext(ctx)
		for first := true; i < len(steps) && (first || steps[i].beside); i++ {
			first = false
			st := steps[i]
			g.Go(func() error { return st.do(gctx, s) })
		}
		if err := g.Wait(); err != nil {
			return SetUpFailed{Err: err, Sandbox: s.sandbox}
		}
	}
	return SetUpDone{Sandbox: s.sandbox}
}

// tearDown undoes the steps, last first. It goes on after an error, so that one
// stuck mount does not keep the rest.
func (m *Manager) tearDown(ctx context.Context, p *corev1.Pod, sandbox string) Event {
	s := &setting{m: m, pod: p, had: Sandbox{ID: sandbox}}
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := steps[i].undo(ctx, s); err != nil {
			errs = append(errs, err)
			if steps[i].name == "volumes" {
				break // the directories below a mount must not be removed
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return TearDownFailed{Err: err}
	}
	return TornDown{}
}

// onlyWhatWeCan refuses pods that ask for what this agent does not do: started
// without it, they would be less isolated than they ask for, or lack a device.
func onlyWhatWeCan(_ context.Context, s *setting) error {
	switch {
	case s.pod.Spec.HostUsers != nil && !*s.pod.Spec.HostUsers:
		err := errors.New("the pod asks for a user namespace of its own (hostUsers: false), which this node does not make")
		s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
		return err
	case len(s.pod.Spec.ResourceClaims) > 0:
		err := errors.New("the pod has resource claims, which this node cannot prepare")
		s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: "+err.Error())
		return err
	}
	return nil
}

func makeDirectories(_ context.Context, s *setting) error {
	l := s.m.c.Layout
	if l.Root == "" {
		return nil
	}
	uid := string(s.pod.UID)
	for _, dir := range []string{l.Pod(uid), filepath.Join(l.Pod(uid), "containers"), l.PodLogs(s.pod.Namespace, s.pod.Name, uid)} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			s.m.note(s.pod, nil, corev1.EventTypeWarning, "Failed", fmt.Sprintf("error making pod data directories: %v", err))
			return fmt.Errorf("make the pod's directories: %w", err)
		}
	}
	return nil
}

func removeDirectories(_ context.Context, s *setting) error {
	l := s.m.c.Layout
	if l.Root == "" {
		return nil
	}
	if err := os.RemoveAll(l.Pod(string(s.pod.UID))); err != nil {
		return fmt.Errorf("remove the pod's directory: %w", err)
	}
	return nil
}

func makeCgroup(_ context.Context, s *setting) error {
	if err := s.m.c.Cgroups.Ensure(s.pod); err != nil {
		s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedCreatePodContainer", fmt.Sprintf("unable to ensure pod container exists: %v", err))
		return fmt.Errorf("make the pod's cgroup: %w", err)
	}
	return nil
}

func removeCgroup(_ context.Context, s *setting) error {
	if err := s.m.c.Cgroups.Remove(s.pod); err != nil {
		return fmt.Errorf("remove the pod's cgroup: %w", err)
	}
	return nil
}

func setUpVolumes(ctx context.Context, s *setting) error {
	if err := s.m.c.Volumes.SetUp(ctx, s.pod); err != nil {
		if ctx.Err() == nil {
			s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedMount", err.Error())
		}
		return err
	}
	return nil
}

func tearDownVolumes(ctx context.Context, s *setting) error {
	return s.m.c.Volumes.TearDown(ctx, s.pod)
}

// runSandbox keeps the sandbox that is there and ready, or makes a new one.
func runSandbox(ctx context.Context, s *setting) error {
	rt := s.m.c.Runtime
	if s.had.ID != "" {
		if s.had.Ready {
			if st, err := rt.SandboxStatus(ctx, s.had.ID); err == nil && st.State == cri.PodSandboxState_SANDBOX_READY {
				s.sandbox = sandboxOf(st)
				return nil
			}
		}
		if err := rt.StopSandbox(ctx, s.had.ID); err != nil {
			return fmt.Errorf("stop the pod's old sandbox: %s", runtime.Message(err))
		}
	}
	config, err := s.m.sandboxConfig(s.pod, s.attempt)
	if err != nil {
		return err
	}
	handler, err := s.m.runtimeHandler(ctx, s.pod)
	if err != nil {
		return err
	}
	// Not interrupted halfway: a sandbox that the answer of which is lost is an orphan.
	id, err := rt.RunSandbox(context.WithoutCancel(ctx), config, handler)
	if err != nil {
		s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
		s.clearSandboxes(context.WithoutCancel(ctx))
		return fmt.Errorf("create the pod's sandbox: %s", runtime.Message(err))
	}
	st, err := rt.SandboxStatus(context.WithoutCancel(ctx), id)
	if err != nil {
		s.m.note(s.pod, nil, corev1.EventTypeWarning, "FailedPodSandBoxStatus", fmt.Sprintf("Unable to get pod sandbox status: %v", err))
		return fmt.Errorf("read the pod's sandbox: %s", runtime.Message(err))
	}
	s.sandbox = sandboxOf(st)
	return nil
}

// clearSandboxes removes what a failed or unanswered try may have left, since it
// would keep the name from the next one.
func (s *setting) clearSandboxes(ctx context.Context) {
	rt := s.m.c.Runtime
	all, err := rt.Sandboxes(ctx)
	if err != nil {
		return // the next try fails, and comes here again
	}
	for _, sb := range all {
		if sb.Labels[runtime.LabelPodUID] != string(s.pod.UID) || sb.Id == s.had.ID {
			continue
		}
		err := rt.StopSandbox(ctx, sb.Id)
		if err == nil {
			err = rt.RemoveSandbox(ctx, sb.Id)
		}
		if err != nil {
			s.m.left(s.m.c.Logger, "half-made sandbox stays", err)
		}
	}
}

func sandboxOf(st *cri.PodSandboxStatus) Sandbox {
	s := Sandbox{ID: st.Id, Attempt: st.GetMetadata().GetAttempt(), Ready: st.State == cri.PodSandboxState_SANDBOX_READY}
	if ip := st.GetNetwork().GetIp(); ip != "" {
		s.IPs = append(s.IPs, ip)
	}
	for _, more := range st.GetNetwork().GetAdditionalIps() {
		s.IPs = append(s.IPs, more.Ip)
	}
	return s
}

// stopSandbox gives the network back. The sandbox and its ended containers stay
// until the pod is gone, so that logs can be read.
func stopSandbox(ctx context.Context, s *setting) error {
	ids := []string{}
	if s.had.ID != "" {
		ids = append(ids, s.had.ID)
	} else {
		// A set-up that was interrupted may have left one.
		all, err := s.m.c.Runtime.Sandboxes(ctx)
		if err != nil {
			return fmt.Errorf("list sandboxes: %s", runtime.Message(err))
		}
		for _, sb := range all {
			if sb.Labels[runtime.LabelPodUID] == string(s.pod.UID) {
				ids = append(ids, sb.Id)
			}
		}
	}
	for _, id := range ids {
		if err := s.m.c.Runtime.StopSandbox(ctx, id); err != nil {
			return fmt.Errorf("stop the pod's sandbox: %s", runtime.Message(err))
		}
	}
	return nil
}

func writeHosts(_ context.Context, s *setting) error {
	l := s.m.c.Layout
	if l.Root == "" {
		return nil
	}
	name, domain := s.m.c.DNS.hostname(s.pod)
	data, err := hostsFile(s.pod, s.sandbox.IPs, name, domain)
	if err != nil {
		return err
	}
	path := l.hosts(string(s.pod.UID))
	// Written in place: running containers have this very file mounted.
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("write the pod's hosts file: %w", err)
	}
	return nil
}

// clear removes what the runtime and the log directory still have of a pod that is gone.
func (m *Manager) clear(p *corev1.Pod) {
	ctx := m.ctx
	log := m.c.Logger.With("pod", p.Namespace+"/"+p.Name, "uid", p.UID)
	containers, err := m.c.Runtime.Containers(ctx)
	if err != nil {
		m.left(log, "containers of a pod that is gone stay until the next start", err)
		return
	}
	for _, c := range containers {
		if c.Labels[runtime.LabelPodUID] == string(p.UID) {
			if err := m.c.Runtime.RemoveContainer(ctx, c.Id); err != nil {
				m.left(log, "container of a pod that is gone stays", err)
			}
		}
	}
	sandboxes, err := m.c.Runtime.Sandboxes(ctx)
	if err != nil {
		m.left(log, "sandbox of a pod that is gone stays until the next start", err)
		return
	}
	for _, s := range sandboxes {
		if s.Labels[runtime.LabelPodUID] == string(p.UID) {
			if err := m.c.Runtime.StopSandbox(ctx, s.Id); err != nil {
				m.left(log, "sandbox of a pod that is gone stays", err)
			}
			if err := m.c.Runtime.RemoveSandbox(ctx, s.Id); err != nil {
				m.left(log, "sandbox of a pod that is gone stays", err)
			}
		}
	}
	if m.c.Layout.Root != "" {
		if err := os.RemoveAll(m.c.Layout.PodLogs(p.Namespace, p.Name, string(p.UID))); err != nil {
			m.left(log, "logs of a pod that is gone stay", err)
		}
	}
}

// left logs what could not be removed; an agent that ends leaves it to the next one.
func (m *Manager) left(log *slog.Logger, what string, err error) {
	if m.ctx.Err() == nil {
		log.Warn(what, "err", err)
	}
}
