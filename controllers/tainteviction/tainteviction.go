// Package tainteviction deletes pods from nodes whose NoExecute taints they do not
// tolerate, or not any longer (tolerationSeconds). Package nodelifecycle, and
// people, put such taints on nodes; this one only reads nodes.
package tainteviction

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// Controller is the row of the table. Its keys are pods. It acts as the
// node-controller, as its rights are named.
func Controller() loop.Controller {
	return loop.Controller{
		Name:    "node-controller",
		Reads:   []*api.Resource{api.For[*corev1.Pod](), api.For[*corev1.Node]()},
		Writes:  []string{"pods", "pods/status"},
		Indexes: []client.Index{workload.PodsByNode()},
		Keys:    keys,
		Decide:  Decide,
	}
}

func keys(v *client.View, c client.Change) (out []loop.Key) {
	if c.Resource == api.For[*corev1.Pod]() {
		return []loop.Key{loop.KeyOf(c.Object())}
	}
	if c.New == nil || c.Old != nil && apiequality.Semantic.DeepEqual(evicting(c.Old.(*corev1.Node)), evicting(c.New.(*corev1.Node))) {
		return nil // pods of nodes that are gone are not evicted but collected
	}
	for pod := range workload.PodsOn(v, c.New.GetName()) {
		out = append(out, loop.KeyOf(pod))
	}
	return out
}

func evicting(node *corev1.Node) (out []corev1.Taint) {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

// patience is the memory: since when each taint without a time of its own is
// known to trouble this pod.
type patience struct {
	pod   types.UID
	since map[corev1.Taint]time.Time
}

// Decide deletes the pod when it no longer tolerates its node.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	pod, ok := client.Find[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
		return loop.Plan{}, nil
	}
	before, _ := m.(patience)
	if before.pod != pod.UID {
		before = patience{}
	}
	node, ok := client.Find[*corev1.Node](v, "", pod.Spec.NodeName)
	if !ok {
		return loop.Plan{}, nil
	}
	after := patience{pod: pod.UID, since: map[corev1.Taint]time.Time{}}
	end, ends := time.Time{}, false
	for _, taint := range evicting(node) {
		seconds, limited := tolerance(pod, taint)
		if !limited {
			continue
		}
		id := corev1.Taint{Key: taint.Key, Value: taint.Value}
		since, known := before.since[id]
		if !known {
			since = now
			if taint.TimeAdded != nil { // as it was before we were leading
				since = latest(taint.TimeAdded.Time, placed(pod))
			}
		}
		after.since[id] = since
		if at := since.Add(seconds); !ends || at.Before(end) {
			end, ends = at, true
		}
	}
	switch {
	case !ends && len(before.since) > 0:
		return loop.Plan{Events: []loop.Event{loop.Normal(pod, "TaintManagerEviction", fmt.Sprintf("Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name))}}, nil
	case !ends:
		return loop.Plan{}, nil
	case now.Before(end):
		return loop.Plan{WakeAt: end}, after
	}
	return evict(pod, now), nil
}

// tolerance is how long the pod stays with the taint; limited is false where it
// stays for ever. Of several tolerations that match, the shortest counts.
func tolerance(pod *corev1.Pod, taint corev1.Taint) (shortest time.Duration, limited bool) {
	tolerated := false
	for _, t := range pod.Spec.Tolerations {
		if !t.ToleratesTaint(klog.Logger{}, &taint, true) {
			continue
		}
		if t.TolerationSeconds != nil {
			d := time.Duration(max(0, *t.TolerationSeconds)) * time.Second
			if !limited || d < shortest {
				shortest, limited = d, true
			}
		}
		tolerated = true
	}
	if !tolerated {
		return 0, true
	}
	return shortest, limited
}

// placed is when the pod came to its node.
func placed(pod *corev1.Pod) time.Time {
	if c := workload.Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return pod.CreationTimestamp.Time
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// evict says why, and deletes.
func evict(pod *corev1.Pod, now time.Time) (plan loop.Plan) {
	plan.Events = append(plan.Events, loop.Normal(pod, "TaintManagerEviction", fmt.Sprintf("Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)))
	why := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}
	if c := workload.Condition(pod, corev1.DisruptionTarget); c == nil || c.Status != why.Status || c.Reason != why.Reason {
		plan.Writes = append(plan.Writes, workload.PatchCondition(pod, why))
	}
	w := loop.Delete(pod)
	w.Stage = 1
	plan.Writes = append(plan.Writes, w)
	return plan
}
