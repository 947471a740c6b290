package pod

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Host is what a pod's status says of its node.
type Host struct {
	IPs []string // the node's addresses, the primary first
	// RuntimeName is the part of container ids before "://".
	RuntimeName string
}

// Status is the pod's status as the API should show it. It keeps the conditions
// that others wrote, and the transition times of those that did not change.
func (m *Machine) Status(h Host, now time.Time) corev1.PodStatus {
	old := &m.Pod.Status
	s := corev1.PodStatus{
		ObservedGeneration: m.Pod.Generation,
		QOSClass:           QOS(m.Pod),
		StartTime:          timeOrNil(m.StartTime),
		NominatedNodeName:  old.NominatedNodeName,
		Resize:             old.Resize,
	}
	if len(h.IPs) > 0 {
		s.HostIP = h.IPs[0]
		for _, ip := range h.IPs {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	for _, ip := range m.podIPs(h) {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
	if m.rejected() {
		s.ContainerStatuses = nil
	} else {
		m.containerStatuses(&s, h)
	}
	s.Phase = m.phase(&s)
	if m.Ending != nil {
		s.Reason, s.Message = m.Ending.Reason, m.Ending.Message
	}
	if s.Reason == "" && old.Phase == s.Phase && terminal(s.Phase) {
		s.Reason, s.Message = old.Reason, old.Message
	}
	s.Conditions = m.conditions(&s, now)
	s.ResourceClaimStatuses = old.ResourceClaimStatuses
	s.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus
	s.NodeAllocatableResourceClaimStatuses = old.NodeAllocatableResourceClaimStatuses
	return s
}

func terminal(p corev1.PodPhase) bool { return p == corev1.PodFailed || p == corev1.PodSucceeded }

// rejected: the pod was never taken on.
func (m *Machine) rejected() bool {
	return m.StartTime.IsZero() && m.Ending != nil && m.Ending.Phase == corev1.PodFailed
}

func timeOrNil(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	at := metav1.NewTime(t).Rfc3339Copy()
	return &at
}

func (m *Machine) podIPs(h Host) []string {
	if m.Pod.Spec.HostNetwork {
		if m.Sandbox.ID == "" {
			return nil
		}
		return h.IPs
	}
	if len(m.Sandbox.IPs) > 0 {
		return m.Sandbox.IPs
	}
	// A finished pod keeps the addresses that it had.
	if m.over() || m.Ending != nil {
		var ips []string
		for _, ip := range m.Pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return ips
	}
	return nil
}

func (m *Machine) containerStatuses(s *corev1.PodStatus, h Host) {
	for _, c := range m.Containers {
		cs := m.containerStatus(c, h)
		switch c.Kind {
		case Init, Sidecar:
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		case App:
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		case Ephemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, cs)
		}
	}
}

func (m *Machine) containerStatus(c *Container, h Host) corev1.ContainerStatus {
	started := c.Started
	cs := corev1.ContainerStatus{Name: c.Name, Image: c.Spec.Image, RestartCount: c.Restarts, Ready: c.Ready, Started: &started}
	if c.Kind == Ephemeral {
		cs.Started = nil
	}
	cs.VolumeMounts = mountStatuses(c.Spec)
	if c.Run != nil {
		cs.ContainerID = containerID(h, c.Run.ID)
		if c.Run.Image != "" {
			cs.Image = c.Run.Image
		}
		cs.ImageID = c.Run.ImageID
		cs.User = c.Run.User
		cs.Resources = c.Spec.Resources.DeepCopy()
		if c.Run.Resources != nil {
			cs.Resources = c.Run.Resources.DeepCopy()
		}
		cs.AllocatedResources = cs.Resources.Requests.DeepCopy()
	}
	cs.State, cs.LastTerminationState = m.containerStates(c, h)
	return cs
}

// containerStates is the current state and the one before.
func (m *Machine) containerStates(c *Container, h Host) (now, last corev1.ContainerState) {
	if c.Prev != nil {
		last = ended(c.Prev, h)
	}
	switch {
	case c.Run != nil && c.Run.Running:
		now.Running = &corev1.ContainerStateRunning{StartedAt: second(c.Run.Started)}
	case c.Reason != "":
		now.Waiting = &corev1.ContainerStateWaiting{Reason: c.Reason, Message: c.Message}
		if c.Run != nil {
			last = ended(c.Run, h)
		}
	case c.Run != nil:
		now = ended(c.Run, h)
	case m.over() && m.Initialized:
		now.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated"}
	default:
		reason := "ContainerCreating"
		if len(m.Pod.Spec.InitContainers) > 0 && c.Kind != Ephemeral {
			reason = "PodInitializing"
		}
		now.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
	}
	return now, last
}

func ended(r *Run, h Host) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: r.ExitCode, Reason: r.Reason, Message: r.Message,
		StartedAt: second(r.Started), FinishedAt: second(r.Finished), ContainerID: containerID(h, r.ID),
	}}
}

func second(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Unix(0, 0)
	}
	return metav1.NewTime(t).Rfc3339Copy()
}

func containerID(h Host, id string) string {
	if id == "" {
		return ""
	}
	return h.RuntimeName + "://" + id
}

func mountStatuses(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, v := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: v.Name, MountPath: v.MountPath, ReadOnly: v.ReadOnly}
		if v.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// phase follows from the containers, and never leaves a final one.
func (m *Machine) phase(s *corev1.PodStatus) corev1.PodPhase {
	if terminal(m.Pod.Status.Phase) {
		return m.Pod.Status.Phase
	}
	if m.Ending != nil && m.Ending.Phase != "" {
		return m.Ending.Phase
	}
	p := m.phaseByContainers()
	if m.over() && !terminal(p) {
		return m.finalPhase()
	}
	return p
}

// finalPhase is that of a pod that was ended: what ended well before counts.
func (m *Machine) finalPhase() corev1.PodPhase {
	for _, c := range m.Containers {
		if c.Kind == App && (c.Run == nil || c.Run.ExitCode != 0) {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

func (m *Machine) phaseByContainers() corev1.PodPhase {
	apps, running, exited, well, again := 0, 0, 0, 0, 0
	for _, c := range m.Containers {
		switch {
		case c.Kind == Init && !m.Initialized && c.State == ContainerExited && c.Run.ExitCode != 0 && !m.restarts(c, c.Run.ExitCode):
			return corev1.PodFailed
		case c.Kind != App:
			continue
		}
		apps++
		switch {
		case c.Run != nil && c.Run.Running:
			running++
		case c.Run != nil:
			exited++
			if c.Run.ExitCode == 0 {
				well++
			}
			if m.restarts(c, c.Run.ExitCode) {
				again++
			}
		}
	}
	switch {
	case !m.Initialized && running+exited == 0, running+exited < apps:
		return corev1.PodPending
	case running > 0 || again > 0:
		return corev1.PodRunning
	case m.aliveSidecar():
		return corev1.PodRunning
	case well == apps:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

func (m *Machine) aliveSidecar() bool {
	for _, c := range m.Containers {
		if c.Kind == Sidecar && c.Alive() {
			return true
		}
	}
	return false
}

// conditions are those that the node owns, in upstream's order, and all others
// as the API has them.
func (m *Machine) conditions(s *corev1.PodStatus, now time.Time) []corev1.PodCondition {
	var own []corev1.PodCondition
	if m.Ending != nil && m.Ending.Condition != nil {
		own = append(own, *m.Ending.Condition)
	}
	if c := m.resizeCondition(); c != nil {
		own = append(own, *c)
	}
	containersReady := m.containersReady(s)
	own = append(own, m.readyToStart(), m.initialized(s), m.ready(containersReady), containersReady)
	if m.rejected() {
		own = own[:len(own)-4]
	}
	for i := range own {
		own[i].ObservedGeneration = m.Pod.Generation
		own[i].LastTransitionTime = metav1.NewTime(now).Rfc3339Copy()
		for _, before := range m.Pod.Status.Conditions {
			if before.Type == own[i].Type && before.Status == own[i].Status {
				own[i].LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	for _, c := range m.Pod.Status.Conditions {
		mine := slices.ContainsFunc(own, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		if !mine && c.Type != corev1.PodResizePending && c.Type != corev1.PodResizeInProgress {
			own = append(own, c)
		}
	}
	return own
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	if ok {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

func (m *Machine) readyToStart() corev1.PodCondition {
	return condition(corev1.PodReadyToStartContainers, m.Sandbox.Ready, "", "")
}

func (m *Machine) initialized(s *corev1.PodStatus) corev1.PodCondition {
	if s.Phase == corev1.PodSucceeded {
		c := condition(corev1.PodInitialized, true, "", "")
		c.Reason = "PodCompleted"
		return c
	}
	var incomplete []string
	for _, c := range m.Containers {
		if c.Kind == App && c.Run != nil {
			return condition(corev1.PodInitialized, true, "", "")
		}
		if (c.Kind == Init && !c.Ready) || (c.Kind == Sidecar && !c.Started) {
			incomplete = append(incomplete, c.Name)
		}
	}
	return condition(corev1.PodInitialized, len(incomplete) == 0, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete))
}

func (m *Machine) containersReady(s *corev1.PodStatus) corev1.PodCondition {
	switch s.Phase {
	case corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, "PodCompleted", "")
	case corev1.PodFailed:
		return condition(corev1.ContainersReady, false, "PodFailed", "")
	}
	var unready []string
	for _, c := range m.Containers {
		if (c.Kind == App || c.Kind == Sidecar) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	return condition(corev1.ContainersReady, len(unready) == 0, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready))
}

func (m *Machine) ready(containers corev1.PodCondition) corev1.PodCondition {
	if containers.Status != corev1.ConditionTrue {
		return condition(corev1.PodReady, false, containers.Reason, containers.Message)
	}
	var closed []string
	for _, gate := range m.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(m.Pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case i < 0:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case m.Pod.Status.Conditions[i].Status != corev1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), m.Pod.Status.Conditions[i].Status))
		}
	}
	return condition(corev1.PodReady, len(closed) == 0, "ReadinessGatesNotReady", strings.Join(closed, ", "))
}

func (m *Machine) resizeCondition() *corev1.PodCondition {
	switch {
	case m.Resize == nil:
		return nil
	case m.Resize.Reason != "":
		return &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: m.Resize.Reason, Message: m.Resize.Message}
	}
	return &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
}
