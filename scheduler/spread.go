package scheduler

import (
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff/client"
)

// constraint is a topology spread constraint, ready for use (KEP-895, KEP-3022,
// KEP-3094, KEP-3243).
type constraint struct {
	corev1.TopologySpreadConstraint
	axis  *axis
	count *counter
	self  bool // the pod itself is among those that are counted
	// counts tells whether what is on a node counts, by the constraint's policies.
	counts func(*nodeState) bool
}

// constraintsOf returns those of the pod that are to be treated so.
func constraintsOf(s *state, pod *corev1.Pod, when corev1.UnsatisfiableConstraintAction) (out []constraint) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != when {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			continue // validation does not let it in
		}
		out = append(out, s.constraint(pod, *c, withLabels(selector, pod, c.MatchLabelKeys, selection.In)))
	}
	if len(pod.Spec.TopologySpreadConstraints) == 0 && when == corev1.ScheduleAnyway {
		return usualConstraints(s, pod)
	}
	// A node counts if it has the labels of all constraints.
	for i := range out {
		policy := out[i].counts
		out[i].counts = func(n *nodeState) bool {
			for j := range out {
				if out[j].axis.of(n) < 0 {
					return false
				}
			}
			return policy(n)
		}
	}
	return out
}

func (s *state) constraint(pod *corev1.Pod, c corev1.TopologySpreadConstraint, selector labels.Selector) constraint {
	out := constraint{
		TopologySpreadConstraint: c,
		axis:                     s.axis(c.TopologyKey),
		count:                    s.counter(pick{namespaces: []string{pod.Namespace}, selector: selector, live: true}),
		self:                     selector.Matches(labels.Set(pod.Labels)),
	}
	out.counts = out.policies(pod)
	return out
}

// usualConstraints spread the pods of a service or set that say nothing of it.
func usualConstraints(s *state, pod *corev1.Pod) []constraint {
	selector := siblings(s, pod)
	if selector.Empty() {
		return nil
	}
	return []constraint{
		s.constraint(pod, corev1.TopologySpreadConstraint{MaxSkew: 3, TopologyKey: corev1.LabelHostname}, selector),
		s.constraint(pod, corev1.TopologySpreadConstraint{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone}, selector),
	}
}

// siblings picks the pods of the same services and owner.
func siblings(s *state, pod *corev1.Pod) labels.Selector {
	all := labels.NewSelector()
	and := func(selector labels.Selector) {
		if requirements, ok := selector.Requirements(); ok {
			all = all.Add(requirements...)
		}
	}
	for service := range client.All[*corev1.Service](s.others, pod.Namespace) {
		if len(service.Spec.Selector) == 0 {
			continue
		}
		if selector := labels.SelectorFromSet(service.Spec.Selector); selector.Matches(labels.Set(pod.Labels)) {
			and(selector)
		}
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return all
	}
	var of *metav1.LabelSelector
	switch owner.Kind {
	case "ReplicaSet":
		if rs, ok := client.Find[*appsv1.ReplicaSet](s.others, pod.Namespace, owner.Name); ok {
			of = rs.Spec.Selector
		}
	case "StatefulSet":
		if set, ok := client.Find[*appsv1.StatefulSet](s.others, pod.Namespace, owner.Name); ok {
			of = set.Spec.Selector
		}
	case "ReplicationController":
		if rc, ok := client.Find[*corev1.ReplicationController](s.others, pod.Namespace, owner.Name); ok {
			of = &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(of); of != nil && err == nil {
		and(selector)
	}
	return all
}

// policies make counts: by default a node counts that the pod's node affinity
// picks, whatever its taints. What was found out about a node is kept.
func (c *constraint) policies(pod *corev1.Pod) func(*nodeState) bool {
	affinity := c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	affinity = affinity && (len(pod.Spec.NodeSelector) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil)
	taints := c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	if !affinity && !taints {
		return func(*nodeState) bool { return true }
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	type answer struct {
		since  uint64
		counts bool
	}
	known := map[int]answer{} // by node slot
	return func(n *nodeState) bool {
		if a, ok := known[n.slot]; ok && a.since == n.since {
			return a.counts
		}
		counts := true
		if affinity {
			match, err := required.Match(n.node)
			counts = match && err == nil
		}
		if taints && counts {
			counts = !slices.ContainsFunc(n.node.Spec.Taints, func(t corev1.Taint) bool {
				return t.Effect != corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &t, true)
			})
		}
		known[n.slot] = answer{n.since, counts}
		return counts
	}
}

// What spreading says of a node that it refuses.
const (
	uneven    = "node(s) didn't match pod topology spread constraints"
	noDomain  = uneven + " (missing required label)"
	unrelated = "node(s) didn't match pod affinity rules"
)

// hopelessTexts are refusals of wide filters that no pod's leaving would change.
var hopelessTexts = map[string]bool{noDomain: true, unrelated: true}

// spreadAllowed holds the constraints that must not be broken.
func spreadAllowed(s *state, c *class, _ *corev1.Pod) (func(*nodeState) string, string) {
	hard := c.hard // as it is now: asking about a node may renew it
	if len(hard) == 0 {
		return nil, ""
	}
	counts := make([][]int32, len(hard))
	least := make([]int32, len(hard))
	for i := range hard {
		counts[i] = s.perDomain(hard[i].axis, hard[i].count, hard[i].counts)
		least[i] = leastOf(counts[i], hard[i].MinDomains)
	}
	return func(n *nodeState) string {
		for i := range hard {
			id := hard[i].axis.of(n)
			if id < 0 {
				return noDomain
			}
			after := max(counts[i][id], 0)
			if hard[i].self {
				after++
			}
			if after-least[i] > hard[i].MaxSkew {
				return uneven
			}
		}
		return ""
	}, ""
}

// leastOf is the fewest pods that a domain has; 0 where there are fewer domains
// than are wanted.
func leastOf(counts []int32, want *int32) int32 {
	domains, least := int32(0), int32(math.MaxInt32)
	for _, n := range counts {
		if n >= 0 {
			domains++
			least = min(least, n)
		}
	}
	if domains == 0 || want != nil && domains < *want {
		return 0
	}
	return least
}

// spreadEvenly prefers domains with fewer pods.
func spreadEvenly(s *state, c *class, nodes []*nodeState) []int64 {
	if len(c.soft) == 0 {
		return nil
	}
	own := len(c.pod.Spec.TopologySpreadConstraints) > 0
	sums := make([]float64, len(nodes))
	ignored := make([]bool, len(nodes))
	rated := 0
	for j, n := range nodes {
		// Nodes that lack a label are left out; not so with constraints that nobody asked for.
		ignored[j] = own && slices.ContainsFunc(c.soft, func(c constraint) bool { return c.axis.of(n) < 0 })
		if !ignored[j] {
			rated++
		}
	}
	for i := range c.soft {
		k := &c.soft[i]
		if k.TopologyKey == corev1.LabelHostname {
			// Each node is a domain of its own, whatever its label says.
			weight := math.Log(float64(rated + 2))
			for j, n := range nodes {
				if !ignored[j] && k.axis.of(n) >= 0 {
					sums[j] += float64(k.count.at(n))*weight + float64(k.MaxSkew-1)
				}
			}
			continue
		}
		counts := s.perDomain(k.axis, k.count, k.counts)
		weight := math.Log(float64(domainsOf(k.axis, nodes, ignored) + 2))
		for j, n := range nodes {
			if id := k.axis.of(n); !ignored[j] && id >= 0 {
				sums[j] += float64(max(counts[id], 0))*weight + float64(k.MaxSkew-1)
			}
		}
	}
	return evenness(sums, ignored)
}

// domainsOf counts the values that the nodes have, the lack of one included.
func domainsOf(a *axis, nodes []*nodeState, ignored []bool) (n int) {
	seen := make([]bool, len(a.ids)+1)
	for j, node := range nodes {
		if id := a.of(node) + 1; !ignored[j] && !seen[id] {
			seen[id] = true
			n++
		}
	}
	return n
}

// evenness turns sums, of which the least is best, into points.
func evenness(sums []float64, ignored []bool) []int64 {
	points := make([]int64, len(sums))
	least, most := int64(math.MaxInt64), int64(0)
	for i, sum := range sums {
		points[i] = int64(math.Round(sum))
		if !ignored[i] {
			least, most = min(least, points[i]), max(most, points[i])
		}
	}
	for i := range points {
		switch {
		case ignored[i]:
			points[i] = 0
		case most == 0:
			points[i] = 100
		default:
			points[i] = 100 * (most + least - points[i]) / most
		}
	}
	return points
}
