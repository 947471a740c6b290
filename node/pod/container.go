package pod

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// removedMark stands for the deletion time of a pod that vanished without one.
var removedMark = metav1.Unix(0, 0)

// Kind is a container's part in the pod.
type Kind string

const (
	Init      Kind = "init"      // runs to completion before the next
	Sidecar   Kind = "sidecar"   // an init container that goes on running
	App       Kind = "app"       // what the pod is for
	Ephemeral Kind = "ephemeral" // for debugging; never restarted, never waited for
)

// ContainerState is a container's state; states.md has the diagram.
type ContainerState string

const (
	ContainerWaiting  ContainerState = "waiting"
	ContainerStarting ContainerState = "starting"
	ContainerUp       ContainerState = "up"
	ContainerEnding   ContainerState = "ending"
	ContainerExited   ContainerState = "exited"
)

// ProbeKind is which of a container's probes.
type ProbeKind string

const (
	StartupProbe   ProbeKind = "Startup"
	LivenessProbe  ProbeKind = "Liveness"
	ReadinessProbe ProbeKind = "Readiness"
)

// Run is one life of a container.
type Run struct {
	ID                string
	Attempt           uint32
	Running           bool
	Started, Finished time.Time
	ExitCode          int32
	Reason, Message   string
	Image, ImageID    string
	LogPath           string
	Resources         *corev1.ResourceRequirements // in force; nil: as in the spec
	User              *corev1.ContainerUser
}

// Container is one container of the pod, over all its lives.
type Container struct {
	Name  string
	Kind  Kind
	Spec  *corev1.Container // shared with the pod, never changed
	State ContainerState

	Run      *Run // the current or last life; nil: never lived
	Prev     *Run // the life before it
	Early    *Run // an end that was told before the start's own answer
	Restarts int32

	// Reason and Message tell why it waits, as kubectl shows it.
	Reason, Message string
	RetryAt         time.Time // not to be started before
	ShowAt          time.Time // when ErrImagePull turns into ImagePullBackOff
	Backoff         Backoff   // between restarts
	PullBackoff     time.Duration

	Ready   bool
	Started bool
	Passed  bool // a sidecar has been started once in this sandbox; the next may start

	StopBy      time.Time // the deadline of the stop that is under way
	StopMessage string    // of its event
	StopGrace   *int64    // seconds, from the probe that ordered it

	// Renew: it lives again whatever the policy, since its spec changed.
	Renew bool
	// Of is the spec that the current life was started from; nil: not known, since
	// it was adopted.
	Of *corev1.Container
}

// outdated: the container has to be started anew to be as its spec says now.
func (c *Container) outdated() bool {
	if c.State != ContainerUp || c.Of == nil || c.Of == c.Spec {
		return false
	}
	if c.Of.Image != c.Spec.Image {
		return true
	}
	for _, policy := range c.Spec.ResizePolicy {
		if policy.RestartPolicy != corev1.RestartContainer {
			continue
		}
		was, is := c.Of.Resources, c.Spec.Resources
		for _, pair := range [][2]corev1.ResourceList{{was.Requests, is.Requests}, {was.Limits, is.Limits}} {
			a, b := pair[0][policy.ResourceName], pair[1][policy.ResourceName]
			if a.Cmp(b) != 0 {
				return true
			}
		}
	}
	return false
}

// Alive: a process may exist.
func (c *Container) Alive() bool {
	return c.State == ContainerStarting || c.State == ContainerUp || c.State == ContainerEnding
}

// respec brings Containers in line with the spec: ephemeral containers appear,
// images and resources change.
func (m *Machine) respec() {
	add := func(spec *corev1.Container, kind Kind) {
		if c := m.container(spec.Name); c != nil {
			c.Spec = spec
			return
		}
		m.Containers = append(m.Containers, &Container{Name: spec.Name, Kind: kind, Spec: spec, State: ContainerWaiting})
	}
	s := &m.Pod.Spec
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c, Sidecar)
		} else {
			add(c, Init)
		}
	}
	for i := range s.Containers {
		add(&s.Containers[i], App)
	}
	for i := range s.EphemeralContainers {
		add((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), Ephemeral)
	}
}

// restarts tells whether a container that ended with the exit code is to live again.
func (m *Machine) restarts(c *Container, exit int32) bool {
	switch {
	case c.Kind == Ephemeral:
		return false
	case c.Kind == Sidecar, c.Renew:
		return true
	}
	for _, rule := range c.Spec.RestartPolicyRules {
		if rule.ExitCodes != nil && rule.Action == corev1.ContainerRestartRuleActionRestart && exitMatches(rule.ExitCodes, exit) {
			return true
		}
	}
	policy := m.Pod.Spec.RestartPolicy
	if c.Spec.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.Spec.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exit != 0
	}
	return c.Kind == App || exit != 0
}

func exitMatches(on *corev1.ContainerRestartRuleOnExitCodes, exit int32) bool {
	in := slices.Contains(on.Values, exit)
	if on.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn {
		return !in
	}
	return in
}

// started: the container came up; it may have ended since.
func (m *Machine) started(e Started, now time.Time, acts *actions) error {
	c := m.container(e.Name)
	if c == nil || c.State != ContainerStarting {
		return m.illegal(e)
	}
	early := c.Early
	m.live(c, e.Run)
	c.State = ContainerUp
	switch {
	case !e.Run.Running:
		m.dead(c, e.Run, now, acts)
	case early != nil && early.ID == e.Run.ID:
		m.dead(c, *early, now, acts)
	}
	return nil
}

// live makes run the container's current life.
func (m *Machine) live(c *Container, run Run) {
	if c.Run != nil && c.Run.ID != run.ID {
		c.Prev = c.Run
	}
	c.Run = &run
	c.Early, c.Renew = nil, false
	c.Restarts = int32(run.Attempt)
	c.Reason, c.Message, c.RetryAt, c.ShowAt, c.PullBackoff = "", "", time.Time{}, time.Time{}, 0
	c.StopBy, c.StopMessage, c.StopGrace = time.Time{}, "", nil
	if run.Running {
		c.Started = c.Spec.StartupProbe == nil && c.Kind != Init && c.Kind != Ephemeral
		c.Ready = c.Started && c.Spec.ReadinessProbe == nil
	}
}

const (
	pullBackoffFirst = 10 * time.Second
	pullBackoffMost  = 5 * time.Minute
	startRetry       = 10 * time.Second // after an error that no restart back-off covers
	showPullError    = 2 * time.Second  // how long ErrImagePull shows before ImagePullBackOff
)

func (m *Machine) startFailed(e StartFailed, now time.Time, acts *actions) error {
	c := m.container(e.Name)
	if c == nil || c.State != ContainerStarting {
		return m.illegal(e)
	}
	if e.Run != nil {
		// It existed: that was a life, and the next one waits as after a crash.
		m.live(c, *e.Run)
		m.dead(c, *e.Run, now, acts)
		if m.restarts(c, e.Run.ExitCode) {
			c.Reason, c.Message = e.Reason, e.Message
		}
		return nil
	}
	c.State = ContainerWaiting
	c.Reason, c.Message = e.Reason, e.Message
	if !e.Pull {
		c.RetryAt = now.Add(startRetry)
		return nil
	}
	c.PullBackoff = min(max(2*c.PullBackoff, pullBackoffFirst), pullBackoffMost)
	c.RetryAt = now.Add(c.PullBackoff)
	c.ShowAt = now.Add(showPullError)
	return nil
}

// showPullBackoff turns a pull error that has been seen into the back-off's reason.
func (m *Machine) showPullBackoff(c *Container, now time.Time, acts *actions) {
	if c.State != ContainerWaiting || c.ShowAt.IsZero() || now.Before(c.ShowAt) {
		return
	}
	c.ShowAt = time.Time{}
	acts.note(c.Name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.Spec.Image)
	c.Message = fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Spec.Image, c.Reason, c.Message)
	c.Reason = "ImagePullBackOff"
}

func (m *Machine) exited(e Exited, now time.Time, acts *actions) error {
	c := m.container(e.Name)
	if c == nil {
		return nil // an ephemeral container that the object no longer names
	}
	switch {
	case c.Run != nil && e.Run.ID == c.Run.ID && c.State == ContainerExited:
		return nil // told twice: by the runtime's event and by the action
	case c.State == ContainerStarting:
		// The runtime is ahead of the start's own answer, which is awaited.
		if c.Run == nil || c.Run.ID != e.Run.ID {
			c.Early = &e.Run
		}
		return nil
	case c.Run == nil || c.Run.ID != e.Run.ID:
		return nil // of an earlier life
	}
	m.dead(c, e.Run, now, acts)
	return nil
}

// dead records a life's end and when the next one may begin.
func (m *Machine) dead(c *Container, run Run, now time.Time, acts *actions) {
	run.Running = false
	if run.Resources == nil {
		run.Resources = c.Run.Resources
	}
	c.Run = &run
	c.State = ContainerExited
	c.Started, c.Ready = false, c.Kind == Init && run.ExitCode == 0
	c.Reason, c.Message, c.RetryAt = "", "", time.Time{}
	c.StopBy, c.StopMessage, c.StopGrace = time.Time{}, "", nil
	if m.Ending != nil || c.Renew || !m.restarts(c, run.ExitCode) || (c.Kind == Init && run.ExitCode == 0) {
		return
	}
	wait := c.Backoff.Wait(run.Finished, now)
	if wait <= 0 {
		return
	}
	c.RetryAt = now.Add(wait)
	c.Reason = "CrashLoopBackOff"
	name := fmt.Sprintf("%s_%s(%s)", m.Pod.Name, m.Pod.Namespace, m.Pod.UID)
	c.Message = fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", c.Backoff.Span, c.Name, name)
	acts.note(c.Name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.Name, name)
}

func (m *Machine) stopFailed(e StopFailed, now time.Time) error {
	c := m.container(e.Name)
	if c == nil || c.State != ContainerEnding {
		return nil // it ended in the meantime
	}
	c.RetryAt = now.Add(2 * time.Second)
	c.StopBy = time.Time{}
	return nil
}

func (m *Machine) probed(e Probed, now time.Time, acts *actions) {
	c := m.container(e.Name)
	if c == nil || c.State != ContainerUp || c.Run.ID != e.ID {
		return
	}
	switch {
	case e.Probe == ReadinessProbe:
		c.Ready = e.OK && c.Started
	case e.Probe == StartupProbe && e.OK:
		c.Started = true
		c.Ready = c.Spec.ReadinessProbe == nil
	case e.OK || m.Ending != nil:
	default:
		probe, word := c.Spec.LivenessProbe, "liveness"
		if e.Probe == StartupProbe {
			probe, word = c.Spec.StartupProbe, "startup"
		}
		message := fmt.Sprintf("Container %s failed %s probe", c.Name, word)
		if c.Kind == Sidecar {
			message = fmt.Sprintf("Init container %s failed %s probe", c.Name, word)
		}
		if m.restarts(c, 137) {
			message += ", will be restarted"
		}
		c.StopMessage = message
		if probe != nil {
			c.StopGrace = probe.TerminationGracePeriodSeconds
		}
		grace := m.grace()
		if c.StopGrace != nil {
			grace = time.Duration(max(*c.StopGrace, 1)) * time.Second
		}
		m.stop(c, now.Add(grace), now, acts)
	}
}

// stop orders a container's end by the deadline.
func (m *Machine) stop(c *Container, by, now time.Time, acts *actions) {
	again := c.State == ContainerEnding
	c.State, c.StopBy = ContainerEnding, by
	c.RetryAt = time.Time{}
	acts.add(DoStop{Name: c.Name, ID: c.Run.ID, Grace: max(by.Sub(now), time.Second), Message: c.StopMessage, Again: again})
}

// Backoff is the wait between restarts of one container: none before the first
// restart, then 10 s doubling to 5 minutes, and none again after 10 quiet minutes.
type Backoff struct {
	Span time.Duration // of the wait after the next end; 0: none so far
	Last time.Time     // when Span was set
}

const (
	backoffFirst = 10 * time.Second
	backoffMost  = 5 * time.Minute
	backoffReset = 2 * backoffMost
)

func (b *Backoff) expired(end time.Time) bool { return b.Span == 0 || end.Sub(b.Last) > backoffReset }

// Wait is how long a container that ended at end has still to wait at now.
func (b *Backoff) Wait(end, now time.Time) time.Duration {
	if b.expired(end) {
		return 0
	}
	return b.Span - now.Sub(end)
}

// Next is called at a restart.
func (b *Backoff) Next(end, now time.Time) {
	if b.expired(end) {
		b.Span = backoffFirst
	} else {
		b.Span = min(2*b.Span, backoffMost)
	}
	b.Last = now
}
