// Package podgc deletes pods that nobody else will: those on nodes that are gone,
// those that were deleted before they had a node, those on nodes that are said to
// be out of service, and the oldest of the finished when there are too many.
package podgc

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	// mostFinished is how many finished pods are kept.
	mostFinished = 12500
	// quarantine is how long a node must be gone before its pods are: it may be
	// registering anew.
	quarantine = 40 * time.Second
	// between looks at how many have finished.
	between = 20 * time.Second
)

// finished is the key under which finished pods are counted. No pod is without
// namespace.
var finished = loop.Key{Name: "finished pods"}

const finishedPods = "finished pods"

// Controller is the row of the table. Its keys are pods, and one for all that
// have finished.
func Controller() loop.Controller { return controller(mostFinished) }

func controller(most int) loop.Controller {
	return loop.Controller{
		Name:   "pod-garbage-collector",
		Reads:  []*api.Resource{api.For[*corev1.Pod](), api.For[*corev1.Node]()},
		Writes: []string{"pods", "pods/status"},
		Indexes: []client.Index{workload.PodsByNode(), {Name: finishedPods, Resource: api.For[*corev1.Pod](), Keys: func(obj api.Object) []string {
			if workload.Finished(obj.(*corev1.Pod)) {
				return []string{""}
			}
			return nil
		}}},
		Keys: keys,
		Decide: func(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
			if key == finished {
				return decideFinished(v, most, now, m)
			}
			return decide(v, key, now, m)
		},
	}
}

func keys(v *client.View, c client.Change) (out []loop.Key) {
	if c.Resource == api.For[*corev1.Pod]() {
		out = []loop.Key{loop.KeyOf(c.Object())}
		if c.New != nil && workload.Finished(c.New.(*corev1.Pod)) {
			out = append(out, finished)
		}
		return out
	}
	if c.Old != nil && c.New != nil && outOfService(c.Old.(*corev1.Node)) == outOfService(c.New.(*corev1.Node)) {
		return nil
	}
	for pod := range workload.PodsOn(v, c.Object().GetName()) {
		out = append(out, loop.KeyOf(pod))
	}
	return out
}

// decide deletes a pod whose node will never end it. The memory is since when the
// node is gone.
func decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	pod, ok := client.Find[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			return loop.Plan{Writes: remove(pod, nil)}, nil
		}
		return loop.Plan{}, nil
	}
	node, ok := client.Find[*corev1.Node](v, "", pod.Spec.NodeName)
	if ok {
		if pod.DeletionTimestamp != nil && outOfService(node) {
			return loop.Plan{Writes: remove(pod, nil)}, nil
		}
		return loop.Plan{}, nil
	}
	since, known := m.(time.Time)
	if !known {
		since = now
	}
	if end := since.Add(quarantine); now.Before(end) {
		return loop.Plan{WakeAt: end}, since
	}
	writes := remove(pod, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
	})
	for i := range writes {
		writes[i].Unless = &loop.Identity{Resource: api.For[*corev1.Node](), Name: pod.Spec.NodeName}
	}
	return loop.Plan{Writes: writes}, since
}

// remove deletes the pod at once; it has failed, unless it has finished.
func remove(pod *corev1.Pod, why *corev1.PodCondition) (writes []loop.Write) {
	fields := map[string]any{}
	if !workload.Finished(pod) {
		fields["phase"] = corev1.PodFailed
		if why != nil {
			fields["conditions"] = []corev1.PodCondition{*why}
		}
		writes = append(writes, workload.PatchStatus(pod, fields))
	}
	w := loop.DeleteWith(pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	w.Stage = 1
	return append(writes, w)
}

// outOfService tells whether people vouch that nothing runs on the node any more.
func outOfService(node *corev1.Node) bool {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// decideFinished deletes the oldest of those that are too many. The memory is
// when it last looked: each look sorts them all.
func decideFinished(v *client.View, most int, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	if last, ok := m.(time.Time); ok && now.Before(last.Add(between)) {
		return loop.Plan{WakeAt: last.Add(between)}, last
	}
	pods := slices.Collect(client.By[*corev1.Pod](v, finishedPods, ""))
	if len(pods) <= most {
		return loop.Plan{}, nil
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	var plan loop.Plan
	for _, pod := range pods[:len(pods)-most] {
		plan.Writes = append(plan.Writes, loop.DeleteWith(pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	}
	return plan, now
}
