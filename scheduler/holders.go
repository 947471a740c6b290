package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// holder is a term that placed pods have about others: on each node, how many
// have it. Pods of one template share it.
type holder struct {
	term
	// weight is what a node of the domain gains for a pod that the term picks; 0: the
	// term is required anti-affinity, and keeps such a pod out.
	weight int64
	id     string
	on     counter
}

// hardAffinityWeight is what required affinity of placed pods adds to a node's
// points (upstream's hardPodAffinityWeight).
const hardAffinityWeight = 1

// holders are the terms of all placed pods.
type holders struct {
	byID  map[string]*holder
	epoch uint64 // grows when a holder comes or goes
}

func newHolders() holders { return holders{byID: map[string]*holder{}} }

// join counts in the terms of a placed pod, and returns them.
func (hs *holders) join(pod *corev1.Pod, slot int) (held []*holder) {
	a := pod.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	add := func(t *corev1.PodAffinityTerm, weight int64) {
		if term, ok := termOf(pod, t); ok {
			held = append(held, hs.add(term, weight, slot))
		}
	}
	if a.PodAntiAffinity != nil {
		for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], 0)
		}
		for i := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, -int64(t.Weight))
		}
	}
	if a.PodAffinity != nil {
		for i := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], hardAffinityWeight)
		}
		for i := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, int64(t.Weight))
		}
	}
	return held
}

func (hs *holders) add(t term, weight int64, slot int) *holder {
	id := fmt.Sprintf("%d %s %s", weight, t.key, t.String())
	h := hs.byID[id]
	if h == nil {
		h = &holder{term: t, weight: weight, id: id}
		hs.byID[id] = h
		hs.epoch++
	}
	h.on.add(slot, 1)
	return h
}

// leave counts out the terms of a pod that was removed.
func (hs *holders) leave(held []*holder, slot int) {
	for _, h := range held {
		h.on.add(slot, -1)
		if h.on.all == 0 {
			delete(hs.byID, h.id)
			hs.epoch++
		}
	}
}

// about lists the terms that pick the pod.
func (hs *holders) about(s *state, pod *corev1.Pod) (keep, pull []*holder) {
	for _, h := range hs.byID {
		switch {
		case !h.picks(s, pod):
		case h.weight == 0:
			keep = append(keep, h)
		default:
			pull = append(pull, h)
		}
	}
	return keep, pull
}
