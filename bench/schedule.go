package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// zones is how many zones the nodes are in.
const zones = 10

func zoneOf(i int) string { return fmt.Sprintf("zone-%d", i%zones) }

// schedule creates pods on Node objects behind which there is no machine, and
// waits until each has a node. Its operation is both: making the pod and placing it.
func schedule(shape func(*corev1.Pod)) func(*run, context.Context, *meter) error {
	return func(r *run, ctx context.Context, m *meter) error {
		undo, err := r.makeNodes(ctx, r.c.Nodes, node)
		defer undo()
		if err != nil {
			return err
		}
		pod := smallPod()
		shape(pod)
		return r.placeAll(ctx, m, pod)
	}
}

func basicPods(*corev1.Pod) {}

func nodeAffinePods(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone-1", "zone-2", "zone-3"}}},
		}}},
	}}
}

func ours() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "bench"}}
}

func zoneAffinePods(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone, LabelSelector: ours()}},
	}}
}

func antiAffinePods(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: ours()}},
	}}
}

func spreadPods(pod *corev1.Pod) {
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: ours(),
	}}
}

// preempt fills every node with pods of low priority, and then creates pods of
// high priority that fit only when two of those go.
func (r *run) preempt(ctx context.Context, m *meter) error {
	low, high := "skiff-bench-"+r.id+"-low", "skiff-bench-"+r.id+"-high"
	for name, value := range map[string]int32{low: 10, high: 1000} {
		err := r.target.create(ctx, "/apis/scheduling.k8s.io/v1/priorityclasses", &schedulingv1.PriorityClass{
			TypeMeta:   metav1.TypeMeta{APIVersion: "scheduling.k8s.io/v1", Kind: "PriorityClass"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{runLabel: r.id}}, Value: value,
		})
		if err != nil && !is(err, http.StatusConflict) {
			return fmt.Errorf("make priority class %s: %w", name, err)
		}
	}
	undo, err := r.makeNodes(ctx, m.n, func(run string, i int) *corev1.Node {
		n := node(run, i)
		n.Status.Capacity[corev1.ResourceCPU] = resource.MustParse("4")
		n.Status.Allocatable = n.Status.Capacity
		return n
	})
	defer undo()
	if err != nil {
		return err
	}
	const perNode = 4
	first := r.made
	r.made += perNode * m.n
	err = together(ctx, r.c.Clients, perNode*m.n, func(ctx context.Context, i int) error {
		victim := pod(podName(first+i), low, "1")
		victim.Spec.NodeName = nodeName(r.id, i%m.n)
		return r.target.create(ctx, r.path("pods"), victim)
	})
	if err != nil {
		return fmt.Errorf("fill the nodes: %w", err)
	}
	return r.placeAll(ctx, m, pod(nameHole, high, "2"))
}

// pod is one of a priority, which goes at once when it is deleted.
func pod(name, class, cpu string) *corev1.Pod {
	p := smallPod()
	p.Name, p.Spec.PriorityClassName = name, class
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	return p
}

func nodeName(run string, i int) string { return fmt.Sprintf("bench-%s-%05d", run, i) }

// node is one that is ready, and has nobody behind it.
func node(run string, i int) *corev1.Node {
	has := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	name := nodeName(run, i)
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			runLabel: run, corev1.LabelHostname: name, corev1.LabelTopologyZone: zoneOf(i), corev1.LabelTopologyRegion: "region",
			corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{Capacity: has, Allocatable: has, Conditions: healthy(time.Now())},
	}
}

// healthy is what a node's agent tells of it.
func healthy(now time.Time) (all []corev1.NodeCondition) {
	at := metav1.NewTime(now)
	for _, c := range []struct {
		kind   corev1.NodeConditionType
		status corev1.ConditionStatus
		reason string
	}{
		{corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"},
		{corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"},
		{corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"},
		{corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"},
	} {
		all = append(all, corev1.NodeCondition{Type: c.kind, Status: c.status, Reason: c.reason, LastHeartbeatTime: at, LastTransitionTime: at})
	}
	return all
}

// heartbeat is shorter than the time after which controllers take a silent node
// for lost (40 or 50 s).
const heartbeat = 25 * time.Second

// makeNodes makes n nodes and keeps them alive until undo, which removes them and
// the pods on them.
func (r *run) makeNodes(ctx context.Context, n int, node func(run string, i int) *corev1.Node) (undo func(), err error) {
	alive, stop := context.WithCancel(ctx)
	var beating sync.WaitGroup
	undo = func() {
		stop()
		beating.Wait()
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute) // 5,000 pods take upstream more than one
		defer cancel()
		// What stays in spite of this is removed, or reported, at the end of the run.
		if r.empty(clean, r.path("pods"), "", 0) == nil {
			r.pods = nil
		}
		_ = r.empty(clean, "/api/v1/nodes", "?labelSelector="+url.QueryEscape(runLabel+"="+r.id), 0)
	}
	err = together(ctx, r.c.Clients, n, func(ctx context.Context, i int) error {
		if err := r.target.create(ctx, "/api/v1/nodes", node(r.id, i)); err != nil {
			return err
		}
		// A server taints new nodes until a controller has seen that they are ready.
		return r.patchNode(ctx, i, "", `{"spec":{"taints":null}}`)
	})
	if err != nil {
		return undo, fmt.Errorf("make nodes: %w", err)
	}
	beating.Go(func() { r.beat(alive, n) })
	return undo, nil
}

func (r *run) patchNode(ctx context.Context, i int, sub, patch string) error {
	_, err := r.target.do(ctx, request{
		method: http.MethodPatch, path: "/api/v1/nodes/" + nodeName(r.id, i) + sub, accept: jsonType,
		body: []byte(patch), contentType: "application/merge-patch+json",
	})
	return err
}

// beat tells, for all nodes, that they are alive. The first time is late enough
// that most works are over by then.
func (r *run) beat(ctx context.Context, n int) {
	for pause(ctx, heartbeat); ctx.Err() == nil; pause(ctx, heartbeat) {
		conditions, err := json.Marshal(healthy(time.Now()))
		if err != nil {
			return
		}
		patch := fmt.Sprintf(`{"status":{"conditions":%s}}`, conditions)
		// A node that misses a beat becomes unready, and what waits for it is counted as not placed.
		_ = together(ctx, 4, n, func(ctx context.Context, i int) error { return r.patchNode(ctx, i, "/status", patch) })
	}
}

// placeAll creates m.n pods, and waits until all have a node.
func (r *run) placeAll(ctx context.Context, m *meter, pod *corev1.Pod) error {
	s, err := jsonStencil(pod)
	if err != nil {
		return err
	}
	first := r.made
	r.made += m.n
	bound := func(p *podEvent) bool { return p.Spec.NodeName != "" }
	// Pods that have no node are not sent at all.
	waiting, err := r.awaitPods(ctx, m, "&fieldSelector=spec.nodeName%21%3D", bound)
	if err != nil {
		return err
	}
	defer waiting.stop()
	return m.measure(ctx, func(ctx context.Context) error {
		err := together(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
			waiting.expect(podName(first + i))
			if err := r.post(ctx, s, first+i); err != nil {
				waiting.forget(podName(first + i))
				m.failed(err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		waiting.wait(ctx, "no node")
		return nil
	})
}

// podEvent is as much of a pod as is looked at.
type podEvent struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Conditions []corev1.PodCondition `json:"conditions"`
	} `json:"status"`
}

// awaited are pods that have not got where they should yet.
type awaited struct {
	m    *meter
	stop func() // ends the watch

	mu      sync.Mutex
	since   map[string]time.Time // when each was sent; guarded by mu
	last    time.Time            // when something arrived; guarded by mu
	arrived chan struct{}        // one slot: something arrived
	ended   chan struct{}        // closed when the watch has ended
}

// awaitPods begins to watch the run's pods, and records for each that is expected
// how long it took until there.
func (r *run) awaitPods(ctx context.Context, m *meter, selector string, there func(*podEvent) bool) (*awaited, error) {
	revision, err := r.revision(ctx, r.path("pods"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	res, err := r.target.open(ctx, r.target.http, request{
		method: http.MethodGet, accept: jsonType,
		path: fmt.Sprintf("%s?watch=1&resourceVersion=%s&timeoutSeconds=%d%s", r.path("pods"), revision, watchSeconds(r.c), selector),
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	w := &awaited{m: m, since: map[string]time.Time{}, arrived: make(chan struct{}, 1), ended: make(chan struct{})}
	w.stop = func() { cancel(); <-w.ended }
	go func() {
		defer close(w.ended)
		defer res.Body.Close()
		w.follow(bufio.NewReaderSize(res.Body, 64<<10), there)
	}()
	return w, nil
}

func (w *awaited) follow(events *bufio.Reader, there func(*podEvent) bool) {
	for {
		line, err := readLine(events)
		if err != nil {
			return
		}
		var event struct {
			Type   string   `json:"type"`
			Object podEvent `json:"object"`
		}
		if json.Unmarshal(line, &event) == nil && event.Type != "DELETED" && there(&event.Object) {
			w.arrive(event.Object.Metadata.Name)
		}
	}
}

func (w *awaited) expect(name string) {
	w.mu.Lock()
	w.since[name] = time.Now()
	w.mu.Unlock()
}

func (w *awaited) forget(name string) {
	w.mu.Lock()
	delete(w.since, name)
	w.mu.Unlock()
}

func (w *awaited) arrive(name string) {
	w.mu.Lock()
	since, expected := w.since[name]
	delete(w.since, name)
	w.last = time.Now()
	w.mu.Unlock()
	if !expected {
		return
	}
	w.m.took(time.Since(since))
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// wait returns when all have arrived, when ctx ends, or when nothing has come for
// so long that nothing will. What is missing then is counted under the reason.
func (w *awaited) wait(ctx context.Context, reason string) {
	const quiet = 20 * time.Second
	for {
		w.mu.Lock()
		missing := len(w.since)
		w.mu.Unlock()
		if missing == 0 {
			return
		}
		select {
		case <-w.arrived:
			continue
		case <-w.ended:
			w.m.lost(missing, "the watch ended")
		case <-ctx.Done():
			w.m.lost(missing, reason)
		case <-time.After(quiet):
			w.m.lost(missing, reason)
		}
		return
	}
}
