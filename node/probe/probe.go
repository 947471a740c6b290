// Package probe asks containers whether they are started, alive and ready. It
// owns the four ways of asking (HTTP, TCP, gRPC, exec) and the counting of
// answers against a probe's thresholds. Package pod runs one Worker per probe of
// a running container and decides what a result means.
package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Outcome is what one check found.
type Outcome string

const (
	Success Outcome = "success"
	Warning Outcome = "warning" // counts as success
	Failure Outcome = "failure"
	Unknown Outcome = "unknown" // the check itself went wrong: it counts as failure
)

// Result is an outcome with what was seen.
type Result struct {
	Outcome Outcome
	Output  string
}

// Target is the container that is asked.
type Target struct {
	Pod         *corev1.Pod
	Container   *corev1.Container
	ContainerID string
	IP          string    // of the pod
	Started     time.Time // when the container came up
}

// Checker does one check of a target, within the probe's timeout.
type Checker func(ctx context.Context, t Target, p *corev1.Probe) Result

// Worker repeats one probe and reports when its answer changes.
type Worker struct {
	Probe   *corev1.Probe
	Started time.Time // of the container: the initial delay counts from it
	// Initially is the answer that holds before the first threshold is crossed.
	Initially bool
	Check     func(ctx context.Context) Result
	// Report is called when the answer changes. It must be safe to call from the
	// worker's goroutine.
	Report func(ok bool)
	// Note is called for each answer that is not plain success.
	Note func(Result)
	// Repeat: the probe goes on after its first success (a startup probe does not).
	Repeat bool
}

// Run asks until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	period := seconds(w.Probe.PeriodSeconds, 10)
	successes, failures := max(w.Probe.SuccessThreshold, 1), w.Probe.FailureThreshold
	if failures < 1 {
		failures = 3
	}
	wait := time.Until(w.Started.Add(time.Duration(w.Probe.InitialDelaySeconds) * time.Second))
	answer, known := w.Initially, w.Repeat
	var last bool
	var run int32
	for {
		if wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		begin := time.Now()
		r := w.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		ok := r.Outcome == Success || r.Outcome == Warning
		if r.Outcome != Success {
			w.Note(r)
		}
		if run > 0 && ok == last {
			run++
		} else {
			last, run = ok, 1
		}
		crossed := (ok && run >= successes) || (!ok && run >= failures)
		if crossed && (!known || ok != answer) {
			answer, known = ok, true
			w.Report(ok)
			if ok && !w.Repeat {
				return
			}
		}
		wait = period - time.Since(begin)
	}
}

func seconds(n, otherwise int32) time.Duration {
	if n < 1 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}
