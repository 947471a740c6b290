package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"skiff/client"
)

// term is a pod affinity term, ready for use.
type term struct {
	key        string
	selector   labels.Selector
	namespaces map[string]bool // nil: by nsSelector alone
	nsSelector labels.Selector // nil: none
}

// termOf makes a term of the pod that has it.
func termOf(pod *corev1.Pod, t *corev1.PodAffinityTerm) (term, bool) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return term{}, false // validation does not let it in
	}
	with := func(keys []string, operator selection.Operator) {
		for _, key := range keys {
			if value, ok := pod.Labels[key]; ok {
				if r, err := labels.NewRequirement(key, operator, []string{value}); err == nil {
					selector = selector.Add(*r)
				}
			}
		}
	}
	with(t.MatchLabelKeys, selection.In)
	with(t.MismatchLabelKeys, selection.NotIn)
	out := term{key: t.TopologyKey, selector: selector, namespaces: map[string]bool{}}
	for _, ns := range t.Namespaces {
		out.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return term{}, false
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces[pod.Namespace] = true
	}
	return out, true
}

// picks tells whether the term is about the pod.
func (t *term) picks(s *state, pod *corev1.Pod) bool {
	if !t.namespaces[pod.Namespace] {
		if t.nsSelector == nil {
			return false
		}
		ns, ok := client.Find[*corev1.Namespace](s.others, "", pod.Namespace)
		if !ok || !t.nsSelector.Matches(labels.Set(ns.Labels)) {
			return false
		}
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

func requiredAffinity(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func requiredAntiAffinity(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// domain is a value of a topology label.
type domain struct{ key, value string }

// domainsOf lists the domains in which placed pods are that the term picks.
func (t *term) domainsOf(s *state) map[domain]bool {
	out := map[domain]bool{}
	for namespace, pods := range s.byNamespace {
		if !t.namespaces[namespace] && t.nsSelector == nil {
			continue
		}
		for _, p := range pods {
			if t.picks(s, p.pod) {
				if value, ok := s.label(p.node, t.key); ok {
					out[domain{t.key, value}] = true
				}
			}
		}
	}
	return out
}

// affinityAllowed holds required affinity and anti-affinity, the pod's own and
// that of the pods that are placed.
func affinityAllowed(s *state, pod *corev1.Pod, _ *request) (func(*nodeState) string, string) {
	closed := refusedBy(s, pod)
	var away, near []map[domain]bool
	var nearKeys []string
	for _, t := range requiredAntiAffinity(pod) {
		if t, ok := termOf(pod, &t); ok {
			away = append(away, t.domainsOf(s))
		}
	}
	first := true // no pod that any term picks is placed yet
	selfAll := true
	for _, t := range requiredAffinity(pod) {
		t, ok := termOf(pod, &t)
		if !ok {
			continue
		}
		domains := t.domainsOf(s)
		near, nearKeys = append(near, domains), append(nearKeys, t.key)
		first = first && len(domains) == 0
		selfAll = selfAll && t.picks(s, pod)
	}
	if len(closed) == 0 && len(away) == 0 && len(near) == 0 {
		return nil, ""
	}
	// The first of a series may stand anywhere, if it satisfies its own terms:
	// otherwise it could never begin.
	begins := len(near) > 0 && first && selfAll
	return func(n *nodeState) string {
		for i, domains := range near {
			value, ok := n.node.Labels[nearKeys[i]]
			if !ok || !begins && !domains[domain{nearKeys[i], value}] {
				return "node(s) didn't match pod affinity rules"
			}
		}
		for _, domains := range away {
			if inAny(n, domains) {
				return "node(s) didn't match pod anti-affinity rules"
			}
		}
		if inAny(n, closed) {
			return "node(s) didn't satisfy existing pods anti-affinity rules"
		}
		return ""
	}, ""
}

// refusedBy lists the domains that placed pods keep free of this one.
func refusedBy(s *state, pod *corev1.Pod) map[domain]bool {
	closed := map[domain]bool{}
	for _, p := range s.exclusive {
		for _, t := range requiredAntiAffinity(p.pod) {
			t, ok := termOf(p.pod, &t)
			if !ok || !t.picks(s, pod) {
				continue
			}
			if value, ok := s.label(p.node, t.key); ok {
				closed[domain{t.key, value}] = true
			}
		}
	}
	return closed
}

func inAny(n *nodeState, domains map[domain]bool) bool {
	for d := range domains {
		if value, ok := n.node.Labels[d.key]; ok && value == d.value {
			return true
		}
	}
	return false
}

// preferredPods sums the weights of preferred terms, the pod's own and those of
// placed pods about it.
func preferredPods(s *state, pod *corev1.Pod, _ *request, nodes []*nodeState) []int64 {
	weights := map[domain]int64{}
	note := func(of *corev1.Pod, terms []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range terms {
			t, ok := termOf(of, &terms[i].PodAffinityTerm)
			if !ok {
				continue
			}
			for d, n := range t.countsOf(s) {
				weights[d] += sign * int64(terms[i].Weight) * n
			}
		}
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			note(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			note(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
		}
	}
	if len(weights) == 0 {
		return nil
	}
	points := make([]int64, len(nodes))
	least, most := int64(0), int64(0)
	for i, n := range nodes {
		for d, w := range weights {
			if value, ok := n.node.Labels[d.key]; ok && value == d.value {
				points[i] += w
			}
		}
		if i == 0 {
			least, most = points[i], points[i]
		}
		least, most = min(least, points[i]), max(most, points[i])
	}
	if most == least {
		return nil
	}
	for i := range points {
		points[i] = 100 * (points[i] - least) / (most - least)
	}
	return points
}

// countsOf counts the placed pods that the term picks, by domain.
func (t *term) countsOf(s *state) map[domain]int64 {
	out := map[domain]int64{}
	for _, pods := range s.byNamespace {
		for _, p := range pods {
			if t.picks(s, p.pod) {
				if value, ok := s.label(p.node, t.key); ok {
					out[domain{t.key, value}]++
				}
			}
		}
	}
	return out
}
