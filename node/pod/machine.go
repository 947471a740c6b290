package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// State is a pod's state; states.md has the diagram.
type State string

const (
	Preparing State = "preparing"
	Running   State = "running"
	Stopping  State = "stopping"
	Releasing State = "releasing"
	Finished  State = "finished"
	Deleting  State = "deleting"
	Gone      State = "gone"
)

// Work says how far a piece of work is that the machine ordered and waits for.
type Work string

const (
	Undone   Work = "undone"   // to be ordered, not before its retry time
	Underway Work = "underway" // ordered; its answer comes as an event
	Done     Work = "done"
)

// Machine is one pod on this node. Step is the only thing that changes it; it
// does no I/O and reads no clock, so that the same events give the same actions.
type Machine struct {
	Pod   *corev1.Pod // as the API last showed it; shared, never changed
	State State

	Containers []*Container // init containers, containers, ephemeral containers, in the pod's order
	Sandbox    Sandbox
	StartTime  time.Time // when this node took the pod on

	SetUp      Work // of the set-up steps, while preparing
	TearDown   Work // of their undoing, while releasing
	Removal    Work // of the API object, while deleting
	RetryAt    time.Time
	Tries      int    // failed tries of the work at hand
	SetUpError string // of the last try; empty once set up

	// Initialized: all init containers have done their part in this sandbox.
	Initialized bool
	// Ending says why the pod ends; nil while it should run.
	Ending *Ending
	// Resize is the state of an in-place resize; nil when there is none.
	Resize *Resize
	// Reported: the last status that the API has is final.
	Reported bool
}

// Sandbox is the pod's network namespace and pause process.
type Sandbox struct {
	ID      string
	IPs     []string
	Attempt uint32
	Ready   bool
}

// Ending is why and until when a pod ends.
type Ending struct {
	Phase     corev1.PodPhase // empty: follows from the containers
	Reason    string          // of the pod's status
	Message   string
	Condition *corev1.PodCondition // such as DisruptionTarget; nil: none
	Deadline  time.Time            // when containers are killed
}

// Resize is an in-place change of resources that has not been carried out.
type Resize struct {
	Reason  string // Deferred or Infeasible; empty: under way
	Message string
}

// An Event is what can happen to a pod.
type Event interface{ event() }

type (
	// Updated: the API object changed.
	Updated struct{ Pod *corev1.Pod }
	// Removed: the API object is gone.
	Removed struct{}
	// SetUpDone: all set-up steps succeeded.
	SetUpDone struct{ Sandbox Sandbox }
	// SetUpFailed: a set-up step failed; what those before and beside it made
	// stays, the sandbox too if there is one.
	SetUpFailed struct {
		Err     error
		Sandbox Sandbox
	}
	// SandboxLost: the sandbox is not ready any more.
	SandboxLost struct{ ID string }
	// Started: a container was started and its postStart hook is over; Run may
	// already have ended.
	Started struct {
		Name string
		Run  Run
	}
	// StartFailed: a container could not be started. Run is set when it existed.
	StartFailed struct {
		Name, Reason, Message string
		Pull                  bool // the image could not be pulled
		Run                   *Run
	}
	// Exited: a container has ended.
	Exited struct {
		Name string
		Run  Run
	}
	// StopFailed: a container could not be ended; it is tried again.
	StopFailed struct {
		Name string
		Err  error
	}
	// Probed: a probe's result crossed its threshold.
	Probed struct {
		Name, ID string
		Probe    ProbeKind
		OK       bool
	}
	// TornDown: all that was set up is undone.
	TornDown struct{}
	// TearDownFailed: an undo failed; it is tried again.
	TearDownFailed struct{ Err error }
	// RemovalFailed: the API object could not be deleted; it is tried again.
	RemovalFailed struct{ Err error }
	// Reported: the API has the pod's final status.
	Reported struct{}
	// Evicted: the node wants to be rid of the pod.
	Evicted struct {
		Reason, Message string
		Condition       *corev1.PodCondition
		Grace           time.Duration
	}
	// Poked: something that a failed try waited for may have changed.
	Poked struct{}
	// Resized: the containers' resources are as the spec says, or why not.
	Resized struct {
		Resize *Resize
		// Runs are the containers' new resources by name.
		Runs map[string]corev1.ResourceRequirements
	}
	// Tick: time has passed.
	Tick struct{}
)

func (Updated) event()        {}
func (Removed) event()        {}
func (SetUpDone) event()      {}
func (SetUpFailed) event()    {}
func (SandboxLost) event()    {}
func (Started) event()        {}
func (StartFailed) event()    {}
func (Exited) event()         {}
func (StopFailed) event()     {}
func (Probed) event()         {}
func (TornDown) event()       {}
func (TearDownFailed) event() {}
func (RemovalFailed) event()  {}
func (Reported) event()       {}
func (Evicted) event()        {}
func (Poked) event()          {}
func (Resized) event()        {}
func (Tick) event()           {}

// An Action is what the machine asks for. Each one that takes time is answered
// by an event.
type Action interface{ action() }

type (
	// DoSetUp runs the set-up steps: SetUpDone or SetUpFailed.
	DoSetUp struct{ Attempt uint32 }
	// DoStart starts a container: Started or StartFailed.
	DoStart struct {
		Name    string
		Attempt uint32
	}
	// DoStop ends a container by the deadline: Exited or StopFailed. It may be
	// ordered again with an earlier deadline.
	DoStop struct {
		Name, ID string
		Grace    time.Duration
		Message  string // of the Killing event; empty: the usual one
		Again    bool   // only the deadline changed: no hook, no event
	}
	// DoTearDown undoes the set-up: TornDown or TearDownFailed.
	DoTearDown struct{}
	// DoRemove removes a container that has ended.
	DoRemove struct{ ID string }
	// DoDelete removes the API object: Removed (from the API) or RemovalFailed.
	DoDelete struct{}
	// DoResize brings containers to the spec's resources: Resized.
	DoResize struct{}
	// DoCancel interrupts set-up and starts that are under way; they still answer.
	DoCancel struct{}
	// DoNote records an event about the pod, or about one of its containers.
	DoNote struct{ Container, Type, Reason, Message string }
)

func (DoSetUp) action()    {}
func (DoStart) action()    {}
func (DoStop) action()     {}
func (DoTearDown) action() {}
func (DoRemove) action()   {}
func (DoDelete) action()   {}
func (DoResize) action()   {}
func (DoCancel) action()   {}
func (DoNote) action()     {}

// Step takes one event and returns what is to be done. An event that is not
// possible in the machine's state is an error and changes nothing.
func (m *Machine) Step(ev Event, now time.Time) ([]Action, error) {
	acts := &actions{}
	if err := m.take(ev, now, acts); err != nil {
		return nil, err
	}
	m.next(now, acts)
	return acts.list, nil
}

type actions struct{ list []Action }

func (a *actions) add(x Action) { a.list = append(a.list, x) }

func (a *actions) note(container, typ, reason, format string, args ...any) {
	a.add(DoNote{Container: container, Type: typ, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// take changes the machine by one event; what follows from it is decided by next.
func (m *Machine) take(ev Event, now time.Time, acts *actions) error {
	switch e := ev.(type) {
	case Updated:
		return m.updated(e.Pod, now, acts)
	case Removed:
		return m.removed(now)
	case SetUpDone:
		return m.setUpDone(e)
	case SetUpFailed:
		return m.setUpFailed(e, now)
	case SandboxLost:
		m.sandboxLost(e, acts)
	case Started:
		return m.started(e, now, acts)
	case StartFailed:
		return m.startFailed(e, now, acts)
	case Exited:
		return m.exited(e, now, acts)
	case StopFailed:
		return m.stopFailed(e, now)
	case Probed:
		m.probed(e, now, acts)
	case TornDown:
		if m.State != Releasing || m.TearDown != Underway {
			return m.illegal(ev)
		}
		m.TearDown, m.Tries, m.RetryAt = Done, 0, time.Time{}
		m.Sandbox.Ready = false
		m.State = Finished
	case TearDownFailed:
		if m.State != Releasing || m.TearDown != Underway {
			return m.illegal(ev)
		}
		m.TearDown = Undone
		m.again(now, acts)
		acts.note("", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", e.Err)
	case RemovalFailed:
		if m.State != Deleting || m.Removal != Underway {
			return m.illegal(ev)
		}
		m.Removal = Undone
		m.again(now, acts)
	case Reported:
		m.Reported = true
	case Evicted:
		if m.over() || m.Ending != nil {
			return nil
		}
		m.end(&Ending{Phase: corev1.PodFailed, Reason: e.Reason, Message: e.Message, Condition: e.Condition, Deadline: now.Add(e.Grace)})
	case Poked:
		m.poked(now)
	case Resized:
		m.resized(e, acts)
	case Tick:
	default:
		return m.illegal(ev)
	}
	return nil
}

func (m *Machine) illegal(ev Event) error {
	return fmt.Errorf("pod %s/%s: cannot take %T while %s", m.Pod.Namespace, m.Pod.Name, ev, m.State)
}

// over: nothing of the pod is left to end.
func (m *Machine) over() bool {
	switch m.State {
	case Releasing, Finished, Deleting, Gone:
		return true
	}
	return false
}

// again sets the time of the next try of the work at hand: 1 s, doubling to a minute.
func (m *Machine) again(now time.Time, _ *actions) {
	m.RetryAt = now.Add(min(time.Second<<min(m.Tries, 6), time.Minute))
	m.Tries++
}

func (m *Machine) updated(p *corev1.Pod, now time.Time, acts *actions) error {
	if p.UID != m.Pod.UID {
		return fmt.Errorf("pod %s/%s: update of uid %s given to uid %s", p.Namespace, p.Name, p.UID, m.Pod.UID)
	}
	old := m.Pod
	if resourcesDiffer(old, p) {
		m.keepResources()
	}
	m.Pod = p
	m.respec()
	if p.DeletionTimestamp != nil {
		m.deleted(now)
		return nil
	}
	if m.State == Running && resourcesDiffer(old, p) {
		m.Resize = &Resize{}
		acts.add(DoResize{})
	}
	return nil
}

// deleted starts the pod's end, or brings it forward.
func (m *Machine) deleted(now time.Time) {
	deadline := now.Add(m.grace())
	switch {
	case m.over():
	case m.Ending == nil:
		m.end(&Ending{Deadline: deadline})
	case deadline.Before(m.Ending.Deadline):
		m.Ending.Deadline = deadline
	}
}

// grace is how long the containers may take to end: at least a second, since the
// runtime needs a moment to deliver the signal.
func (m *Machine) grace() time.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if s := m.Pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := m.Pod.DeletionGracePeriodSeconds; m.Pod.DeletionTimestamp != nil && s != nil {
		seconds = *s
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

func (m *Machine) end(why *Ending) {
	m.Ending = why
}

func (m *Machine) removed(now time.Time) error {
	if m.Pod.DeletionTimestamp == nil {
		p := *m.Pod // the object is shared: a shallow copy carries the mark
		p.DeletionTimestamp = &removedMark
		m.Pod = &p
	}
	switch m.State {
	case Finished, Deleting:
		m.State = Gone
	case Preparing, Running:
		if m.Ending == nil {
			m.end(&Ending{Deadline: now.Add(m.grace())})
		}
		m.Removal = Done
	default:
		m.Removal = Done
	}
	return nil
}

func (m *Machine) setUpDone(e SetUpDone) error {
	if m.SetUp != Underway {
		return m.illegal(e)
	}
	m.SetUp, m.Tries, m.RetryAt, m.SetUpError = Done, 0, time.Time{}, ""
	m.enter(e.Sandbox)
	return nil
}

// enter takes a sandbox over. What ran in another one has to be done again.
func (m *Machine) enter(s Sandbox) {
	same := s.ID == m.Sandbox.ID
	m.Sandbox = s
	if same {
		return
	}
	m.Initialized = false
	for _, c := range m.Containers {
		if c.State == ContainerWaiting && c.PullBackoff == 0 {
			c.RetryAt, c.Reason, c.Message = time.Time{}, "", "" // it failed because the sandbox was lost
		}
		if c.Kind == Init || c.Kind == Sidecar {
			c.Passed = false
			if c.State == ContainerExited {
				c.State = ContainerWaiting
			}
		}
	}
}

func (m *Machine) setUpFailed(e SetUpFailed, now time.Time) error {
	if m.SetUp != Underway {
		return m.illegal(e)
	}
	m.SetUp = Undone
	m.SetUpError = e.Err.Error()
	if e.Sandbox.ID != "" {
		m.enter(e.Sandbox)
	}
	m.again(now, nil)
	return nil
}

func (m *Machine) sandboxLost(e SandboxLost, acts *actions) {
	if e.ID != m.Sandbox.ID || !m.Sandbox.Ready {
		return
	}
	m.Sandbox.Ready = false
	if m.State == Running {
		m.State, m.SetUp, m.RetryAt = Preparing, Undone, time.Time{}
		acts.note("", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
}

func (m *Machine) poked(now time.Time) {
	if m.State == Preparing && m.SetUp == Undone && m.Tries > 0 {
		m.RetryAt = now
	}
	for _, c := range m.Containers {
		if c.State == ContainerWaiting && c.Reason == "CreateContainerConfigError" {
			c.RetryAt = now
		}
	}
}

// keepResources notes what is in force for the containers that run, before the spec
// says something else: that is true only once the runtime has done it.
func (m *Machine) keepResources() {
	for _, c := range m.Containers {
		if c.Run != nil && c.Run.Running && c.Run.Resources == nil {
			run := *c.Run // views share it
			run.Resources = c.Spec.Resources.DeepCopy()
			c.Run = &run
		}
	}
}

func (m *Machine) resized(e Resized, acts *actions) {
	if m.Resize == nil {
		return
	}
	m.Resize = e.Resize
	for name, r := range e.Runs {
		if c := m.container(name); c != nil && c.Run != nil && c.Run.Running {
			run := *c.Run // views share it
			run.Resources = r.DeepCopy()
			c.Run = &run
		}
	}
	if e.Resize == nil {
		acts.note("", corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed")
	}
}

// WakeAt is when the machine wants a Tick at the latest; zero: never.
func (m *Machine) WakeAt(now time.Time) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	sooner(m.RetryAt)
	for _, c := range m.Containers {
		sooner(c.RetryAt)
		sooner(c.ShowAt)
	}
	if m.Ending == nil {
		sooner(m.activeDeadline())
	}
	return at
}

// activeDeadline is when the pod has been active long enough; zero: no limit.
func (m *Machine) activeDeadline() time.Time {
	s := m.Pod.Spec.ActiveDeadlineSeconds
	if s == nil || m.StartTime.IsZero() {
		return time.Time{}
	}
	return m.StartTime.Add(time.Duration(*s) * time.Second)
}

func (m *Machine) container(name string) *Container {
	for _, c := range m.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}
