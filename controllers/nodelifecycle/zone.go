package nodelifecycle

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Nodes are evicted zone by zone, slowly: where many fall silent at once it is
// more often the network to them, or our own, than the machines.
//
//	state of the zone    a node each
//	normal               10 s
//	many are not ready   100 s in a large zone, never in a small one
//	all are not ready    10 s; but never while no zone of the cluster works
const (
	pace      = 10 * time.Second
	slowPace  = 100 * time.Second
	large     = 50   // nodes: a zone with more is large
	unhealthy = 0.55 // share that makes many, if they are more than two
)

// everywhere is the key of all zones: one decision for all, since what one may do
// depends on whether another works. No node has a namespace.
var everywhere = loop.Key{Namespace: "zones", Name: "all"}

// zoneOf names the failure domain of a node.
func zoneOf(node api.Object) string {
	l := node.GetLabels()
	region := cmp.Or(l[corev1.LabelTopologyRegion], l[corev1.LabelFailureDomainBetaRegion])
	zone := cmp.Or(l[corev1.LabelTopologyZone], l[corev1.LabelFailureDomainBetaZone])
	return region + ":" + zone
}

// turn is the memory: when each zone may evict next.
type turn map[string]time.Time

// refused gives a zone its turn back when the node could not be changed.
func refused(m loop.Memory, w loop.Write, _ error) loop.Memory {
	t, ok := m.(turn)
	if !ok {
		return m
	}
	t = maps.Clone(t)
	delete(t, zoneOf(w.Object()))
	return t
}

// decideZones adds the NoExecute taint to the node of each zone whose turn it is.
func decideZones(v *client.View, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	byZone := map[string][]*corev1.Node{}
	works := false
	for node := range client.All[*corev1.Node](v, "") {
		byZone[zoneOf(node)] = append(byZone[zoneOf(node)], node)
		works = works || readiness(node) == corev1.ConditionTrue
	}
	var plan loop.Plan
	if !works { // it is we who are cut off: nobody is evicted, and who waits for it is spared
		for node := range client.All[*corev1.Node](v, "") {
			if hasEviction(node) {
				plan.Writes = append(plan.Writes, *patchTaints(node, withoutEviction(node)))
			}
		}
		return plan, nil
	}
	last, _ := m.(turn)
	next := turn{}
	for _, zone := range slices.Sorted(maps.Keys(byZone)) {
		nodes := byZone[zone]
		every := paceOf(nodes)
		if at, ok := last[zone]; ok && now.Before(at) {
			next[zone] = at
		}
		waiting := inLine(nodes)
		if len(waiting) == 0 || every == 0 {
			continue
		}
		if _, wait := next[zone]; !wait {
			plan.Writes = append(plan.Writes, evict(waiting[0], now))
			next[zone] = now.Add(every)
			waiting = waiting[1:]
		}
		if at := next[zone]; len(waiting) > 0 && (plan.WakeAt.IsZero() || at.Before(plan.WakeAt)) {
			plan.WakeAt = at
		}
	}
	if len(next) == 0 {
		return plan, nil
	}
	return plan, next
}

// paceOf returns how far apart evictions of a zone are; 0: there are none.
func paceOf(nodes []*corev1.Node) time.Duration {
	ready, not := 0, 0
	for _, node := range nodes {
		if readiness(node) == corev1.ConditionTrue {
			ready++
		} else {
			not++
		}
	}
	switch {
	case ready == 0:
		return pace
	case not <= 2 || float64(not)/float64(ready+not) < unhealthy:
		return pace
	case len(nodes) > large:
		return slowPace
	}
	return 0
}

// inLine returns the nodes that deserve a NoExecute taint and have none, those
// first that have been away for longest.
func inLine(nodes []*corev1.Node) (out []*corev1.Node) {
	for _, node := range nodes {
		if evicting(node) != "" && !hasEviction(node) {
			out = append(out, node)
		}
	}
	slices.SortStableFunc(out, func(a, b *corev1.Node) int {
		return condition(a, corev1.NodeReady).LastTransitionTime.Compare(condition(b, corev1.NodeReady).LastTransitionTime.Time)
	})
	return out
}

func evict(node *corev1.Node, now time.Time) loop.Write {
	at := metav1.NewTime(now)
	return *patchTaints(node, append(slices.Clone(node.Spec.Taints), corev1.Taint{Key: evicting(node), Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}))
}

func withoutEviction(node *corev1.Node) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && ours(corev1.Taint{Key: t.Key, Effect: t.Effect})
	})
}
