// Package nodelifecycle says of each node whether it is alive, and turns its
// conditions into taints. A node that has not been heard of for a grace period
// gets conditions Unknown, taints that repel pods (NoSchedule at once, NoExecute
// at the pace that its zone allows, see zone.go), and its pods are no longer
// ready. Package tainteviction deletes pods for NoExecute taints; this one never
// does.
package nodelifecycle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	// grace is how long a node may be silent; startup, how long a new one that has
	// never reported may be.
	grace   = 50 * time.Second
	startup = 60 * time.Second
)

// Controller is the row of the table. Its keys are nodes, and one for the pace of
// evictions (zone.go).
func Controller() loop.Controller {
	return loop.Controller{
		Name:    "node-controller",
		Reads:   []*api.Resource{api.For[*corev1.Node](), api.For[*coordinationv1.Lease](), api.For[*corev1.Pod]()},
		Writes:  []string{"nodes", "nodes/status", "pods/status"},
		Indexes: []client.Index{workload.PodsByNode()},
		Keys:    keys,
		Decide:  Decide,
		Refused: refused,
	}
}

func keys(_ *client.View, c client.Change) []loop.Key {
	switch obj := c.Object().(type) {
	case *coordinationv1.Lease:
		if obj.Namespace == corev1.NamespaceNodeLease {
			return []loop.Key{{Name: obj.Name}}
		}
	case *corev1.Node:
		out := []loop.Key{{Name: obj.Name}}
		if c.Old == nil || c.New == nil || readiness(c.Old.(*corev1.Node)) != readiness(c.New.(*corev1.Node)) || zoneOf(c.Old) != zoneOf(c.New) {
			out = append(out, everywhere)
		}
		return out
	case *corev1.Pod:
		if c.New != nil && obj.Spec.NodeName != "" && (c.Old == nil || c.Old.(*corev1.Pod).Spec.NodeName != obj.Spec.NodeName || c.Old.(*corev1.Pod).Status.Phase != obj.Status.Phase) {
			return []loop.Key{{Name: obj.Spec.NodeName}}
		}
	}
	return nil
}

// health is the memory about a node.
type health struct {
	node    *corev1.Node
	renewed time.Time // of the lease, by the node's clock
	beat    time.Time // of the condition Ready, by the node's clock
	heard   time.Time // when either changed, by our clock
	// marked is the transition for which the pods of a node that says itself that
	// it is not ready were marked: once, for it still speaks for its pods.
	marked time.Time
}

// Decide keeps the conditions and taints of a node, or evicts nodes at the pace of
// their zones.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	if key == everywhere {
		return decideZones(v, now, m)
	}
	h, known := m.(health)
	node, ok := client.Find[*corev1.Node](v, "", key.Name)
	if !ok {
		var plan loop.Plan
		if known {
			plan.Events = append(plan.Events, loop.Normal(h.node, "RemovingNode", fmt.Sprintf("Node %s event: Removing Node %s from Controller", key.Name, key.Name)))
		}
		return plan, nil
	}
	var plan loop.Plan
	if !known {
		plan.Events = append(plan.Events, loop.Normal(node, "RegisteredNode", fmt.Sprintf("Node %s event: Registered Node %s in Controller", key.Name, key.Name)))
	}
	h = listen(v, h, node, now)
	ready := condition(node, corev1.NodeReady)
	silentFrom := h.heard.Add(grace)
	if ready == nil {
		silentFrom = node.CreationTimestamp.Add(startup)
	}
	if now.Before(silentFrom) {
		plan.WakeAt = silentFrom
	} else if w, events := unknown(node, now); w != nil {
		// Its taints follow when the conditions are seen.
		plan.Writes, plan.Events = append(plan.Writes, *w), append(plan.Events, events...)
		return plan, h
	}
	if w := taints(node, now); w != nil {
		plan.Writes = append(plan.Writes, *w)
	}
	marks, marked := markPods(v, node, ready, h.marked, now)
	plan.Writes = append(plan.Writes, marks...)
	h.marked = marked
	return plan, h
}

// listen notes when the node was last heard of. Clocks of nodes are not compared
// with ours: a change of what they say is a sign of life.
func listen(v *client.View, h health, node *corev1.Node, now time.Time) health {
	var renewed, beat time.Time
	if lease, ok := client.Find[*coordinationv1.Lease](v, corev1.NamespaceNodeLease, node.Name); ok && lease.Spec.RenewTime != nil {
		renewed = lease.Spec.RenewTime.Time
	}
	if c := condition(node, corev1.NodeReady); c != nil {
		beat = c.LastHeartbeatTime.Time
	}
	if h.node == nil || h.node.UID != node.UID || renewed.After(h.renewed) || beat.After(h.beat) {
		h.heard = now
	}
	h.node, h.renewed, h.beat = node, renewed, beat
	return h
}

// unknown writes that nothing is known of the node any more; nil: it says so already.
func unknown(node *corev1.Node, now time.Time) (*loop.Write, []loop.Event) {
	next := node.DeepCopy()
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(next, kind)
		switch {
		case c == nil:
			next.Status.Conditions = append(next.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	if apiequality.Semantic.DeepEqual(node.Status, next.Status) {
		return nil, nil
	}
	w := loop.UpdateStatus(next)
	if readiness(node) == corev1.ConditionTrue {
		return &w, []loop.Event{loop.Normal(node, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", node.Name))}
	}
	return &w, nil
}

// rule says which taint a condition asks for.
type rule struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}

var ofCondition = []rule{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// taints puts right what the conditions ask for; nil: nothing is wrong. NoExecute
// taints are only removed, or exchanged, here: zones add them.
func taints(node *corev1.Node, now time.Time) *loop.Write {
	wanted := map[corev1.Taint]bool{}
	for _, row := range ofCondition {
		if c := condition(node, row.condition); c != nil && c.Status == row.status {
			wanted[corev1.Taint{Key: row.taint, Effect: corev1.TaintEffectNoSchedule}] = true
		}
	}
	if condition(node, corev1.NodeReady) == nil { // new: as admission made it, until it reports
		wanted[corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	if node.Spec.Unschedulable {
		wanted[corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	if evict := evicting(node); evict != "" && hasEviction(node) {
		wanted[corev1.Taint{Key: evict, Effect: corev1.TaintEffectNoExecute}] = true
	}
	var next []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(id) || wanted[id] {
			next = append(next, t)
			delete(wanted, id)
		}
	}
	if len(wanted) == 0 && len(next) == len(node.Spec.Taints) {
		return nil
	}
	for t := range wanted {
		at := metav1.NewTime(now)
		t.TimeAdded = &at
		next = append(next, t)
	}
	added := next[len(next)-len(wanted):]
	slices.SortFunc(added, func(a, b corev1.Taint) int { return strings.Compare(a.Key+string(a.Effect), b.Key+string(b.Effect)) })
	return patchTaints(node, next)
}

// ours tells whether the taint is one that conditions decide about.
func ours(t corev1.Taint) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		return t.Key == corev1.TaintNodeUnschedulable || slices.ContainsFunc(ofCondition, func(row rule) bool { return row.taint == t.Key })
	case corev1.TaintEffectNoExecute:
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	}
	return false
}

// evicting returns the NoExecute taint that the node's state deserves, or "".
func evicting(node *corev1.Node) string {
	switch readiness(node) {
	case corev1.ConditionFalse:
		return corev1.TaintNodeNotReady
	case corev1.ConditionUnknown:
		return corev1.TaintNodeUnreachable
	}
	return ""
}

func hasEviction(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && ours(corev1.Taint{Key: t.Key, Effect: t.Effect})
	})
}

func patchTaints(node *corev1.Node, taints []corev1.Taint) *loop.Write {
	if taints == nil {
		taints = []corev1.Taint{}
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		panic(fmt.Sprintf("taints always have a JSON form: %v", err))
	}
	w := loop.Patch(node, client.Patch{Type: types.MergePatchType, Data: data})
	return &w
}

// markPods says of pods on a node that is not ready that they are not ready
// either, so that services leave them out.
func markPods(v *client.View, node *corev1.Node, ready *corev1.NodeCondition, marked, now time.Time) (writes []loop.Write, since time.Time) {
	if ready == nil || ready.Status == corev1.ConditionTrue {
		return nil, time.Time{}
	}
	if ready.Status == corev1.ConditionFalse && marked.Equal(ready.LastTransitionTime.Time) {
		return nil, marked
	}
	for pod := range workload.PodsOn(v, node.Name) {
		c := workload.Condition(pod, corev1.PodReady)
		if c == nil || c.Status != corev1.ConditionTrue {
			continue
		}
		next := pod.DeepCopy()
		c = workload.Condition(next, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now)
		w := workload.PatchCondition(pod, *c)
		w.Stage = 1
		w.Done = func(api.Object) loop.Event { return loop.Warning(pod, "NodeNotReady", "Node is not ready") }
		writes = append(writes, w)
	}
	return writes, ready.LastTransitionTime.Time
}

func condition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// readiness is the status of the condition Ready, "" when the node has never said.
func readiness(node *corev1.Node) corev1.ConditionStatus {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}
