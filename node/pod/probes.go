package pod

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"skiff/node/probe"
)

// syncProbes makes the probes that run match the containers that are up.
func (m *Manager) syncProbes(e *entry) {
	wanted := map[string]bool{}
	for _, c := range e.m.Containers {
		if c.State != ContainerUp || c.Run == nil || c.Kind == Init || c.Kind == Ephemeral {
			continue
		}
		for _, kind := range m.due(e, c) {
			key := c.Run.ID + "/" + string(kind)
			wanted[key] = true
			if e.probes[key] == nil {
				e.probes[key] = m.probe(e, c, kind)
			}
		}
	}
	for key, stop := range e.probes {
		if !wanted[key] {
			stop()
			delete(e.probes, key)
		}
	}
}

// due are the probes that a container has to answer now: startup first and
// alone; liveness not while the pod ends.
func (m *Manager) due(e *entry, c *Container) []ProbeKind {
	ending := e.m.Ending != nil
	if c.Spec.StartupProbe != nil && !c.Started {
		if ending {
			return nil
		}
		return []ProbeKind{StartupProbe}
	}
	var out []ProbeKind
	if c.Spec.LivenessProbe != nil && !ending {
		out = append(out, LivenessProbe)
	}
	if c.Spec.ReadinessProbe != nil {
		out = append(out, ReadinessProbe)
	}
	return out
}

func (m *Manager) probe(e *entry, c *Container, kind ProbeKind) context.CancelFunc {
	ctx, cancel := context.WithCancel(m.ctx)
	p, name, id, container := e.m.Pod, c.Name, c.Run.ID, c.Spec // the loop may change c
	spec := map[ProbeKind]*corev1.Probe{StartupProbe: c.Spec.StartupProbe, LivenessProbe: c.Spec.LivenessProbe, ReadinessProbe: c.Spec.ReadinessProbe}[kind]
	target := probe.Target{Pod: p, Container: container, ContainerID: id, IP: first(m.facts(p, e.m.Sandbox).PodIPs), Started: c.Run.Started}
	w := probe.Worker{
		Probe: spec, Started: c.Run.Started, Initially: kind == LivenessProbe || (kind == ReadinessProbe && c.Ready),
		Check: func(ctx context.Context) probe.Result { return m.c.Check(ctx, target, spec) },
		Report: func(ok bool) {
			m.tell(p.UID, Probed{Name: name, ID: id, Probe: kind, OK: ok})
		},
		Note: func(r probe.Result) {
			switch r.Outcome {
			case probe.Warning:
				m.note(p, container, corev1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", kind, r.Output))
			case probe.Failure:
				m.note(p, container, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, r.Output))
			case probe.Unknown:
				m.note(p, container, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %s", kind, r.Output))
			}
		},
		Repeat: kind != StartupProbe,
	}
	m.goDo(func() { w.Run(ctx) })
	return cancel
}
