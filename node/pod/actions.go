package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/api"
	"skiff/node/image"
	"skiff/node/runtime"
)

// do carries out one action: at once if it is quick, else beside the loop; then
// its outcome comes back as an event.
func (m *Manager) do(e *entry, a Action) {
	p := e.m.Pod
	ctx := e.ctx
	switch a := a.(type) {
	case DoNote:
		m.note(p, findContainer(p, a.Container), a.Type, a.Reason, a.Message)
	case DoCancel:
		e.cancel()
		e.ctx, e.cancel = context.WithCancel(m.ctx)
	case DoSetUp:
		had := e.m.Sandbox
		m.goDo(func() { m.tell(p.UID, m.setUp(ctx, p, had, a.Attempt)) })
	case DoTearDown:
		sandbox := e.m.Sandbox.ID
		m.goDo(func() { m.tell(p.UID, m.tearDown(m.ctx, p, sandbox)) })
	case DoStart:
		r := m.request(e, a)
		m.goDo(func() { m.tell(p.UID, m.start(ctx, r)) })
	case DoStop:
		spec := e.m.container(a.Name).Spec
		m.goDo(func() { m.tell(p.UID, m.stop(m.ctx, p, spec, a)) })
	case DoRemove:
		m.goDo(func() {
			if err := m.c.Runtime.RemoveContainer(m.ctx, a.ID); err != nil {
				m.c.Logger.Warn("old container stays", "pod", p.Namespace+"/"+p.Name, "err", err)
			}
		})
	case DoDelete:
		m.goDo(func() { m.delete(p) })
	case DoResize:
		m.resize(e)
	}
}

func (m *Manager) request(e *entry, a DoStart) containerRequest {
	c := e.m.container(a.Name)
	r := containerRequest{pod: e.m.Pod, spec: c.Spec, kind: c.Kind, attempt: a.Attempt, sandbox: e.m.Sandbox}
	for i := range e.m.Pod.Spec.EphemeralContainers {
		ec := &e.m.Pod.Spec.EphemeralContainers[i]
		if ec.Name == a.Name && ec.TargetContainerName != "" {
			if t := e.m.container(ec.TargetContainerName); t != nil && t.Run != nil {
				r.target = t.Run.ID
			}
		}
	}
	return r
}

// start brings one container up: image, configuration, create, start, postStart.
func (m *Manager) start(ctx context.Context, r containerRequest) Event {
	p, c := r.pod, r.spec
	fail := func(reason, message string) Event {
		return StartFailed{Name: c.Name, Reason: reason, Message: message}
	}
	sandbox, err := m.sandboxConfig(p, r.sandbox.Attempt)
	if err != nil {
		return fail("CreateContainerConfigError", err.Error())
	}
	if err := m.ensureImages(ctx, &r, sandbox); err != nil {
		var ie *image.Error
		if !errors.As(err, &ie) {
			return fail("ErrImagePull", err.Error())
		}
		m.note(p, c, corev1.EventTypeWarning, "Failed", "Error: "+ie.Reason)
		return StartFailed{Name: c.Name, Reason: ie.Reason, Message: ie.Message, Pull: ie.Pull}
	}
	config, err := m.containerConfig(ctx, r)
	if err != nil {
		m.note(p, c, corev1.EventTypeWarning, "Failed", "Error: "+message(err))
		return fail("CreateContainerConfigError", message(err))
	}
	if ctx.Err() != nil {
		return fail("", "")
	}
	// From here on the container exists: an interruption must not lose it.
	solid := context.WithoutCancel(ctx)
	id, err := m.c.Runtime.CreateContainer(solid, r.sandbox.ID, config, sandbox)
	if err != nil {
		m.note(p, c, corev1.EventTypeWarning, "Failed", "Error: "+runtime.Message(err))
		return fail("CreateContainerError", runtime.Message(err))
	}
	m.note(p, c, corev1.EventTypeNormal, "Created", "Container created")
	if err := m.c.Runtime.StartContainer(solid, id); err != nil {
		m.note(p, c, corev1.EventTypeWarning, "Failed", "Error: "+runtime.Message(err))
		return m.notStarted(solid, r, id, err)
	}
	m.note(p, c, corev1.EventTypeNormal, "Started", "Container started")
	return m.afterStart(ctx, r, id)
}

// message is an error's text for a user: the API's words, if it is the API's.
func message(err error) string {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return s.Status().Message
	}
	return err.Error()
}

// notStarted is a container that was made but did not start: it had a life, a short one.
func (m *Manager) notStarted(ctx context.Context, r containerRequest, id string, cause error) Event {
	run := Run{ID: id, Attempt: r.attempt, ExitCode: 128, Reason: "StartError", Finished: time.Now(), Image: r.spec.Image, ImageID: r.image.GetId(), Message: runtime.Message(cause)}
	if st, err := m.c.Runtime.ContainerStatus(ctx, id); err == nil && st.State == cri.ContainerState_CONTAINER_EXITED {
		run = m.runOf(st)
	}
	return StartFailed{Name: r.spec.Name, Reason: "RunContainerError", Message: runtime.Message(cause), Run: &run}
}

// afterStart runs the postStart hook and reports what the container is then.
func (m *Manager) afterStart(ctx context.Context, r containerRequest, id string) Event {
	p, c := r.pod, r.spec
	solid := context.WithoutCancel(ctx)
	var hookErr error
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		hookErr = m.hook(ctx, p, c, id, r.sandbox, c.Lifecycle.PostStart)
		if hookErr != nil && ctx.Err() == nil {
			m.note(p, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			m.note(p, c, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
			grace := time.Duration(corev1.DefaultTerminationGracePeriodSeconds) * time.Second
			if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
				grace = time.Duration(*g) * time.Second
			}
			if err := m.c.Runtime.StopContainer(solid, id, grace); err != nil {
				m.c.Logger.Warn("container whose postStart hook failed", "pod", p.Namespace+"/"+p.Name, "container", c.Name, "err", err)
			}
		}
	}
	st, err := m.c.Runtime.ContainerStatus(solid, id)
	if err != nil {
		return StartFailed{Name: c.Name, Reason: "RunContainerError", Message: runtime.Message(err)}
	}
	run := m.runOf(st)
	run.Attempt = r.attempt
	m.endMessage(p, c, &run)
	if !run.Running && hookErr != nil && ctx.Err() == nil {
		return StartFailed{Name: c.Name, Reason: "PostStartHookError", Message: hookErr.Error(), Run: &run}
	}
	return Started{Name: c.Name, Run: run}
}

// stop ends one container: preStop hook, stop signal, and after the grace a kill.
func (m *Manager) stop(ctx context.Context, p *corev1.Pod, c *corev1.Container, a DoStop) Event {
	grace := a.Grace
	if !a.Again {
		text := a.Message
		if text == "" {
			text = "Stopping container " + c.Name
		}
		m.note(p, c, corev1.EventTypeNormal, "Killing", text)
		grace = m.preStop(ctx, p, c, a)
	}
	err := m.c.Runtime.StopContainer(ctx, a.ID, grace)
	if err != nil {
		return StopFailed{Name: a.Name, Err: err}
	}
	st, err := m.c.Runtime.ContainerStatus(ctx, a.ID)
	if runtime.IsNotFound(err) {
		return Exited{Name: a.Name, Run: Run{ID: a.ID, ExitCode: 137, Reason: "ContainerStatusUnknown", Finished: time.Now(), Message: "The container could not be located when the pod was terminated"}}
	}
	if err != nil || st.State == cri.ContainerState_CONTAINER_RUNNING {
		return StopFailed{Name: a.Name, Err: fmt.Errorf("container %s runs on after its stop: %w", a.Name, err)}
	}
	run := m.runOf(st)
	m.endMessage(p, c, &run)
	return Exited{Name: a.Name, Run: run}
}

// minGraceAfterHook is what a container has left to end in, however long its hook took.
const minGraceAfterHook = 2 * time.Second

func (m *Manager) preStop(ctx context.Context, p *corev1.Pod, c *corev1.Container, a DoStop) time.Duration {
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || a.Grace <= time.Second {
		return a.Grace
	}
	begin := time.Now()
	hookCtx, cancel := context.WithTimeout(ctx, a.Grace)
	defer cancel()
	view, _ := m.viewOf(p)
	if err := m.hook(hookCtx, p, c, a.ID, view.Sandbox, c.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
		m.note(p, c, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
	return max(a.Grace-time.Since(begin), minGraceAfterHook)
}

func (m *Manager) viewOf(p *corev1.Pod) (View, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.views[p.UID]
	return v, ok
}

// delete removes the API object of a pod that has ended.
func (m *Manager) delete(p *corev1.Pod) {
	zero := int64(0)
	err := m.c.Client.Delete(m.ctx, api.For[*corev1.Pod](), p.Namespace, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	switch {
	case err == nil: // the feed tells when it is gone
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		m.tell(p.UID, Removed{})
	default:
		m.tell(p.UID, RemovalFailed{Err: err})
	}
}

// runOf is a container's life as the runtime tells it.
func (m *Manager) runOf(st *cri.ContainerStatus) Run {
	r := Run{
		ID: st.Id, Attempt: st.GetMetadata().GetAttempt(), Running: st.State == cri.ContainerState_CONTAINER_RUNNING,
		ExitCode: st.ExitCode, Reason: st.Reason, Message: st.Message,
		Image: st.GetImage().GetImage(), ImageID: st.ImageRef, LogPath: st.LogPath,
	}
	if st.StartedAt > 0 {
		r.Started = time.Unix(0, st.StartedAt)
	}
	if st.FinishedAt > 0 {
		r.Finished = time.Unix(0, st.FinishedAt)
	}
	if u := st.GetUser().GetLinux(); u != nil {
		r.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if !r.Running && r.Reason == "" {
		r.Reason = "Completed"
		if r.ExitCode != 0 {
			r.Reason = "Error"
		}
	}
	if st.State == cri.ContainerState_CONTAINER_UNKNOWN {
		r.ExitCode, r.Reason = 137, "ContainerStatusUnknown"
	}
	return r
}

// resize brings the containers' resources in line with the spec, if they fit.
func (m *Manager) resize(e *entry) {
	p := e.m.Pod
	others := m.admitted()
	for i, o := range others {
		if o.UID == p.UID {
			others = append(others[:i], others[i+1:]...)
			break
		}
	}
	if reason, message := m.c.Admit(p, others); reason != "" {
		verdict := &Resize{Reason: corev1.PodReasonDeferred, Message: message}
		if own, _ := m.c.Admit(p, nil); own != "" {
			verdict.Reason = corev1.PodReasonInfeasible
		}
		m.goDo(func() { m.tell(p.UID, Resized{Resize: verdict}) })
		return
	}
	ids := map[string]string{}
	for _, c := range e.m.Containers {
		if c.State == ContainerUp && !c.outdated() {
			ids[c.Name] = c.Run.ID
		}
	}
	m.goDo(func() { m.tell(p.UID, m.applyResize(p, ids)) })
}

func (m *Manager) applyResize(p *corev1.Pod, ids map[string]string) Event {
	failed := func(err error) Event {
		m.note(p, nil, corev1.EventTypeWarning, "ResizeError", err.Error())
		return Resized{Resize: &Resize{Reason: corev1.PodReasonDeferred, Message: err.Error()}}
	}
	if err := m.c.Cgroups.Ensure(p); err != nil {
		return failed(err)
	}
	out := Resized{Runs: map[string]corev1.ResourceRequirements{}}
	for name, id := range ids {
		c := findContainer(p, name)
		if err := m.c.Runtime.UpdateContainer(m.ctx, id, linuxResources(p, c, c.Resources, m.c.Cgroups.Memory(), false)); err != nil {
			return failed(fmt.Errorf("container %s: %s", name, runtime.Message(err)))
		}
		out.Runs[name] = c.Resources
	}
	return out
}
