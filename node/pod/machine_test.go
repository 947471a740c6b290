package pod

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func testPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u1"}}
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "x"}}
	if change != nil {
		change(p)
	}
	return p
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func names(acts []Action) string {
	var out []string
	for _, a := range acts {
		switch a := a.(type) {
		case DoNote:
			continue
		case DoStart:
			out = append(out, fmt.Sprintf("start %s/%d", a.Name, a.Attempt))
		case DoStop:
			out = append(out, fmt.Sprintf("stop %s in %v", a.Name, a.Grace))
		default:
			out = append(out, strings.TrimPrefix(fmt.Sprintf("%T", a), "pod.Do"))
		}
	}
	return strings.Join(out, ", ")
}

// The machine's whole table: from each state, what each event leads to.
func TestStates(t *testing.T) {
	sandbox := Sandbox{ID: "s1", Ready: true, IPs: []string{"10.0.0.2"}}
	up := Run{ID: "c1", Running: true, Started: start}
	gone := func(p *corev1.Pod) *corev1.Pod {
		p = p.DeepCopy()
		grace := int64(7)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: start}, &grace
		return p
	}
	to := map[State]func(*Machine) []Event{
		Preparing: func(*Machine) []Event { return []Event{Tick{}} },
		Running:   func(*Machine) []Event { return []Event{Tick{}, SetUpDone{sandbox}, Started{"main", up}} },
		Stopping: func(m *Machine) []Event {
			return []Event{Tick{}, SetUpDone{sandbox}, Started{"main", up}, Updated{gone(m.Pod)}}
		},
		Releasing: func(m *Machine) []Event {
			return []Event{Tick{}, SetUpDone{sandbox}, Started{"main", up}, Updated{gone(m.Pod)}, Exited{"main", Run{ID: "c1", Finished: start}}}
		},
		Finished: func(m *Machine) []Event {
			return []Event{Tick{}, SetUpDone{sandbox}, Started{"main", up}, Updated{gone(m.Pod)}, Exited{"main", Run{ID: "c1", Finished: start}}, TornDown{}}
		},
		Deleting: func(m *Machine) []Event {
			return []Event{Tick{}, SetUpDone{sandbox}, Started{"main", up}, Updated{gone(m.Pod)}, Exited{"main", Run{ID: "c1", Finished: start}}, TornDown{}, Reported{}}
		},
	}
	for _, tc := range []struct {
		from State
		ev   Event
		want State
		acts string // "error": the event is refused
	}{
		{Preparing, SetUpDone{sandbox}, Running, "start main/0"},
		{Preparing, SetUpFailed{Err: errors.New("no network")}, Preparing, ""},
		{Preparing, Removed{}, Stopping, "Cancel"},
		{Preparing, Evicted{Reason: "Evicted"}, Stopping, "Cancel"},
		{Preparing, TornDown{}, Preparing, "error"},
		{Running, SandboxLost{"s1"}, Preparing, "stop main in 1s"},
		{Running, SandboxLost{"another"}, Running, ""},
		{Running, Removed{}, Stopping, "stop main in 30s"},
		{Running, Evicted{Reason: "Evicted", Grace: time.Second}, Stopping, "stop main in 1s"},
		{Running, Exited{"main", Run{ID: "c1", ExitCode: 1, Finished: start}}, Running, "start main/1"},
		{Running, Exited{"main", Run{ID: "of an earlier life", Finished: start}}, Running, ""},
		{Running, Probed{"main", "c1", LivenessProbe, false}, Running, "stop main in 30s"},
		{Running, Probed{"main", "c0", LivenessProbe, false}, Running, ""},
		{Running, SetUpDone{sandbox}, Running, "error"},
		{Running, Started{"main", up}, Running, "error"},
		{Running, TearDownFailed{errors.New("busy")}, Running, "error"},
		{Stopping, Exited{"main", Run{ID: "c1", Finished: start}}, Releasing, "TearDown"},
		{Stopping, SandboxLost{"s1"}, Stopping, ""},
		{Stopping, Removed{}, Stopping, ""},
		{Stopping, Evicted{}, Stopping, ""},
		{Stopping, StopFailed{"main", errors.New("runtime is away")}, Stopping, ""},
		{Releasing, TornDown{}, Finished, ""},
		{Releasing, TearDownFailed{errors.New("busy")}, Releasing, ""},
		{Releasing, Removed{}, Releasing, ""},
		{Finished, Reported{}, Deleting, "Delete"},
		{Finished, Removed{}, Gone, ""},
		{Finished, TornDown{}, Finished, "error"},
		{Deleting, Removed{}, Gone, ""},
		{Deleting, RemovalFailed{errors.New("API is away")}, Deleting, ""},
		{Deleting, RemovalFailed{}, Deleting, ""},
	} {
		m := NewMachine(testPod(nil), Found{}, nil, start)
		for _, ev := range to[tc.from](m) {
			if _, err := m.Step(ev, start); err != nil {
				t.Fatal(err)
			}
		}
		if m.State != tc.from {
			t.Fatalf("way to %s ends in %s", tc.from, m.State)
		}
		acts, err := m.Step(tc.ev, start)
		got := names(acts)
		if err != nil {
			got = "error"
		}
		if m.State != tc.want || got != tc.acts {
			t.Errorf("%s, %T%+v: %s with %q, want %s with %q", tc.from, tc.ev, tc.ev, m.State, got, tc.want, tc.acts)
		}
	}
}

// While a resize is under way the status shows what is in force, not what the spec
// already says.
func TestResizeIsToldWhenItIsDone(t *testing.T) {
	cpu := func(amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
		}
	}
	m := NewMachine(testPod(cpu("200m")), Found{}, nil, start)
	step := func(e Event) {
		t.Helper()
		if _, err := m.Step(e, start); err != nil {
			t.Fatal(err)
		}
	}
	told := func() string {
		return m.Status(Host{}, start).ContainerStatuses[0].Resources.Limits.Cpu().String()
	}
	for _, e := range []Event{Tick{}, SetUpDone{Sandbox{ID: "s1", Ready: true}}, Started{"main", Run{ID: "c1", Running: true, Started: start}}} {
		step(e)
	}
	if got := told(); got != "200m" {
		t.Errorf("at first %s", got)
	}
	larger := testPod(cpu("400m"))
	step(Updated{larger})
	if got := told(); got != "200m" {
		t.Errorf("told %s before the runtime has done it", got)
	}
	step(Resized{Runs: map[string]corev1.ResourceRequirements{"main": larger.Spec.Containers[0].Resources}})
	if got := told(); got != "400m" {
		t.Errorf("afterwards %s", got)
	}
}

// A shorter grace period hastens a stop that is under way; a longer one does nothing.
func TestGraceOnlyShrinks(t *testing.T) {
	m := NewMachine(testPod(nil), Found{Sandbox: Sandbox{ID: "s", Ready: true}, Runs: map[string][]Run{"main": {{ID: "c", Running: true}}}}, nil, start)
	step := func(ev Event) string {
		acts, err := m.Step(ev, start)
		if err != nil {
			t.Fatal(err)
		}
		return names(acts)
	}
	deleted := func(grace int64) Event {
		p := m.Pod.DeepCopy()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: start}, &grace
		return Updated{p}
	}
	step(Tick{})
	if got := step(SetUpDone{Sandbox{ID: "s", Ready: true}}); got != "" {
		t.Errorf("an adopted container got %q", got)
	}
	if got := step(deleted(20)); got != "stop main in 20s" {
		t.Error(got)
	}
	if got := step(deleted(40)); got != "" {
		t.Error(got)
	}
	if got := step(deleted(0)); got != "stop main in 1s" {
		t.Error(got)
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	now := start
	var waits []time.Duration
	for range 8 {
		w := max(b.Wait(now, now), 0)
		waits = append(waits, w)
		now = now.Add(w)
		b.Next(now.Add(-w), now)
		now = now.Add(time.Second) // the next life
	}
	want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("%v, want %v", waits, want)
	}
	now = now.Add(11 * time.Minute)
	if w := b.Wait(now, now); w > 0 {
		t.Errorf("after 11 quiet minutes it still waits %v", w)
	}
}

// world is the node as a random walk sees it: it does, or fails to do, what the
// machine asks for, at any time and in any order, and holds the machine to what
// must always be true.
type world struct {
	t       *rapid.T
	m       *Machine
	now     time.Time
	setUp   bool // asked for, not answered
	tear    bool
	remove  bool
	starts  map[string]DoStart
	stops   map[string]bool
	live    map[string]Run // containers that run, by name
	last    map[string]Run // ended, and the machine may not know yet
	sandbox Sandbox
	ids     int
	torn    bool
	gone    bool // the API object is
	restart map[string]int32
}

func (w *world) step(ev Event) {
	acts, err := w.m.Step(ev, w.now)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	for _, a := range acts {
		w.take(a)
	}
	w.check()
}

func (w *world) take(a Action) {
	switch a := a.(type) {
	case DoSetUp:
		if w.setUp || len(w.live) > 0 && w.sandbox.ID != "" && !w.sandbox.Ready || w.torn {
			w.t.Fatalf("set-up at the wrong time")
		}
		w.setUp = true
	case DoStart:
		if _, ok := w.live[a.Name]; ok {
			w.t.Fatalf("container %s is started while it lives", a.Name)
		}
		if _, ok := w.starts[a.Name]; ok || w.m.State != Running || w.m.Ending != nil {
			w.t.Fatalf("container %s is started while %s", a.Name, w.m.State)
		}
		w.starts[a.Name] = a
	case DoStop:
		w.stops[a.Name] = true
	case DoTearDown:
		if w.tear || w.setUp || len(w.live) > 0 || len(w.starts) > 0 {
			w.t.Fatalf("teared down with %d containers alive", len(w.live))
		}
		w.tear = true
	case DoDelete:
		if w.remove || !w.torn || !w.m.Reported {
			w.t.Fatalf("the object is deleted before its time")
		}
		w.remove = true
	}
}

// check holds what must be true after every step.
func (w *world) check() {
	s := w.m.Status(Host{RuntimeName: "r"}, w.now)
	before := w.m.Pod.Status
	if terminal(before.Phase) && s.Phase != before.Phase {
		w.t.Fatalf("phase went from %s to %s", before.Phase, s.Phase)
	}
	if s.Phase == corev1.PodSucceeded && len(w.live) > 0 && (w.m.Ending == nil || w.m.Ending.Phase == "") {
		w.t.Fatalf("succeeded while containers live")
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, cs := range list {
			if cs.RestartCount < w.restart[cs.Name] {
				w.t.Fatalf("restarts of %s went from %d to %d", cs.Name, w.restart[cs.Name], cs.RestartCount)
			}
			w.restart[cs.Name] = cs.RestartCount
			n := 0
			for _, set := range []bool{cs.State.Running != nil, cs.State.Waiting != nil, cs.State.Terminated != nil} {
				if set {
					n++
				}
			}
			if n != 1 {
				w.t.Fatalf("container %s has %d states", cs.Name, n)
			}
			if cs.Ready && cs.State.Running == nil && (cs.State.Terminated == nil || cs.State.Terminated.ExitCode != 0) {
				w.t.Fatalf("container %s is ready without running", cs.Name)
			}
		}
	}
	if w.m.State != Gone && !w.gone {
		p := *w.m.Pod
		p.Status = s // the API has it at once
		w.m.Pod = &p
	}
}

func (w *world) kill(name string, code int32) {
	r := w.live[name]
	delete(w.live, name)
	r.Running, r.ExitCode, r.Finished = false, code, w.now
	w.last[name] = r
	w.step(Exited{Name: name, Run: r})
}

// answer answers one action that is under way; well says how.
func (w *world) answer(which string, well bool) bool {
	switch {
	case which == "setup" && w.setUp:
		w.setUp = false
		made := !w.sandbox.Ready && (well || rapid.Bool().Draw(w.t, "sandbox made"))
		if made {
			w.ids++
			w.sandbox = Sandbox{ID: fmt.Sprintf("s%d", w.ids), Ready: true}
		}
		if !well {
			failed := SetUpFailed{Err: errors.New("no")}
			if made {
				failed.Sandbox = w.sandbox
			}
			w.step(failed)
			return true
		}
		w.step(SetUpDone{w.sandbox})
	case which == "teardown" && w.tear:
		w.tear = false
		if !well {
			w.step(TearDownFailed{errors.New("no")})
			return true
		}
		w.torn, w.sandbox.Ready = true, false
		w.step(TornDown{})
	case which == "delete" && w.remove:
		w.remove = false
		if !well {
			w.step(RemovalFailed{errors.New("no")})
			return true
		}
		w.gone = true
		w.step(Removed{})
	default:
		return false
	}
	return true
}

func (w *world) answerStart(name string, how int) {
	a := w.starts[name]
	delete(w.starts, name)
	w.ids++
	run := Run{ID: fmt.Sprintf("c%d", w.ids), Attempt: a.Attempt, Running: true, Started: w.now}
	switch how {
	case 0:
		w.step(StartFailed{Name: name, Reason: "CreateContainerError"})
	case 1:
		w.step(StartFailed{Name: name, Reason: "ErrImagePull", Pull: true})
	case 2: // it ended before its start was told
		run.Running, run.ExitCode, run.Finished = false, 1, w.now
		w.step(Started{Name: name, Run: run})
	case 3: // the runtime tells the end first
		early := run
		early.Running, early.ExitCode, early.Finished = false, 2, w.now
		w.starts[name] = a
		w.step(Exited{Name: name, Run: early})
		delete(w.starts, name)
		w.step(Started{Name: name, Run: run})
	default:
		w.live[name] = run
		w.step(Started{Name: name, Run: run})
	}
}

func anyKey[V any](t *rapid.T, m map[string]V, label string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return rapid.SampledFrom(keys).Draw(t, label)
}

func randomPod(t *rapid.T) *corev1.Pod {
	return testPod(func(p *corev1.Pod) {
		p.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(t, "policy")
		always := corev1.ContainerRestartPolicyAlways
		for i := range rapid.IntRange(0, 3).Draw(t, "inits") {
			c := corev1.Container{Name: fmt.Sprintf("i%d", i), Image: "x"}
			if rapid.Bool().Draw(t, "sidecar") {
				c.RestartPolicy = &always
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		if rapid.Bool().Draw(t, "two") {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Image: "x"})
		}
		if rapid.Bool().Draw(t, "deadline") {
			d := int64(rapid.IntRange(1, 1000).Draw(t, "seconds"))
			p.Spec.ActiveDeadlineSeconds = &d
		}
	})
}

func TestRandomWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: start, starts: map[string]DoStart{}, stops: map[string]bool{}, live: map[string]Run{}, last: map[string]Run{}, restart: map[string]int32{}}
		w.m = NewMachine(randomPod(t), Found{}, nil, w.now)
		w.step(Tick{})
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			w.random()
		}
		w.settle()
	})
}

// random lets one thing happen.
func (w *world) random() {
	t := w.t
	switch rapid.IntRange(0, 13).Draw(t, "event") {
	case 0, 1:
		w.answer(rapid.SampledFrom([]string{"setup", "teardown", "delete"}).Draw(t, "which"), rapid.Bool().Draw(t, "well"))
	case 2, 3, 4:
		if len(w.starts) > 0 {
			w.answerStart(anyKey(t, w.starts, "start"), rapid.IntRange(0, 9).Draw(t, "how"))
		}
	case 5, 6:
		if len(w.live) > 0 {
			w.kill(anyKey(t, w.live, "exit"), int32(rapid.IntRange(0, 2).Draw(t, "code")))
		}
	case 7:
		if len(w.last) > 0 { // told twice, or late
			name := anyKey(t, w.last, "again")
			w.step(Exited{Name: name, Run: w.last[name]})
		}
	case 8:
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "wait")) * time.Second)
		w.step(Tick{})
	case 9:
		if len(w.live) > 0 {
			name := anyKey(t, w.live, "probe")
			w.step(Probed{Name: name, ID: w.live[name].ID, Probe: rapid.SampledFrom([]ProbeKind{LivenessProbe, ReadinessProbe, StartupProbe}).Draw(t, "kind"), OK: rapid.Bool().Draw(t, "ok")})
		}
	case 10:
		if w.sandbox.Ready && !w.setUp {
			id := w.sandbox.ID
			w.sandbox.Ready = false
			w.step(SandboxLost{id})
		}
	case 11:
		if w.m.Pod.DeletionTimestamp == nil && !w.gone {
			w.delete(int64(rapid.IntRange(0, 40).Draw(t, "grace")))
		}
	case 12:
		if rapid.IntRange(0, 9).Draw(t, "evict") == 0 && w.m.State != Gone {
			w.step(Evicted{Reason: "Evicted", Grace: time.Second})
		}
	case 13:
		for name := range w.stops {
			delete(w.stops, name)
			if _, ok := w.live[name]; ok {
				w.step(StopFailed{Name: name, Err: errors.New("no")})
			}
			return
		}
	}
}

func (w *world) delete(grace int64) {
	p := w.m.Pod.DeepCopy()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: w.now}, &grace
	w.step(Updated{p})
}

// settle deletes the pod and lets everything succeed: it must come to its end.
func (w *world) settle() {
	if w.m.State == Gone {
		return
	}
	if w.m.Pod.DeletionTimestamp == nil {
		w.delete(5)
	}
	for range 200 {
		switch {
		case w.m.State == Gone:
			return
		case w.answer("setup", true), w.answer("teardown", true), w.answer("delete", true):
		case len(w.starts) > 0:
			for name := range w.starts {
				w.answerStart(name, 9)
				break
			}
		case len(w.stops) > 0:
			for name := range w.stops {
				delete(w.stops, name)
				if _, ok := w.live[name]; ok {
					w.kill(name, 137)
				}
				break
			}
		case w.m.State == Finished && !w.m.Reported:
			w.step(Reported{})
		default:
			at := w.m.WakeAt(w.now)
			if at.IsZero() {
				w.t.Fatalf("stuck in %s, with %d alive, waiting for nothing", w.m.State, len(w.live))
			}
			w.now = at
			w.step(Tick{})
		}
	}
	w.t.Fatalf("no end in sight: %s", w.m.State)
}
