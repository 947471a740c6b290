package scheduler

import (
	"maps"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff/client"
)

// constraint is a topology spread constraint, ready for use (KEP-895, KEP-3022,
// KEP-3094, KEP-3243).
type constraint struct {
	corev1.TopologySpreadConstraint
	selector labels.Selector
	self     bool // the pod itself is among those that are counted
}

// constraintsOf returns those of the pod that are to be treated so.
func constraintsOf(s *state, pod *corev1.Pod, when corev1.UnsatisfiableConstraintAction) (out []constraint) {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != when {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			continue // validation does not let it in
		}
		for _, key := range c.MatchLabelKeys {
			value, ok := pod.Labels[key]
			if !ok {
				continue
			}
			if r, err := labels.NewRequirement(key, "in", []string{value}); err == nil {
				selector = selector.Add(*r)
			}
		}
		out = append(out, constraint{c, selector, selector.Matches(labels.Set(pod.Labels))})
	}
	if len(pod.Spec.TopologySpreadConstraints) == 0 && when == corev1.ScheduleAnyway {
		out = usualConstraints(s, pod)
	}
	return out
}

// usualConstraints spread the pods of a service or set that say nothing of it.
func usualConstraints(s *state, pod *corev1.Pod) []constraint {
	selector := siblings(s, pod)
	if selector.Empty() {
		return nil
	}
	return []constraint{
		{corev1.TopologySpreadConstraint{MaxSkew: 3, TopologyKey: corev1.LabelHostname}, selector, true},
		{corev1.TopologySpreadConstraint{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone}, selector, true},
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

// counts tells how many matching pods each domain of the constraint has; domains
// without any are there with 0.
func (c *constraint) counts(s *state, pod *corev1.Pod) map[string]int {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	counted := map[string]bool{}
	domains := map[string]int{}
	for _, n := range s.order {
		if n.node == nil || !c.includes(n.node, pod, required) {
			continue
		}
		if value, ok := n.node.Labels[c.TopologyKey]; ok {
			domains[value] += 0
			counted[n.name] = true
		}
	}
	for p := range s.alike(pod.Namespace, c.selector) {
		if counted[p.node] && keyOf(p.pod) != keyOf(pod) {
			value, _ := s.label(p.node, c.TopologyKey)
			domains[value]++
		}
	}
	return domains
}

// includes tells whether the node's domain counts, by the constraint's policies.
func (c *constraint) includes(node *corev1.Node, pod *corev1.Pod, required nodeaffinity.RequiredNodeAffinity) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(node); !ok || err != nil {
			return false
		}
	}
	if c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore {
		return true
	}
	return !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &t, true)
	})
}

// spreadAllowed holds the constraints that must not be broken.
func spreadAllowed(s *state, pod *corev1.Pod, _ *request) (func(*nodeState) string, string) {
	constraints := constraintsOf(s, pod, corev1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil, ""
	}
	counts := make([]map[string]int, len(constraints))
	least := make([]int, len(constraints))
	for i := range constraints {
		counts[i] = constraints[i].counts(s, pod)
		least[i] = leastOf(counts[i], constraints[i].MinDomains)
	}
	return func(n *nodeState) string {
		for i, c := range constraints {
			value, ok := n.node.Labels[c.TopologyKey]
			if !ok {
				return "node(s) didn't match pod topology spread constraints (missing required label)"
			}
			after := counts[i][value]
			if c.self {
				after++
			}
			if after-least[i] > int(c.MaxSkew) {
				return "node(s) didn't match pod topology spread constraints"
			}
		}
		return ""
	}, ""
}

// leastOf is the fewest pods that a domain has; 0 where there are fewer domains
// than are wanted.
func leastOf(domains map[string]int, want *int32) int {
	if len(domains) == 0 || want != nil && len(domains) < int(*want) {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(domains)))
}

// spreadEvenly prefers domains with fewer pods.
func spreadEvenly(s *state, pod *corev1.Pod, _ *request, nodes []*nodeState) []int64 {
	constraints := constraintsOf(s, pod, corev1.ScheduleAnyway)
	if len(constraints) == 0 {
		return nil
	}
	sums := make([]float64, len(nodes))
	ignored := make([]bool, len(nodes))
	for i := range constraints {
		c := &constraints[i]
		counts := c.counts(s, pod)
		weight := math.Log(float64(len(counts) + 2))
		for j, n := range nodes {
			value, ok := n.node.Labels[c.TopologyKey]
			if !ok {
				ignored[j] = ignored[j] || len(pod.Spec.TopologySpreadConstraints) > 0
				continue
			}
			sums[j] += float64(counts[value])*weight + float64(c.MaxSkew-1)
		}
	}
	return evenness(sums, ignored)
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
