package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/node/runtime/simulated"
)

// simNode is an agent on a simulated runtime, in a bubble.
type simNode struct {
	*fakeAPI
	t      *testing.T
	rt     *simulated.Runtime
	agent  *Agent
	cancel context.CancelFunc
	done   chan error
}

// simulate runs story on a fresh node, in virtual time.
func simulate(t *testing.T, story func(*simNode)) {
	synctest.Test(t, func(t *testing.T) {
		n := &simNode{fakeAPI: newFakeAPI(), t: t, rt: simulated.New(simulated.Config{})}
		n.start()
		defer n.stop()
		story(n)
	})
}

func (n *simNode) start() {
	n.t.Helper()
	a, err := New(Config{NodeName: "n1", Client: n.fakeAPI, Runtime: n.rt, Simulated: true,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.agent, n.cancel, n.done = a, cancel, make(chan error, 1)
	go func() { n.done <- a.Run(ctx) }()
	synctest.Wait()
}

func (n *simNode) stop() {
	n.cancel()
	if err := <-n.done; err != nil {
		n.t.Error(err)
	}
}

func (n *simNode) create(p *corev1.Pod) {
	n.t.Helper()
	n.fakeAPI.create(n.t, p)
	synctest.Wait()
}

// after lets virtual time pass and everything settle.
func (n *simNode) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (n *simNode) delete(name string, grace *int64) {
	n.t.Helper()
	if err := n.Delete(context.Background(), podRow, "default", name, metav1.DeleteOptions{GracePeriodSeconds: grace}); err != nil {
		n.t.Fatal(err)
	}
	synctest.Wait()
}

// show is a pod as `kubectl get pods` shows it, with more detail where there is some:
// "Running 1/1 main=running".
func show(p *corev1.Pod) string {
	if p == nil {
		return "gone"
	}
	ready, total := 0, 0
	var parts []string
	add := func(cs corev1.ContainerStatus) {
		s := "?"
		switch {
		case cs.State.Running != nil:
			s = "running"
		case cs.State.Waiting != nil:
			s = cs.State.Waiting.Reason
		case cs.State.Terminated != nil:
			s = fmt.Sprintf("%s(%d)", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
		}
		if cs.RestartCount > 0 {
			s += fmt.Sprintf("#%d", cs.RestartCount)
		}
		parts = append(parts, cs.Name+"="+s)
	}
	for _, cs := range p.Status.InitContainerStatuses {
		add(cs)
	}
	for _, cs := range p.Status.ContainerStatuses {
		total++
		if cs.Ready {
			ready++
		}
		add(cs)
	}
	for _, cs := range p.Status.EphemeralContainerStatuses {
		add(cs)
	}
	s := fmt.Sprintf("%s %d/%d", p.Status.Phase, ready, total)
	if p.Status.Reason != "" {
		s += " " + p.Status.Reason
	}
	return strings.Join(append([]string{s}, parts...), " ")
}

func (n *simNode) expect(name, want string) {
	n.t.Helper()
	if got := show(n.pod(name)); got != want {
		n.t.Fatalf("pod %s: %q, want %q; events %q", name, got, want, n.events(name))
	}
}

func (n *simNode) condition(name string, t corev1.PodConditionType) string {
	for _, c := range n.pod(name).Status.Conditions {
		if c.Type == t {
			return strings.TrimSpace(string(c.Status) + " " + c.Reason)
		}
	}
	return "none"
}

func annotate(p *corev1.Pod, kv ...string) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	for i := 0; i < len(kv); i += 2 {
		p.Annotations[kv[i]] = kv[i+1]
	}
}

func TestPodRunsAndGoes(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("web", nil))
		n.expect("web", "Running 1/1 main=running")
		s := n.pod("web").Status
		if s.PodIP == "" || s.HostIP != "127.0.0.1" || s.QOSClass != corev1.PodQOSBestEffort || s.StartTime == nil {
			t.Errorf("status %+v", s)
		}
		for _, c := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
			if got := n.condition("web", c); got != "True" {
				t.Errorf("%s is %s", c, got)
			}
		}
		want := []string{"Pulled", "Created: Container created", "Started: Container started"}
		for _, w := range want {
			if !slices.ContainsFunc(n.events("web"), func(e string) bool { return strings.HasPrefix(e, w) }) {
				t.Errorf("no event %s in %q", w, n.events("web"))
			}
		}
		n.delete("web", nil)
		n.after(time.Second)
		n.expect("web", "gone")
		n.after(time.Second)
		if all, _ := n.rt.Containers(t.Context()); len(all) != 0 {
			t.Errorf("containers are left: %v", all)
		}
		if all, _ := n.rt.Sandboxes(t.Context()); len(all) != 0 {
			t.Errorf("sandboxes are left: %v", all)
		}
	})
}

func TestJobPodCompletes(t *testing.T) {
	for code, want := range map[string]string{"0": "Succeeded 0/1 main=Completed(0)", "3": "Failed 0/1 main=Error(3)"} {
		simulate(t, func(n *simNode) {
			n.create(newPod("job", func(p *corev1.Pod) {
				p.Spec.RestartPolicy = corev1.RestartPolicyNever
				annotate(p, simulated.ExitAfter, "5s", simulated.ExitCode, code)
			}))
			n.expect("job", "Running 1/1 main=running")
			n.after(6 * time.Second)
			n.expect("job", want)
			if ips := n.pod("job").Status.PodIPs; len(ips) != 1 {
				t.Errorf("a finished pod keeps its address: %v", ips)
			}
			if code == "0" && n.condition("job", corev1.PodReady) != "False PodCompleted" {
				t.Errorf("Ready is %s", n.condition("job", corev1.PodReady))
			}
			n.delete("job", nil)
			n.after(time.Second)
			n.expect("job", "gone")
		})
	}
}

// "After containers in a Pod exit, the kubelet restarts them with an exponential
// backoff delay (10s, 20s, 40s, …), that is capped at 300 seconds. Once a container
// has executed for 10 minutes without any problems, the kubelet resets the restart
// backoff timer for that container." (Pod Lifecycle)
func TestCrashLoopBackOff(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("crash", func(p *corev1.Pod) { annotate(p, simulated.ExitAfter, "1s", simulated.ExitCode, "1") }))
		began := time.Now()
		var starts []time.Duration
		seen := map[string]bool{}
		for time.Since(began) < 30*time.Minute {
			if s := n.pod("crash").Status.ContainerStatuses[0]; s.State.Running != nil && !seen[s.ContainerID] {
				seen[s.ContainerID] = true
				starts = append(starts, time.Since(began).Round(time.Second))
			}
			n.after(time.Second / 2)
		}
		var gaps []time.Duration
		for i := 1; i < len(starts); i++ {
			gaps = append(gaps, starts[i]-starts[i-1]-time.Second)
		}
		want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second}
		if len(gaps) < len(want) || !slices.EqualFunc(gaps[:len(want)], want, func(a, b time.Duration) bool { return (a - b).Abs() <= time.Second }) {
			t.Fatalf("waits between lives: %v, want %v", gaps, want)
		}
		s := n.pod("crash").Status.ContainerStatuses[0]
		if w := s.State.Waiting; w == nil || w.Reason != "CrashLoopBackOff" || !strings.HasPrefix(w.Message, "back-off 5m0s restarting failed container=main pod=crash_default(") {
			t.Errorf("state %+v", s.State)
		}
		if l := s.LastTerminationState.Terminated; l == nil || l.ExitCode != 1 || l.Reason != "Error" {
			t.Errorf("last state %+v", s.LastTerminationState)
		}
		if n.pod("crash").Status.Phase != corev1.PodRunning {
			t.Errorf("phase %s", n.pod("crash").Status.Phase)
		}
	})
}

func TestBackOffForgetsAfterQuietTime(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("flaky", func(p *corev1.Pod) { annotate(p, simulated.ExitAfter, "11m", simulated.ExitCode, "1") }))
		n.after(60 * time.Minute)
		if got := n.pod("flaky").Status.ContainerStatuses[0].RestartCount; got != 5 {
			t.Errorf("%d restarts in an hour of lives of 11 minutes, want 5", got)
		}
	})
}

func TestInitContainersRunInOrder(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("ordered", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "x:1"}, {Name: "two", Image: "x:1"}}
			annotate(p, simulated.ExitAfter+".one", "3s", simulated.ExitAfter+".two", "3s")
		}))
		n.expect("ordered", "Pending 0/1 one=running two=PodInitializing main=PodInitializing")
		if got := n.condition("ordered", corev1.PodInitialized); got != "False ContainersNotInitialized" {
			t.Errorf("Initialized is %s", got)
		}
		n.after(4 * time.Second)
		n.expect("ordered", "Pending 0/1 one=Completed(0) two=running main=PodInitializing")
		n.after(3 * time.Second)
		n.expect("ordered", "Running 1/1 one=Completed(0) two=Completed(0) main=running")
	})
}

func TestInitContainerFails(t *testing.T) {
	simulate(t, func(n *simNode) {
		for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyAlways} {
			n.create(newPod(strings.ToLower(string(policy)), func(p *corev1.Pod) {
				p.Spec.RestartPolicy = policy
				p.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "x:1"}}
				annotate(p, simulated.ExitAfter+".one", "1s", simulated.ExitCode+".one", "2")
			}))
		}
		n.after(4 * time.Second)
		n.expect("never", "Failed 0/1 one=Error(2) main=PodInitializing")
		n.expect("always", "Pending 0/1 one=CrashLoopBackOff#1 main=PodInitializing")
	})
}

func always() *corev1.ContainerRestartPolicy {
	p := corev1.ContainerRestartPolicyAlways
	return &p
}

// Sidecars start before the containers, and end after them in reverse order.
func TestSidecarsStartFirstAndEndLast(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("side", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{
				{Name: "first", Image: "x:1", RestartPolicy: always(), StartupProbe: &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30}},
				{Name: "second", Image: "x:1", RestartPolicy: always()},
			}
			annotate(p, simulated.ReadyAfter+".first", "3s", simulated.StopDelay, "2s")
		}))
		n.expect("side", "Pending 0/1 first=running second=PodInitializing main=PodInitializing")
		n.after(4 * time.Second)
		n.expect("side", "Running 1/1 first=running second=running main=running")
		n.delete("side", nil)
		var order []string
		for range 20 {
			n.after(time.Second / 2)
			if p := n.pod("side"); p != nil {
				if s := show(p); len(order) == 0 || order[len(order)-1] != s {
					order = append(order, s)
				}
			}
		}
		want := []string{
			"Running 1/1 first=running second=running main=running",
			"Running 0/1 first=running second=running main=Error(143)",
			"Running 0/1 first=running second=Error(143) main=Error(143)",
		}
		if !slices.Equal(order[:min(len(order), 3)], want) {
			t.Errorf("ended as %q", order)
		}
		n.expect("side", "gone")
	})
}

func TestSidecarEndsWithTheJob(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("job", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{{Name: "proxy", Image: "x:1", RestartPolicy: always()}}
			annotate(p, simulated.ExitAfter+".main", "5s")
		}))
		n.expect("job", "Running 1/1 proxy=running main=running")
		n.after(6 * time.Second)
		n.expect("job", "Succeeded 0/1 proxy=Error(143) main=Completed(0)")
	})
}

func TestImagePullBackOff(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("pull", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "registry.invalid/x:1" }))
		n.expect("pull", "Pending 0/1 main=ErrImagePull")
		n.after(3 * time.Second)
		n.expect("pull", "Pending 0/1 main=ImagePullBackOff")
		w := n.pod("pull").Status.ContainerStatuses[0].State.Waiting
		if !strings.HasPrefix(w.Message, `Back-off pulling image "registry.invalid/x:1": ErrImagePull: `) {
			t.Errorf("message %q", w.Message)
		}
		n.after(8 * time.Second)
		n.expect("pull", "Pending 0/1 main=ErrImagePull")
		n.create(newPod("never", func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever }))
		n.expect("never", "Pending 0/1 main=ErrImageNeverPull")
		n.create(newPod("name", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "Not An Image" }))
		n.expect("name", "Pending 0/1 main=InvalidImageName")
		n.delete("pull", nil)
		n.after(time.Second)
		n.expect("pull", "gone")
	})
}

func TestProbes(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("slow", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 2}
			annotate(p, simulated.ReadyAfter, "9s")
		}))
		n.after(8 * time.Second)
		n.expect("slow", "Running 0/1 main=running")
		if got := n.condition("slow", corev1.PodReady); got != "False ContainersNotReady" {
			t.Errorf("Ready is %s", got)
		}
		n.after(3 * time.Second)
		n.expect("slow", "Running 1/1 main=running")

		n.create(newPod("sick", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 5, FailureThreshold: 2}
			annotate(p, simulated.Unhealthy, "true")
		}))
		n.after(4 * time.Second)
		n.expect("sick", "Running 1/1 main=running")
		n.after(2 * time.Second)
		n.expect("sick", "Running 1/1 main=running#1")
		if !slices.Contains(n.events("sick"), "Killing: Container main failed liveness probe, will be restarted") {
			t.Errorf("events %q", n.events("sick"))
		}
		if !slices.Contains(n.events("sick"), "Unhealthy: Liveness probe failed: simulated as unhealthy") {
			t.Errorf("events %q", n.events("sick"))
		}
	})
}

func TestStartupProbeHoldsOthersBack(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("boot", func(p *corev1.Pod) {
			p.Spec.Containers[0].StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 10}
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1}
			annotate(p, simulated.ReadyAfter, "6s", simulated.Unhealthy, "true")
		}))
		n.after(5 * time.Second)
		if s := n.pod("boot").Status.ContainerStatuses[0]; *s.Started || s.Ready || s.RestartCount != 0 {
			t.Errorf("while starting up: %+v", s)
		}
		n.after(2 * time.Second)
		if s := n.pod("boot").Status.ContainerStatuses[0]; s.RestartCount != 1 {
			t.Errorf("the liveness probe did not begin after the startup probe: %+v", s)
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("late", func(p *corev1.Pod) {
			d := int64(5)
			p.Spec.ActiveDeadlineSeconds = &d
		}))
		n.after(6 * time.Second)
		n.expect("late", "Failed 0/1 DeadlineExceeded main=Error(143)")
		if got := n.pod("late").Status.Message; got != "Pod was active on the node longer than the specified deadline" {
			t.Errorf("message %q", got)
		}
	})
}

func TestReadinessGates(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("gated", func(p *corev1.Pod) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/on"}}
		}))
		if got := n.condition("gated", corev1.PodReady); got != "False ReadinessGatesNotReady" {
			t.Errorf("Ready is %s", got)
		}
		p := n.pod("gated").DeepCopy()
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.com/on", Status: corev1.ConditionTrue})
		n.setStatus(p)
		synctest.Wait()
		if got := n.condition("gated", corev1.PodReady); got != "True" {
			t.Errorf("Ready is %s", got)
		}
		if got := n.condition("gated", "example.com/on"); got != "True" {
			t.Errorf("the other writer's condition is %s", got)
		}
	})
}

// setStatus writes a pod's status as another client.
func (n *simNode) setStatus(p *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.objects[podRow]["default/"+p.Name]
	n.putLocked(podRow, old, p)
}

// A pod that ends on its own in the grace period is not waited for longer; one
// that does not is killed at its end; a shorter grace period hastens it.
func TestGracefulTermination(t *testing.T) {
	for _, tc := range []struct {
		name        string
		stopDelay   string
		hasten      int64
		min, max    time.Duration
		wantReasons []string
	}{
		{"quick", "2s", -1, 2 * time.Second, 3 * time.Second, nil},
		{"stubborn", "10m", -1, 30 * time.Second, 31 * time.Second, nil},
		{"hastened", "10m", 3, 8 * time.Second, 9 * time.Second, nil},
	} {
		simulate(t, func(n *simNode) {
			n.create(newPod(tc.name, func(p *corev1.Pod) { annotate(p, simulated.StopDelay, tc.stopDelay) }))
			began := time.Now()
			n.delete(tc.name, nil)
			n.after(5 * time.Second)
			if tc.hasten >= 0 {
				n.delete(tc.name, &tc.hasten)
			}
			for n.pod(tc.name) != nil && time.Since(began) < time.Hour {
				n.after(100 * time.Millisecond)
			}
			took := time.Since(began)
			if tc.name == "quick" {
				took = 2 * time.Second // it was gone when first looked at, after 5 s
				if time.Since(began) > 6*time.Second {
					took = time.Since(began)
				}
			}
			if took < tc.min || took > tc.max {
				t.Errorf("%s: gone after %v", tc.name, took)
			}
		})
	}
}

func TestPreStopHookUsesUpTheGrace(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("hooked", func(p *corev1.Pod) {
			grace := int64(10)
			p.Spec.TerminationGracePeriodSeconds = &grace
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 4}}}
			annotate(p, simulated.StopDelay, "1h")
		}))
		began := time.Now()
		n.delete("hooked", nil)
		n.after(9900 * time.Millisecond)
		n.expect("hooked", "Running 1/1 main=running")
		for n.pod("hooked") != nil && time.Since(began) < time.Hour {
			n.after(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("gone after %v, although the hook's 4 s count towards the 10 s of grace", took)
		}
	})
}

func TestPostStartHookFails(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("hooked", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/false"}}}}
		}))
		n.after(2 * time.Second)
		s := n.pod("hooked").Status.ContainerStatuses[0]
		if w := s.State.Waiting; w == nil || w.Reason != "PostStartHookError" {
			t.Errorf("state %+v; events %q", s.State, n.events("hooked"))
		}
	})
}

// "kill -9 of a node's agent: containers run on, and are adopted, not restarted."
func TestAdoption(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 60}
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "x:1"}}
		}))
		n.create(newPod("crash", func(p *corev1.Pod) { annotate(p, simulated.ExitAfter, "1s", simulated.ExitCode, "1") }))
		n.create(newPod("orphan", nil))
		n.create(newPod("leaving", func(p *corev1.Pod) { annotate(p, simulated.StopDelay, "20s") }))
		n.after(5 * time.Second)
		n.expect("web", "Running 1/1 init=Completed(0) main=running")
		before := n.pod("web").Status
		n.delete("leaving", nil)
		versions := n.pod("web").ResourceVersion
		n.stop()
		// While nobody watches: a pod is removed by force, and one that runs on is deleted.
		zero := int64(0)
		if err := n.Delete(t.Context(), podRow, "default", "orphan", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		n.start()
		n.after(5 * time.Second)
		after := n.pod("web").Status
		if before.ContainerStatuses[0].ContainerID != after.ContainerStatuses[0].ContainerID || after.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("the container was not adopted: %+v", after.ContainerStatuses)
		}
		if n.pod("web").ResourceVersion != versions {
			t.Errorf("the adopted pod's status was written although nothing changed:\n%+v\n%+v", before, after)
		}
		n.after(time.Minute)
		n.expect("leaving", "gone")
		if all, _ := n.rt.Sandboxes(t.Context()); len(all) != 2 {
			t.Errorf("%d sandboxes, want those of web and crash", len(all))
		}
	})
}

// A new node that sees a pod whose containers a reboot took starts them again.
func TestReboot(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("web", nil))
		n.create(newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		n.stop()
		n.rt = simulated.New(simulated.Config{})
		n.start()
		n.after(time.Second)
		n.expect("web", "Running 1/1 main=running#1")
		n.expect("job", "Failed 0/1 main=ContainerStatusUnknown(137)")
	})
}

func TestSandboxLost(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("web", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "x:1"}}
		}))
		all, err := n.rt.Sandboxes(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		if err := n.rt.LoseSandbox(all[0].Id); err != nil {
			t.Fatal(err)
		}
		n.after(time.Second)
		n.expect("web", "Running 1/1 init=Completed(0)#1 main=running#1")
		if !slices.Contains(n.events("web"), "SandboxChanged: Pod sandbox changed, it will be killed and re-created.") {
			t.Errorf("events %q", n.events("web"))
		}
	})
}

func TestRejectedPod(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("big", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *quantity("100")}
		}))
		n.expect("big", "Failed 0/0 OutOfcpu")
		if got := n.pod("big").Status.Message; got != "Pod was rejected: Node didn't have enough resource: cpu, requested: 100000, used: 0, capacity: 32000" {
			t.Errorf("message %q", got)
		}
		n.create(newPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
		}))
		n.create(newPod("b", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
		}))
		n.expect("a", "Running 1/1 main=running")
		n.expect("b", "Failed 0/0 NodePorts")
		n.create(newPod("elsewhere", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
		n.expect("elsewhere", "Failed 0/0 NodeAffinity")
		n.delete("big", nil)
		n.after(time.Second)
		n.expect("big", "gone")
	})
}

func TestMissingConfigMap(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("env", func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		}))
		n.expect("env", "Pending 0/1 main=CreateContainerConfigError")
		if got := n.pod("env").Status.ContainerStatuses[0].State.Waiting.Message; got != `configmaps "settings" not found` {
			t.Errorf("message %q", got)
		}
		if _, err := n.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}}); err != nil {
			t.Fatal(err)
		}
		n.after(11 * time.Second)
		n.expect("env", "Running 1/1 main=running")
	})
}

// counted is how often what was written.
func (f *fakeAPI) counted() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.writes)
}

func TestNodeStatusAndLease(t *testing.T) {
	simulate(t, func(n *simNode) {
		node := func() *corev1.Node {
			obj, err := n.Get(t.Context(), api.For[*corev1.Node](), "", "n1")
			if err != nil {
				t.Fatal(err)
			}
			return obj.(*corev1.Node)
		}
		readiness := func() string {
			for _, c := range node().Status.Conditions {
				if c.Type == corev1.NodeReady {
					return string(c.Status) + " " + c.Reason
				}
			}
			return "none"
		}
		if got := readiness(); got != "True KubeletReady" {
			t.Fatalf("Ready is %s", got)
		}
		if l := node().Labels; l["kubernetes.io/hostname"] != "n1" || l["kubernetes.io/os"] != "linux" {
			t.Errorf("labels %v", l)
		}
		before := n.counted()
		n.after(20 * time.Minute)
		after := n.counted()
		if got := after["update leases"] - before["update leases"]; got < 118 || got > 121 {
			t.Errorf("%d renewals in 20 minutes, want one each 10 s", got)
		}
		if got := after["patch nodes"] - before["patch nodes"]; got != 4 {
			t.Errorf("%d status writes in 20 idle minutes, want one each 5 minutes", got)
		}
		n.rt.SetDown(true)
		n.after(11 * time.Second)
		if got := readiness(); got != "False KubeletNotReady" {
			t.Errorf("Ready is %s while the runtime is down", got)
		}
		n.rt.SetDown(false)
		n.after(11 * time.Second)
		if got := readiness(); got != "True KubeletReady" {
			t.Errorf("Ready is %s", got)
		}
	})
}

func TestEphemeralContainer(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("web", nil))
		p := n.pod("web").DeepCopy()
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "x:1"}, TargetContainerName: "main"}}
		annotate(p, simulated.ExitAfter+".debug", "3s")
		n.setStatus(p)
		synctest.Wait()
		n.expect("web", "Running 1/1 main=running debug=running")
	})
}

func TestAPIOutage(t *testing.T) {
	simulate(t, func(n *simNode) {
		n.create(newPod("crash", func(p *corev1.Pod) { annotate(p, simulated.ExitAfter, "20s", simulated.ExitCode, "1") }))
		n.mu.Lock()
		n.broken = func(string, *api.Resource) error { return fmt.Errorf("the API server is away") }
		n.mu.Unlock()
		n.after(30 * time.Second)
		n.expect("crash", "Running 1/1 main=running")
		n.mu.Lock()
		n.broken = nil
		n.mu.Unlock()
		n.after(11 * time.Second)
		if got := n.pod("crash").Status.ContainerStatuses[0].RestartCount; got == 0 {
			t.Errorf("the restart during the outage was never reported: %s", show(n.pod("crash")))
		}
	})
}
