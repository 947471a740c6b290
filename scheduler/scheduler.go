// Package scheduler gives each pod a node. It keeps what is taken on the nodes in
// memory, up to date with every change; decides about one pod after another, by
// priority and age, asking the filters and scores that place.go lists; and binds
// what it decided through the API, many at once. A refused bind goes back to the
// queue, and a pod that fits nowhere waits until something changes that may help
// it; its PodScheduled condition and an event say why. It never writes anything
// but bindings, that condition, and the node that a claim waits for.
//
// What upstream's scheduler has and this one does not: preemption, dynamic
// resource allocation, scoring profiles and extenders.
package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// Config says as whom the scheduler acts.
type Config struct {
	// Client acts as system:kube-scheduler. Required.
	Client client.Client
	// Identity of this candidate for the lead; see client.Leader.
	Identity string
	// Name is the spec.schedulerName of the pods that it takes. Empty: default-scheduler.
	Name string
	// Random breaks ties between nodes. Nil: seeded by the runtime.
	Random *rand.Rand
	Logger *slog.Logger // nil: slog.Default()
}

// Scheduler gives pods their nodes.
type Scheduler struct{ c Config }

// New checks the configuration and starts nothing.
func New(c Config) (*Scheduler, error) {
	if c.Client == nil {
		return nil, errors.New("scheduler: Config.Client is required")
	}
	if c.Name == "" {
		c.Name = corev1.DefaultSchedulerName
	}
	if c.Random == nil {
		c.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Scheduler{c}, nil
}

// Run takes part in the election and schedules while it leads, until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	leader := client.Leader{
		Client: s.c.Client, Namespace: "kube-system", Name: "kube-scheduler", Identity: s.c.Identity, Logger: s.c.Logger,
	}
	return leader.Run(ctx, func(ctx context.Context, fenced client.Client, _ client.Epoch) error {
		return newLoop(s.c, fenced).run(ctx)
	})
}

// loop is one term of leadership.
type loop struct {
	c      Config
	client client.Client
	record *client.Recorder
	state  *state
	queue  *queue

	done    chan bound
	slots   chan struct{}
	running sync.WaitGroup
}

// bound is what became of a bind.
type bound struct {
	pod  key
	uid  types.UID
	node string
	err  error
}

// atOnce is how many binds are in flight.
const atOnce = 64

func newLoop(c Config, fenced client.Client) *loop {
	return &loop{
		c: c, client: fenced,
		record: client.NewRecorder(client.RecorderConfig{Client: fenced, Component: c.Name, Logger: c.Logger}),
		state:  newState(client.NewView()),
		queue:  newQueue(),
		done:   make(chan bound),
		slots:  make(chan struct{}, atOnce),
	}
}

// sources is what decisions depend on.
func sources() (out []client.Source) {
	for _, r := range []*api.Resource{
		api.For[*corev1.Node](), api.For[*corev1.Pod](), api.For[*corev1.PersistentVolumeClaim](), api.For[*corev1.PersistentVolume](),
		api.For[*storagev1.StorageClass](), api.For[*corev1.Service](), api.For[*corev1.Namespace](),
		api.For[*appsv1.ReplicaSet](), api.For[*appsv1.StatefulSet](), api.For[*corev1.ReplicationController](),
	} {
		out = append(out, client.Source{Resource: r})
	}
	return out
}

func (l *loop) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.running.Wait()
	defer cancel()
	l.running.Go(func() { l.record.Run(ctx) })

	feed := l.client.Follow(ctx, sources()...)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if next := l.queue.due(time.Now()); !next.IsZero() {
			wait = time.Until(next)
		}
		l.decide(ctx)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-feed.C:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("scheduler: the feed ended")
			}
			l.learn(batch)
		case b := <-l.done:
			l.finish(b)
		case <-timer.C:
		}
	}
}

// learn takes in changes, and lets refused pods be tried again that they may help.
func (l *loop) learn(batch client.Batch) {
	l.state.others.Apply(others(batch))
	for _, c := range batch.Changes {
		switch obj := c.Object().(type) {
		case *corev1.Pod:
			l.learnPod(obj, c.New == nil)
		case *corev1.Node:
			node := obj
			if c.New == nil {
				node = nil
			}
			l.state.setNode(obj.Name, node)
			if l.nodeMatters(c) {
				l.queue.helped([]string{everything}, time.Now())
			}
		case *corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *storagev1.StorageClass:
			l.queue.helped([]string{"VolumeBinding"}, time.Now())
		case *corev1.Namespace:
			l.queue.helped([]string{"InterPodAffinity"}, time.Now())
		}
	}
}

// others is the batch without nodes and pods, which state keeps in its own form.
func others(b client.Batch) client.Batch {
	out := client.Batch{Revision: b.Revision}
	for _, c := range b.Changes {
		switch c.Object().(type) {
		case *corev1.Pod, *corev1.Node:
		default:
			out.Changes = append(out.Changes, c)
		}
	}
	return out
}

// nodeMatters tells whether a node's change may make room: heartbeats do not.
func (l *loop) nodeMatters(c client.Change) bool {
	if c.Old == nil || c.New == nil {
		return c.New != nil
	}
	old, now := c.Old.(*corev1.Node), c.New.(*corev1.Node)
	return old.Spec.Unschedulable != now.Spec.Unschedulable ||
		!equal(old.Spec.Taints, now.Spec.Taints) || !equal(old.Labels, now.Labels) || !equal(old.Status.Allocatable, now.Status.Allocatable)
}

func (l *loop) learnPod(pod *corev1.Pod, gone bool) {
	k := keyOf(pod)
	before := l.state.placed[k]
	over := gone || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case over:
		if w := l.queue.all[k]; gone || w != nil {
			l.queue.remove(k)
		}
		l.state.remove(k)
		if before != nil {
			l.queue.helped([]string{"NodeResourcesFit", "NodePorts", "PodTopologySpread", "InterPodAffinity"}, time.Now())
		}
	case pod.Spec.NodeName != "":
		l.queue.remove(k)
		if before != nil && before.pod.UID != pod.UID {
			l.state.remove(k)
		}
		l.state.place(pod, pod.Spec.NodeName, false)
		if before == nil || before.assumed || !sameLabels(before.pod, pod) {
			l.queue.helped([]string{"PodTopologySpread", "InterPodAffinity"}, time.Now())
		}
	case before != nil && before.assumed && before.pod.UID == pod.UID:
		// Decided already; the bind is on its way.
	case l.ours(pod):
		if w := l.queue.all[k]; w != nil && w.pod.UID != pod.UID {
			l.queue.remove(k) // another pod of the name
		}
		l.queue.put(pod)
	default:
		l.queue.remove(k)
	}
}

// ours tells whether the pod is one to decide about.
func (l *loop) ours(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == l.c.Name && len(pod.Spec.SchedulingGates) == 0 && pod.DeletionTimestamp == nil
}

// decide decides about queued pods as long as binds may begin.
func (l *loop) decide(ctx context.Context) {
	for len(l.queue.active) > 0 {
		select {
		case l.slots <- struct{}{}:
		default:
			return // a finished bind brings us back
		}
		w := l.queue.next()
		if !l.decideOne(ctx, w) {
			<-l.slots
		}
	}
}

// decideOne decides about one pod; true: a write has begun, which gives the slot back.
func (l *loop) decideOne(ctx context.Context, w *waiting) bool {
	node, refused := l.state.choose(w.pod, l.c.Random.IntN)
	if refused != nil {
		text := refused.String()
		known := w.refused != nil && w.refused.String() == text
		l.queue.park(w, refused, time.Now())
		l.record.Event(w.pod, corev1.EventTypeWarning, "FailedScheduling", text)
		if known && conditionSays(w.pod, text) {
			return false
		}
		l.begin(ctx, w.pod, "", func(ctx context.Context) error { return l.say(ctx, w.pod, text) })
		return true
	}
	if claims := l.state.unboundClaims(w.pod); len(claims) > 0 {
		// The claims are told first; the pod is decided about again when they are bound.
		l.queue.park(w, &refusal{nodes: 1, whole: "waiting for volumes", expected: true, by: map[string]bool{"VolumeBinding": true}}, time.Now())
		l.begin(ctx, w.pod, "", func(ctx context.Context) error { return l.askVolumes(ctx, claims, node) })
		return true
	}
	w.binding = true
	l.state.place(w.pod, node, true)
	pod := w.pod
	l.begin(ctx, pod, node, func(ctx context.Context) error { return l.bind(ctx, pod, node) })
	return true
}

// begin makes a write on a goroutine of its own.
func (l *loop) begin(ctx context.Context, pod *corev1.Pod, node string, write func(context.Context) error) {
	l.running.Go(func() {
		b := bound{pod: keyOf(pod), uid: pod.UID, node: node, err: write(ctx)}
		select {
		case l.done <- b:
		case <-ctx.Done():
		}
	})
}

// finish takes in what became of a write.
func (l *loop) finish(b bound) {
	<-l.slots
	if b.node == "" {
		if b.err != nil && !apierrors.IsNotFound(b.err) {
			l.c.Logger.Debug("pod not marked", "pod", b.pod, "error", b.err)
		}
		return
	}
	if b.err == nil {
		return // the feed shows it
	}
	l.c.Logger.Debug("bind refused", "pod", b.pod, "node", b.node, "error", b.err)
	if p := l.state.placed[b.pod]; p != nil && p.assumed && p.pod.UID == b.uid {
		l.state.remove(b.pod)
	}
	if w := l.queue.all[b.pod]; w != nil && w.pod.UID == b.uid {
		w.binding = false
		l.queue.retry(w, time.Now())
	}
}

// bind tells the API server where the pod goes.
func (l *loop) bind(ctx context.Context, pod *corev1.Pod, node string) error {
	_, err := l.client.Post(ctx, api.For[*corev1.Pod](), pod.Namespace, pod.Name, "binding", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node},
	})
	if err != nil {
		return fmt.Errorf("bind pod %s/%s to %s: %w", pod.Namespace, pod.Name, node, err)
	}
	l.record.Event(pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node))
	return nil
}

// conditionSays tells whether the pod's status has the message already.
func conditionSays(pod *corev1.Pod, text string) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Status == corev1.ConditionFalse && c.Message == text
		}
	}
	return false
}

// say writes into the pod's status why it has no node.
func (l *loop) say(ctx context.Context, pod *corev1.Pod, text string) error {
	if conditionSays(pod, text) {
		return nil
	}
	now := metav1.Now().Rfc3339Copy()
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: text,
			LastTransitionTime: now, ObservedGeneration: pod.Generation,
		}}},
	})
	if err != nil {
		return fmt.Errorf("mark pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	_, err = l.client.Patch(ctx, api.For[*corev1.Pod](), pod.Namespace, pod.Name, client.Patch{Type: types.StrategicMergePatchType, Data: patch, Sub: "status"})
	return err
}

// askVolumes tells claims that wait for their first consumer where it will be.
func (l *loop) askVolumes(ctx context.Context, claims []*corev1.PersistentVolumeClaim, node string) error {
	for _, claim := range claims {
		if claim.Annotations[selectedNode] == node {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{selectedNode: node}}})
		if err != nil {
			return fmt.Errorf("ask for volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
		_, err = l.client.Patch(ctx, api.Of(claim), claim.Namespace, claim.Name, client.Patch{Type: types.MergePatchType, Data: patch})
		if err != nil {
			return fmt.Errorf("ask for volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}
