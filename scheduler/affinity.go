package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// podRules are what affinity between pods says of the pods of a class: their own
// terms, and those of placed pods that are about them.
type podRules struct {
	near     []*axis // of required affinity
	nearBy   *counter
	alone    bool     // the pod satisfies its own required affinity: the first of a series may begin
	away     []domain // of required anti-affinity
	wanted   []domain // preferred, of either sign
	keptOut  []domain // required anti-affinity of placed pods
	pulledTo []domain // preferences of placed pods, and their required affinity
	counters []*counter
}

// domain is where a term's pods are counted.
type domain struct {
	axis   *axis
	count  *counter
	weight int64 // 0: required
}

func podRulesOf(s *state, pod *corev1.Pod) (r podRules) {
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			r.require(s, pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			for _, t := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				r.wanted = r.own(s, r.wanted, pod, &t.PodAffinityTerm, int64(t.Weight))
			}
		}
		if a.PodAntiAffinity != nil {
			for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				r.away = r.own(s, r.away, pod, &a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], 0)
			}
			for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				r.wanted = r.own(s, r.wanted, pod, &t.PodAffinityTerm, -int64(t.Weight))
			}
		}
	}
	keep, pull := s.holders.about(s, pod)
	for _, h := range keep {
		r.keptOut = append(r.keptOut, domain{axis: s.axis(h.key), count: &h.on})
	}
	for _, h := range pull {
		r.pulledTo = append(r.pulledTo, domain{s.axis(h.key), &h.on, h.weight})
	}
	return r
}

// require takes in required affinity: a pod counts that all terms pick.
func (r *podRules) require(s *state, pod *corev1.Pod, terms []corev1.PodAffinityTerm) {
	var picks []pick
	r.alone = true
	for i := range terms {
		t, ok := termOf(pod, &terms[i])
		if !ok {
			continue
		}
		picks = append(picks, t.pick)
		r.near = append(r.near, s.axis(t.key))
		r.alone = r.alone && t.picks(s, pod)
	}
	if len(picks) > 0 {
		r.nearBy = s.counter(picks...)
		r.counters = append(r.counters, r.nearBy)
	}
}

// own takes in a term of the pod itself.
func (r *podRules) own(s *state, list []domain, pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) []domain {
	term, ok := termOf(pod, t)
	if !ok {
		return list
	}
	d := domain{s.axis(term.key), s.counter(term.pick), weight}
	r.counters = append(r.counters, d.count)
	return append(list, d)
}

// use marks the counters as used in a decision.
func (r *podRules) use(now uint64) {
	for _, c := range r.counters {
		c.used = now
	}
}

// affinityAllowed holds required affinity and anti-affinity, the pod's own and
// that of the pods that are placed.
func affinityAllowed(s *state, c *class, _ *corev1.Pod) (func(*nodeState) string, string) {
	r := c.pods // as it is now: asking about a node may renew it
	if len(r.near) == 0 && len(r.away) == 0 && len(r.keptOut) == 0 {
		return nil, ""
	}
	near := make([][]int32, len(r.near))
	somewhere := false
	for i, a := range r.near {
		near[i] = s.perDomain(a, r.nearBy, nil)
		somewhere = somewhere || slices.ContainsFunc(near[i], func(n int32) bool { return n > 0 })
	}
	// The first of a series may stand anywhere, if it satisfies its own terms:
	// otherwise it could never begin.
	begins := !somewhere && r.alone
	away, keptOut := s.taken(r.away), s.taken(r.keptOut)
	return func(n *nodeState) string {
		for i, a := range r.near {
			id := a.of(n)
			if id < 0 || !begins && near[i][id] <= 0 {
				return unrelated
			}
		}
		if inAny(n, r.away, away) {
			return "node(s) didn't match pod anti-affinity rules"
		}
		if inAny(n, r.keptOut, keptOut) {
			return "node(s) didn't satisfy existing pods anti-affinity rules"
		}
		return ""
	}, ""
}

// taken sums up each of the terms over its domains.
func (s *state) taken(terms []domain) [][]int32 {
	out := make([][]int32, len(terms))
	for i, d := range terms {
		if d.count.all > 0 {
			out[i] = s.perDomain(d.axis, d.count, nil)
		}
	}
	return out
}

func inAny(n *nodeState, terms []domain, taken [][]int32) bool {
	for i, d := range terms {
		if id := d.axis.of(n); id >= 0 && taken[i] != nil && taken[i][id] > 0 {
			return true
		}
	}
	return false
}

// preferredPods sums the weights of preferred terms, the pod's own and those of
// placed pods about it.
func preferredPods(s *state, c *class, nodes []*nodeState) []int64 {
	points := make([]int64, len(nodes))
	any := false
	for _, list := range [][]domain{c.pods.wanted, c.pods.pulledTo} {
		for i, taken := range s.taken(list) {
			if taken == nil {
				continue
			}
			any = true
			for j, n := range nodes {
				if id := list[i].axis.of(n); id >= 0 {
					points[j] += list[i].weight * int64(max(taken[id], 0))
				}
			}
		}
	}
	if !any {
		return nil
	}
	least, most := slices.Min(points), slices.Max(points)
	if most == least {
		return nil
	}
	for i := range points {
		points[i] = int64(100 * (float64(points[i]-least) / float64(most-least)))
	}
	return points
}
