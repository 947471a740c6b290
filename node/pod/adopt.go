package pod

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Found is what the runtime has of a pod when its machine is made: nothing for a
// new pod, everything for one that the agent left running when it ended.
type Found struct {
	Sandbox Sandbox // ID empty: none
	Runs    map[string][]Run
}

// Record is what of a machine must survive the agent, beside what runtime and API tell.
type Record struct {
	Namespace, Name string
	StartTime       time.Time
	Containers      map[string]ContainerRecord `json:",omitempty"`
}

// ContainerRecord is a container's part of a Record.
type ContainerRecord struct {
	Backoff Backoff
	Passed  bool                         `json:",omitempty"`
	Allowed *corev1.ResourceRequirements `json:",omitempty"` // resources in force after a resize
}

// NewMachine takes a pod on: a new one (empty found, nil record), or one that is
// adopted. Nothing is done before the first Step.
func NewMachine(p *corev1.Pod, found Found, rec *Record, now time.Time) *Machine {
	m := &Machine{Pod: p, State: Preparing, SetUp: Undone, TearDown: Undone, Removal: Undone, StartTime: now}
	if p.Status.StartTime != nil {
		m.StartTime = p.Status.StartTime.Time
	}
	m.respec()
	m.Sandbox = found.Sandbox
	for _, c := range m.Containers {
		m.adopt(c, found.Runs[c.Name], now)
	}
	if rec != nil {
		m.restore(rec)
	}
	for _, c := range m.Containers {
		if c.Kind == App && c.Run != nil {
			m.Initialized = true
		}
	}
	if terminal(p.Status.Phase) {
		m.settled(now)
	} else if p.DeletionTimestamp != nil {
		m.deleted(now)
	}
	return m
}

// NewRejected is a pod that this node does not take on.
func NewRejected(p *corev1.Pod, reason, message string) *Machine {
	m := &Machine{Pod: p, State: Finished, SetUp: Undone, TearDown: Done, Removal: Undone}
	m.respec()
	m.Ending = &Ending{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + message}
	return m
}

// settled: the API says that the pod is over; what is left of it goes.
func (m *Machine) settled(now time.Time) {
	m.end(&Ending{Phase: m.Pod.Status.Phase, Reason: m.Pod.Status.Reason, Message: m.Pod.Status.Message, Deadline: now.Add(time.Second)})
}

// adopt takes a container's lives over from the runtime, or, if the runtime has
// forgotten them, from the API.
func (m *Machine) adopt(c *Container, runs []Run, now time.Time) {
	before := m.statusOf(c.Name)
	if before != nil {
		c.Restarts = before.RestartCount
	}
	for i := range runs {
		r := runs[i]
		switch {
		case c.Run == nil || r.Attempt > c.Run.Attempt:
			c.Prev, c.Run = c.Run, &r
		case c.Prev == nil || r.Attempt > c.Prev.Attempt:
			c.Prev = &r
		}
	}
	if c.Run == nil {
		m.recall(c, before)
		return
	}
	c.Restarts = max(c.Restarts, int32(c.Run.Attempt))
	if !c.Run.Running {
		c.State = ContainerExited
		c.Ready = c.Kind == Init && c.Run.ExitCode == 0
		return
	}
	c.State = ContainerUp
	run := *c.Run
	m.live(c, run)
	// Readiness goes on as the API has it, so that an agent's restart takes
	// nothing out of a service.
	if before != nil && strings.HasSuffix(before.ContainerID, "://"+c.Run.ID) {
		c.Started = before.Started != nil && *before.Started
		c.Ready = before.Ready
	}
	c.Passed = c.Started
}

// recall makes of the API's status what the runtime has forgotten: a container
// that ran must not count as one that never did.
func (m *Machine) recall(c *Container, before *corev1.ContainerStatus) {
	if before == nil {
		return
	}
	t := before.State.Terminated
	switch {
	case t != nil:
	case before.State.Running != nil:
		t = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown", StartedAt: before.State.Running.StartedAt,
			Message: "The container could not be located when the pod was terminated", ContainerID: before.ContainerID}
	case before.LastTerminationState.Terminated != nil:
		t = before.LastTerminationState.Terminated
	default:
		return
	}
	c.Run = &Run{Attempt: uint32(before.RestartCount), ExitCode: t.ExitCode, Reason: t.Reason, Message: t.Message,
		Started: t.StartedAt.Time, Finished: t.FinishedAt.Time, Image: before.Image, ImageID: before.ImageID}
	if _, id, ok := strings.Cut(t.ContainerID, "://"); ok {
		c.Run.ID = id
	}
	c.State = ContainerExited
	c.Ready = c.Kind == Init && t.ExitCode == 0
}

func (m *Machine) statusOf(name string) *corev1.ContainerStatus {
	s := &m.Pod.Status
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// Record is what is to be kept on disk.
func (m *Machine) Record() Record {
	r := Record{Namespace: m.Pod.Namespace, Name: m.Pod.Name, StartTime: m.StartTime, Containers: map[string]ContainerRecord{}}
	for _, c := range m.Containers {
		cr := ContainerRecord{Backoff: c.Backoff, Passed: c.Passed}
		if c.Run != nil {
			cr.Allowed = c.Run.Resources
		}
		if cr.Backoff.Span != 0 || cr.Passed || cr.Allowed != nil {
			r.Containers[c.Name] = cr
		}
	}
	return r
}

func (m *Machine) restore(r *Record) {
	if !r.StartTime.IsZero() {
		m.StartTime = r.StartTime
	}
	for name, cr := range r.Containers {
		c := m.container(name)
		if c == nil {
			continue
		}
		c.Backoff = cr.Backoff
		c.Passed = c.Passed || (cr.Passed && c.State == ContainerUp)
		if c.Run != nil && c.Run.Running && c.Run.Resources == nil {
			c.Run.Resources = cr.Allowed
		}
	}
}
