// Package scheduler gives each pod a node. It keeps what is taken on the nodes in
// memory, up to date with every change; decides about one pod after another, by
// priority and age, asking the filters and scores that place.go lists; and binds
// what it decided through the API, many at once. A refused bind goes back to the
// queue, and a pod that fits nowhere waits until something changes that may help
// it; its PodScheduled condition and an event say why. If pods of a lower priority
// stand in its way it may send them away (preempt.go). It never writes anything
// but bindings, that condition and nomination, the node that a claim waits for,
// and its victims.
//
// What upstream's scheduler has and this one does not: dynamic resource
// allocation, groups of pods, scoring profiles and extenders.
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
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"skiff/api"
	"skiff/client"
)

// Config says as whom the scheduler acts.
type Config struct {
	// Client acts as system:kube-scheduler. Required.
	Client client.Client
	// Identity of this candidate for the lead, and how long the others wait for a
	// leader that is not heard of; see client.Leader.
	Identity  string
	LeaseLife time.Duration
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
		Client: s.c.Client, Namespace: "kube-system", Name: "kube-scheduler", Identity: s.c.Identity, Life: s.c.LeaseLife, Logger: s.c.Logger,
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
		api.For[*policyv1.PodDisruptionBudget](),
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
		l.decide(ctx)
		wait := time.Hour
		if next := l.queue.wakes(); !next.IsZero() {
			wait = time.Until(next)
		}
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
	l.state.learn(others(batch))
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
				l.queue.helpedAll()
			}
		case *corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *storagev1.StorageClass:
			l.queue.helped("VolumeBinding")
		case *corev1.Namespace:
			l.queue.helped("InterPodAffinity")
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
		l.state.nominate(pod, "")
		if w := l.queue.all[k]; gone || w != nil {
			l.queue.remove(k)
		}
		l.state.remove(k)
		if before != nil {
			l.queue.helped("NodeResourcesFit", "NodePorts", "VolumeRestrictions", "PodTopologySpread", "InterPodAffinity")
		}
	case pod.Spec.NodeName != "":
		l.learnPlaced(pod, before)
	case before != nil && before.assumed && before.pod.UID == pod.UID:
		// Decided already; the bind is on its way.
	case l.ours(pod):
		if w := l.queue.all[k]; w != nil && w.pod.UID != pod.UID {
			l.queue.remove(k) // another pod of the name
			l.state.nominate(w.pod, "")
		}
		if node := pod.Status.NominatedNodeName; node != "" {
			l.state.nominate(pod, node)
		}
		l.queue.put(pod)
	default:
		l.queue.remove(k)
		l.state.nominate(pod, "")
	}
}

// learnPlaced takes in a pod that has a node.
func (l *loop) learnPlaced(pod *corev1.Pod, before *placedPod) {
	l.queue.remove(keyOf(pod))
	l.state.nominate(pod, "")
	helps := before == nil || before.assumed || !sameShape(before.pod, pod)
	l.state.place(pod, pod.Spec.NodeName, false)
	if helps {
		l.queue.helped("PodTopologySpread", "InterPodAffinity")
	}
}

// ours tells whether the pod is one to decide about.
func (l *loop) ours(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == l.c.Name && len(pod.Spec.SchedulingGates) == 0 && pod.DeletionTimestamp == nil
}

// decide decides about queued pods as long as binds may begin.
func (l *loop) decide(ctx context.Context) {
	for {
		if l.queue.due(time.Now()); len(l.queue.active) == 0 {
			return
		}
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
		return l.refuse(ctx, w, refused)
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

// refuse puts a pod aside that fits nowhere, making room for it if that helps, and
// says why; true: a write has begun.
func (l *loop) refuse(ctx context.Context, w *waiting, refused *refusal) bool {
	told := *refused // the refusal itself may be its whole class's
	nominated := ""
	if mine := l.state.nominated[keyOf(w.pod)]; mine != nil {
		nominated = mine.node
	}
	best, why := l.state.preempt(w.pod, refused, l.c.Random.IntN)
	switch {
	case best != nil:
		told.preemption, nominated = best.String(), best.node.name
	case why == stillEnding:
		told.preemption = why
	default:
		told.preemption, nominated = why, ""
	}
	l.state.nominate(w.pod, nominated)

	text := told.String()
	known := w.told == text
	w.told = text
	l.queue.park(w, &told, time.Now())
	if !known {
		l.record.Event(w.pod, corev1.EventTypeWarning, "FailedScheduling", text)
	}
	if best == nil && known && conditionSays(w.pod, text) && w.pod.Status.NominatedNodeName == nominated {
		return false
	}
	pod := w.pod
	lesser := l.lesser(pod, best)
	l.begin(ctx, pod, "", func(ctx context.Context) error {
		if err := l.say(ctx, pod, text, nominated); err != nil || best == nil {
			return err
		}
		return l.makeRoom(ctx, pod, best, lesser)
	})
	return true
}

// lesser are the pods of lower priority whose nomination ends because this one got the node.
func (l *loop) lesser(pod *corev1.Pod, best *candidate) (pods []*corev1.Pod) {
	if best == nil {
		return nil
	}
	for _, m := range l.state.nominated {
		if m.node == best.node.name && corev1helpers.PodPriority(m.pod) < corev1helpers.PodPriority(pod) {
			pods = append(pods, m.pod)
		}
	}
	for _, p := range pods {
		l.state.nominate(p, "")
	}
	return pods
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

// say writes into the pod's status why it has no node, and for which one it waits.
func (l *loop) say(ctx context.Context, pod *corev1.Pod, text, nominated string) error {
	if conditionSays(pod, text) && pod.Status.NominatedNodeName == nominated {
		return nil
	}
	status := map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: text,
		LastTransitionTime: metav1.Now().Rfc3339Copy(), ObservedGeneration: pod.Generation,
	}}}
	if nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = nominated
	}
	return l.patchStatus(ctx, pod, status)
}

// patchStatus merges into the status of exactly this pod.
func (l *loop) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("mark pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	_, err = l.client.Patch(ctx, api.For[*corev1.Pod](), pod.Namespace, pod.Name, client.Patch{Type: types.StrategicMergePatchType, Data: patch, Sub: "status"})
	return err
}

// makeRoom sends a candidate's victims away, each told why in its status.
func (l *loop) makeRoom(ctx context.Context, pod *corev1.Pod, best *candidate, lesser []*corev1.Pod) error {
	for _, p := range lesser {
		if err := l.patchStatus(ctx, p, map[string]any{"nominatedNodeName": nil}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	for _, v := range best.victims {
		if v.pod.DeletionTimestamp != nil {
			continue
		}
		err := l.sendAway(ctx, pod, v.pod, best.node.name)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("preempt pod %s/%s for %s/%s: %w", v.pod.Namespace, v.pod.Name, pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func (l *loop) sendAway(ctx context.Context, pod, victim *corev1.Pod, node string) error {
	err := l.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            l.c.Name + ": preempting to accommodate a higher priority pod",
		LastTransitionTime: metav1.Now().Rfc3339Copy(), ObservedGeneration: victim.Generation,
	}}})
	if err != nil {
		return err
	}
	err = l.client.Delete(ctx, api.For[*corev1.Pod](), victim.Namespace, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	if err != nil {
		return err
	}
	l.record.Event(victim, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", pod.UID, node))
	return nil
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
