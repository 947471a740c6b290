package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// next decides what is to be done now, from the machine alone: it is called after
// every event, and calling it twice asks for nothing twice, since what has been
// asked for is in the states.
func (m *Machine) next(now time.Time, acts *actions) {
	for {
		before := m.State
		switch m.State {
		case Preparing:
			m.prepare(now, acts)
		case Running:
			m.run(now, acts)
		case Stopping:
			m.stopAll(now, acts)
		case Releasing:
			if m.TearDown == Undone && !now.Before(m.RetryAt) {
				m.TearDown = Underway
				acts.add(DoTearDown{})
			}
		case Finished, Deleting:
			m.finish(now, acts)
		}
		if m.State == before {
			return
		}
	}
}

func (m *Machine) prepare(now time.Time, acts *actions) {
	if m.mustEnd(now, acts) {
		return
	}
	if m.SetUp == Done && m.Sandbox.Ready {
		m.State = Running
		return
	}
	if m.SetUp != Undone || now.Before(m.RetryAt) {
		return
	}
	if m.Sandbox.ID != "" && !m.Sandbox.Ready {
		// The sandbox is gone: nothing may run on in it, and nothing needs a new
		// one if all work is done.
		if m.anyAlive(now, acts) {
			return
		}
		if m.complete() {
			m.leave(now, acts)
			return
		}
	}
	m.SetUp = Underway
	attempt := m.Sandbox.Attempt
	if m.Sandbox.ID != "" && !m.Sandbox.Ready {
		attempt++
	}
	acts.add(DoSetUp{Attempt: attempt})
}

// anyAlive stops what is alive and tells whether something was.
func (m *Machine) anyAlive(now time.Time, acts *actions) bool {
	alive := false
	for _, c := range m.Containers {
		if c.Alive() {
			alive = true
			if c.State == ContainerUp {
				m.stop(c, now.Add(time.Second), now, acts)
			}
		}
	}
	return alive
}

// mustEnd moves to stopping when the pod is to end.
func (m *Machine) mustEnd(now time.Time, acts *actions) bool {
	if m.Ending == nil {
		if at := m.activeDeadline(); !at.IsZero() && !now.Before(at) {
			message := "Pod was active on the node longer than the specified deadline"
			m.end(&Ending{Phase: corev1.PodFailed, Reason: "DeadlineExceeded", Message: message, Deadline: now.Add(m.grace())})
			acts.note("", corev1.EventTypeNormal, "DeadlineExceeded", "%s", message)
		}
	}
	if m.Ending == nil {
		return false
	}
	m.leave(now, acts)
	return true
}

func (m *Machine) leave(now time.Time, acts *actions) {
	if m.Ending == nil {
		m.end(&Ending{Deadline: now.Add(m.grace())})
	}
	m.State = Stopping
	m.RetryAt, m.Tries = time.Time{}, 0
	for _, c := range m.Containers {
		if c.State == ContainerStarting {
			acts.add(DoCancel{})
			return
		}
	}
	if m.SetUp == Underway {
		acts.add(DoCancel{})
	}
}

// complete tells whether no container is to live (again): the pod's work is done
// or has failed for good.
func (m *Machine) complete() bool {
	for _, c := range m.Containers {
		if c.Kind == Init && c.State == ContainerExited && c.Run.ExitCode != 0 && !m.restarts(c, c.Run.ExitCode) {
			return true
		}
	}
	for _, c := range m.Containers {
		if c.Kind != App {
			continue
		}
		if c.State != ContainerExited || m.restarts(c, c.Run.ExitCode) {
			return false
		}
	}
	return true
}

func (m *Machine) run(now time.Time, acts *actions) {
	if m.mustEnd(now, acts) {
		return
	}
	if m.complete() {
		m.leave(now, acts)
		return
	}
	for _, c := range m.Containers {
		m.showPullBackoff(c, now, acts)
		m.stopAgain(c, now, acts)
		if c.outdated() {
			c.Renew = true
			c.StopMessage = fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)
			m.stop(c, now.Add(m.grace()), now, acts)
		}
		if c.Kind == Ephemeral && c.State == ContainerWaiting {
			m.start(c, now, acts)
		}
	}
	if !m.Initialized && !m.initialize(now, acts) {
		return
	}
	m.Initialized = true
	m.runApps(now, acts)
}

// stopAgain repeats a stop that failed.
func (m *Machine) stopAgain(c *Container, now time.Time, acts *actions) {
	if c.State == ContainerEnding && c.StopBy.IsZero() && !now.Before(c.RetryAt) {
		m.stop(c, now.Add(time.Second), now, acts)
	}
}

// initialize runs the init containers in order; it tells whether all have done
// their part: ended with 0, or, as sidecars, started.
func (m *Machine) initialize(now time.Time, acts *actions) bool {
	for _, c := range m.Containers {
		switch c.Kind {
		case Init:
			if c.State == ContainerExited && c.Run.ExitCode == 0 {
				continue
			}
			m.start(c, now, acts)
			return false
		case Sidecar:
			m.start(c, now, acts)
			c.Passed = c.Passed || (c.State == ContainerUp && c.Started)
			if !c.Passed {
				return false
			}
		}
	}
	return true
}

// runApps keeps sidecars and app containers up. App containers begin in order;
// one with a postStart hook holds back those after it until its hook is over.
func (m *Machine) runApps(now time.Time, acts *actions) {
	for _, c := range m.Containers {
		switch {
		case c.Kind == Sidecar:
			m.start(c, now, acts)
		case c.Kind == App:
			m.start(c, now, acts)
			if c.Run == nil && c.Spec.Lifecycle != nil && c.Spec.Lifecycle.PostStart != nil && c.State != ContainerUp {
				return
			}
		}
	}
}

// start orders a container's start if it is due.
func (m *Machine) start(c *Container, now time.Time, acts *actions) {
	if now.Before(c.RetryAt) {
		return
	}
	var attempt uint32
	switch c.State {
	case ContainerWaiting:
		attempt = m.attempt(c)
	case ContainerExited:
		if !m.restarts(c, c.Run.ExitCode) {
			return
		}
		if !c.Renew {
			c.Backoff.Next(c.Run.Finished, now)
		}
		attempt = m.attempt(c)
		if c.Prev != nil && c.Prev.ID != c.Run.ID && c.Prev.ID != "" {
			acts.add(DoRemove{ID: c.Prev.ID})
			c.Prev = nil
		}
	default:
		return
	}
	c.State, c.Of = ContainerStarting, c.Spec
	c.Reason, c.Message, c.RetryAt = "", "", time.Time{}
	c.Ready, c.Started = false, false
	acts.add(DoStart{Name: c.Name, Attempt: attempt})
}

// attempt numbers the container's next life.
func (m *Machine) attempt(c *Container) uint32 {
	if c.Run == nil {
		return uint32(c.Restarts)
	}
	return max(c.Run.Attempt, uint32(c.Restarts)) + 1
}

// stopAll ends the containers: all but sidecars at once; a sidecar when those
// that were started after it have ended, or when the deadline has passed.
func (m *Machine) stopAll(now time.Time, acts *actions) {
	alive, others := false, false
	for _, c := range m.Containers {
		if c.Kind != Sidecar && c.Alive() {
			alive, others = true, true
			m.bringDown(c, now, acts)
		}
	}
	later := others
	for i := len(m.Containers) - 1; i >= 0; i-- {
		c := m.Containers[i]
		if c.Kind != Sidecar || !c.Alive() {
			continue
		}
		alive = true
		if !later {
			m.bringDown(c, now, acts)
		}
		later = true
	}
	if !alive && m.SetUp != Underway {
		m.State, m.TearDown, m.RetryAt, m.Tries = Releasing, Undone, time.Time{}, 0
	}
}

// bringDown stops a container that is up, again if the deadline came forward or
// the last try failed.
func (m *Machine) bringDown(c *Container, now time.Time, acts *actions) {
	by := m.Ending.Deadline
	switch c.State {
	case ContainerUp:
		m.stop(c, by, now, acts)
	case ContainerEnding:
		failed := c.StopBy.IsZero() && !now.Before(c.RetryAt)
		if failed || (!c.StopBy.IsZero() && by.Before(c.StopBy)) {
			m.stop(c, by, now, acts)
		}
	}
}

// finish waits for the object's end, once the API has the final status.
func (m *Machine) finish(now time.Time, acts *actions) {
	if m.Removal == Done {
		m.State = Gone
		return
	}
	if m.Pod.DeletionTimestamp == nil || !m.Reported {
		return
	}
	m.State = Deleting
	if m.Removal != Underway && !now.Before(m.RetryAt) {
		m.Removal = Underway
		acts.add(DoDelete{})
	}
}
