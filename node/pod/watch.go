package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/client"
	"skiff/node/runtime"
)

// leftover is what the runtime has of one pod at the agent's start.
type leftover struct {
	Found
	namespace, name string
	grace           int64
}

// waitFound lists what runs on the node, again until the runtime answers.
func (m *Manager) waitFound(ctx context.Context) (map[types.UID]*leftover, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		found, err := m.find(ctx)
		if err == nil {
			return found, nil
		}
		m.c.Logger.Warn("container runtime does not answer", "err", err)
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *Manager) find(ctx context.Context) (map[types.UID]*leftover, error) {
	out := map[types.UID]*leftover{}
	of := func(labels map[string]string) *leftover {
		uid := types.UID(labels[runtime.LabelPodUID])
		if uid == "" {
			return nil // not a pod's: somebody else uses the runtime too
		}
		if out[uid] == nil {
			out[uid] = &leftover{Found: Found{Runs: map[string][]Run{}}, namespace: labels[runtime.LabelPodNamespace], name: labels[runtime.LabelPodName], grace: 30}
		}
		return out[uid]
	}
	sandboxes, err := m.c.Runtime.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes {
		l := of(s.Labels)
		if l == nil || (l.Sandbox.ID != "" && s.GetMetadata().GetAttempt() < l.Sandbox.Attempt) {
			continue
		}
		l.Sandbox = Sandbox{ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), Ready: s.State == cri.PodSandboxState_SANDBOX_READY}
		if st, err := m.c.Runtime.SandboxStatus(ctx, s.Id); err == nil {
			l.Sandbox = sandboxOf(st)
		}
	}
	containers, err := m.c.Runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		l := of(c.Labels)
		if l == nil {
			continue
		}
		if g, err := strconv.ParseInt(c.Annotations[annotationGrace], 10, 64); err == nil {
			l.grace = g
		}
		if c.State == cri.ContainerState_CONTAINER_CREATED {
			// The agent ended between create and start: it never lived.
			if err := m.c.Runtime.RemoveContainer(ctx, c.Id); err != nil {
				m.c.Logger.Warn("container that never started", "id", c.Id, "err", err)
			}
			continue
		}
		st, err := m.c.Runtime.ContainerStatus(ctx, c.Id)
		if runtime.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		name := c.Labels[runtime.LabelContainerName]
		l.Runs[name] = append(l.Runs[name], m.runOf(st))
	}
	return out, nil
}

// adopt makes machines of what the API has and what runs, and ends what runs
// without being in the API.
func (m *Manager) adopt(first client.Batch, found map[types.UID]*leftover, records map[types.UID]Record) {
	known := map[types.UID]bool{}
	var fresh []*corev1.Pod
	for _, c := range first.Changes {
		p, ok := c.New.(*corev1.Pod)
		if !ok {
			continue
		}
		known[p.UID] = true
		rec, recorded := records[p.UID]
		l := found[p.UID]
		if l == nil && !recorded {
			fresh = append(fresh, p)
			continue
		}
		if l == nil {
			l = &leftover{}
		}
		m.readMessages(p, l)
		m.begin(p, NewMachine(p, l.Found, &rec, time.Now()))
	}
	for uid, l := range found {
		if !known[uid] {
			known[uid] = true
			m.orphan(uid, l)
		}
	}
	for uid, rec := range records {
		if !known[uid] {
			known[uid] = true
			m.orphan(uid, &leftover{namespace: rec.Namespace, name: rec.Name})
		}
	}
	m.orphanDirectories(known)
	// New pods last: what is adopted was there first and keeps its resources.
	for _, p := range fresh {
		m.admit(p)
	}
}

// readMessages fills in why containers ended while the agent was away.
func (m *Manager) readMessages(p *corev1.Pod, l *leftover) {
	for name, runs := range l.Runs {
		if c := findContainer(p, name); c != nil {
			for i := range runs {
				m.endMessage(p, c, &runs[i])
			}
		}
	}
}

// orphan ends a pod whose object went while the agent was away.
func (m *Manager) orphan(uid types.UID, l *leftover) {
	m.c.Logger.Info("pod was deleted while the agent was away", "pod", l.namespace+"/"+l.name, "uid", uid)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: l.name, UID: uid}}
	p.Spec.TerminationGracePeriodSeconds = &l.grace
	p.DeletionTimestamp = &removedMark
	for name := range l.Runs {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
	}
	machine := NewMachine(p, l.Found, nil, time.Now())
	machine.Removal = Done // there is no object to report to, nor to delete
	m.begin(p, machine)
}

func (m *Manager) orphanDirectories(known map[types.UID]bool) {
	if m.c.Layout.Root == "" {
		return
	}
	entries, err := os.ReadDir(filepath.Join(m.c.Layout.Root, "pods"))
	if err != nil && !os.IsNotExist(err) {
		m.c.Logger.Warn("directories of pods", "err", err)
	}
	for _, e := range entries {
		if uid := types.UID(e.Name()); e.IsDir() && !known[uid] {
			m.orphan(uid, &leftover{})
		}
	}
}

// watchRuntime hears what happens to containers, and lists them all now and then.
func (m *Manager) watchRuntime(ctx context.Context) {
	m.goDo(func() {
		for sleep(ctx, m.c.Resync) {
			m.relist(ctx)
		}
	})
	for ctx.Err() == nil {
		err := m.c.Runtime.Events(ctx, func() { m.goDo(func() { m.relist(ctx) }) }, func(e *cri.ContainerEventResponse) { m.heard(e) })
		if errors.Is(err, runtime.ErrNoEvents) {
			m.c.Logger.Warn("the container runtime sends no events; listing every second instead")
			for sleep(ctx, time.Second) {
				m.relist(ctx)
			}
			return
		}
		if ctx.Err() == nil {
			m.c.Logger.Warn("events of the container runtime", "err", err)
		}
		sleep(ctx, time.Second)
	}
}

// heard takes one event of the runtime.
func (m *Manager) heard(e *cri.ContainerEventResponse) {
	uid := types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())
	stopped := e.ContainerEventType == cri.ContainerEventType_CONTAINER_STOPPED_EVENT || e.ContainerEventType == cri.ContainerEventType_CONTAINER_DELETED_EVENT
	if uid == "" || !stopped {
		return
	}
	if e.ContainerId == e.GetPodSandboxStatus().GetId() {
		if e.PodSandboxStatus.State != cri.PodSandboxState_SANDBOX_READY {
			m.tell(uid, SandboxLost{ID: e.ContainerId})
		}
		return
	}
	for _, st := range e.ContainersStatuses {
		if st.Id == e.ContainerId && st.State == cri.ContainerState_CONTAINER_EXITED {
			m.ended(uid, st)
			return
		}
	}
	m.goDo(func() { m.confirm(m.ctx, uid, "", e.ContainerId) })
}

// ended tells a machine of a container's end, with its message.
func (m *Manager) ended(uid types.UID, st *cri.ContainerStatus) {
	run := m.runOf(st)
	name := st.Labels[runtime.LabelContainerName]
	if name == "" {
		name = st.GetMetadata().GetName()
	}
	m.mu.RLock()
	v, ok := m.views[uid]
	m.mu.RUnlock()
	if !ok {
		return
	}
	if c := findContainer(v.Pod, name); c != nil {
		m.endMessage(v.Pod, c, &run)
	}
	m.tell(uid, Exited{Name: name, Run: run})
}

// confirm reads one container that may have ended, and tells its machine if it has.
func (m *Manager) confirm(ctx context.Context, uid types.UID, name, id string) {
	st, err := m.c.Runtime.ContainerStatus(ctx, id)
	switch {
	case runtime.IsNotFound(err) && name != "":
		m.tell(uid, Exited{Name: name, Run: Run{ID: id, ExitCode: 137, Reason: "ContainerStatusUnknown", Finished: time.Now(),
			Message: "The container could not be located when the pod was terminated"}})
	case err == nil && st.State != cri.ContainerState_CONTAINER_RUNNING && st.State != cri.ContainerState_CONTAINER_CREATED:
		m.ended(uid, st)
	}
}

// relist compares what should run with what does. What a list says is confirmed
// by a second look, since it may be older than what the machines know.
func (m *Manager) relist(ctx context.Context) {
	containers, err := m.c.Runtime.Containers(ctx)
	if err != nil {
		return
	}
	sandboxes, err := m.c.Runtime.Sandboxes(ctx)
	if err != nil {
		return
	}
	up := map[string]bool{}
	for _, c := range containers {
		up[c.Id] = c.State == cri.ContainerState_CONTAINER_RUNNING
	}
	for _, s := range sandboxes {
		up[s.Id] = s.State == cri.PodSandboxState_SANDBOX_READY
	}
	m.mu.RLock()
	views := make(map[types.UID]View, len(m.views))
	for uid, v := range m.views {
		views[uid] = v
	}
	m.mu.RUnlock()
	for uid, v := range views {
		for name, c := range v.Containers {
			if c.Run != nil && c.Run.Running && !up[c.Run.ID] {
				m.confirm(ctx, uid, name, c.Run.ID)
			}
		}
		if v.Sandbox.Ready && !up[v.Sandbox.ID] {
			st, err := m.c.Runtime.SandboxStatus(ctx, v.Sandbox.ID)
			if runtime.IsNotFound(err) || (err == nil && st.State != cri.PodSandboxState_SANDBOX_READY) {
				m.tell(uid, SandboxLost{ID: v.Sandbox.ID})
			}
		}
	}
}
