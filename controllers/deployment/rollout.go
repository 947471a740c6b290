package deployment

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// roll shifts replicas to the current set, within the limits.
func (r *rollout) roll() {
	if !r.ensureCurrent() {
		return
	}
	if r.grow() || r.shrink() {
		return
	}
	if r.complete() {
		r.cleanUp()
	}
}

// recreate takes all old pods away before there is a new one.
func (r *rollout) recreate() {
	if replicasOf(r.old...) > 0 {
		r.noteRevision()
		for _, rs := range r.old {
			r.scale(rs, 0)
		}
		return
	}
	for _, rs := range r.old {
		for pod := range workload.PodsOf(r.view, rs) {
			if !workload.Finished(pod) {
				return // it is told when the pod is gone
			}
		}
	}
	if !r.ensureCurrent() {
		return
	}
	if r.scale(r.current, *r.d.Spec.Replicas) {
		return
	}
	if r.complete() {
		r.cleanUp()
	}
}

// grow scales the current set towards what is wanted; true: it did.
func (r *rollout) grow() bool {
	want, have := *r.d.Spec.Replicas, *r.current.Spec.Replicas
	if have >= want {
		return r.scale(r.current, want)
	}
	surge, _ := r.limits()
	room := want + surge - replicasOf(r.sets()...)
	if room <= 0 {
		return false
	}
	return r.scale(r.current, min(want, have+room))
}

// shrink scales old sets down as far as enough pods stay available; true: it did.
func (r *rollout) shrink() bool {
	if replicasOf(r.old...) == 0 {
		return false
	}
	_, unavailable := r.limits()
	least := *r.d.Spec.Replicas - unavailable
	missing := *r.current.Spec.Replicas - r.current.Status.AvailableReplicas
	// What may go in all, counting what is asked for and not yet available of the current set as needed.
	budget := replicasOf(r.sets()...) - least - missing
	if budget <= 0 {
		return false
	}
	left := map[*appsv1.ReplicaSet]int32{}
	scaled := false

	// Pods that are not available cost nobody anything: they go first.
	for _, rs := range r.old {
		left[rs] = *rs.Spec.Replicas
		if sick := left[rs] - rs.Status.AvailableReplicas; sick > 0 && budget > 0 {
			n := min(sick, budget)
			left[rs] -= n
			budget -= n
		}
	}
	var available int32
	for _, rs := range r.sets() {
		available += rs.Status.AvailableReplicas
	}
	spare := available - least
	for _, rs := range r.old {
		if spare <= 0 {
			break
		}
		n := min(left[rs], spare)
		left[rs] -= n
		spare -= n
	}
	for _, rs := range r.old {
		if r.scale(rs, left[rs]) {
			scaled = true
		}
	}
	return scaled
}

// toBeScaled tells whether the Deployment was scaled since its sets last were.
func (r *rollout) toBeScaled() bool {
	for _, rs := range r.sets() {
		if *rs.Spec.Replicas == 0 {
			continue
		}
		if n, ok := desired(rs); ok && n != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

func desired(rs *appsv1.ReplicaSet) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[desiredKey], 10, 32)
	return int32(n), err == nil
}

// scaleInProportion spreads the wanted replicas over all sets that have some, in
// the middle of a rollout by their shares, so that scaling risks no more than it must.
func (r *rollout) scaleInProportion() {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.sets() {
		if *rs.Spec.Replicas > 0 {
			active = append(active, rs)
		}
	}
	want := *r.d.Spec.Replicas
	switch {
	case len(active) == 0 && r.current != nil:
		r.scale(r.current, want)
		return
	case len(active) == 0:
		if n := len(r.old); n > 0 && r.d.Spec.Paused {
			r.scale(r.old[n-1], want)
		}
		return
	case len(active) == 1:
		r.scale(active[0], want)
		return
	case r.current != nil && r.saturated():
		for _, rs := range r.old {
			r.scale(rs, 0)
		}
		return
	}
	if r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return
	}
	surge, _ := r.limits()
	allowed := int32(0)
	if want > 0 {
		allowed = want + surge
	}
	r.spread(active, allowed-replicasOf(active...))
}

// saturated tells whether the current set has all that is wanted, available.
func (r *rollout) saturated() bool {
	n, ok := desired(r.current)
	return ok && *r.current.Spec.Replicas == *r.d.Spec.Replicas && n == *r.d.Spec.Replicas && r.current.Status.AvailableReplicas == *r.d.Spec.Replicas
}

// spread adds (or takes) replicas over sets by their shares, the largest first;
// what rounding leaves goes to the largest.
func (r *rollout) spread(sets []*appsv1.ReplicaSet, add int32) {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		c := cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas)
		if add < 0 {
			return cmp.Or(c, a.CreationTimestamp.Compare(b.CreationTimestamp.Time)) // old ones shrink first
		}
		return cmp.Or(c, b.CreationTimestamp.Compare(a.CreationTimestamp.Time)) // new ones grow first
	})
	target := make([]int32, len(sets))
	left := add
	surge, _ := r.limits()
	for i, rs := range sets {
		target[i] = *rs.Spec.Replicas
		if left == 0 {
			continue
		}
		n := proportion(rs, *r.d.Spec.Replicas+surge, replicasOf(sets...))
		if add > 0 {
			n = min(max(n, 0), left)
		} else {
			n = max(min(n, 0), left)
		}
		target[i] += n
		left -= n
	}
	target[0] = max(0, target[0]+left)
	for i, rs := range sets {
		r.scale(rs, target[i])
	}
}

// proportion is by how much a set grows (or shrinks) when the Deployment goes
// from the total that the set was annotated with to another.
func proportion(rs *appsv1.ReplicaSet, total, fallback int32) int32 {
	before := fallback
	if n, err := strconv.ParseInt(rs.Annotations[maxKey], 10, 32); err == nil && n > 0 {
		before = int32(n)
	}
	have := *rs.Spec.Replicas
	return (2*have*total+before)/(2*before) - have // rounded to the nearest
}

// scale plans that rs has n replicas, and notes what that is meant for; true: the number changes.
func (r *rollout) scale(rs *appsv1.ReplicaSet, n int32) bool {
	have := *rs.Spec.Replicas
	next := rs.DeepCopy()
	if w := r.planned(rs); w != nil {
		next = w.Object().(*appsv1.ReplicaSet).DeepCopy()
	}
	before := next.DeepCopy()
	next.Spec.Replicas = &n
	r.noteScale(next)
	if have == n && before.Annotations[desiredKey] == next.Annotations[desiredKey] && before.Annotations[maxKey] == next.Annotations[maxKey] {
		return false
	}
	w := r.replace(rs, next)
	if have == n {
		return false
	}
	direction := "up"
	if n < have {
		direction = "down"
	}
	w.Done = func(api.Object) loop.Event {
		return loop.Normal(r.d, "ScalingReplicaSet", fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, have, n))
	}
	return true
}

// noteScale annotates rs with the scale of the Deployment, against which a later
// change of it is seen.
func (r *rollout) noteScale(rs *appsv1.ReplicaSet) {
	surge, _ := r.limits()
	metav1.SetMetaDataAnnotation(&rs.ObjectMeta, desiredKey, strconv.Itoa(int(*r.d.Spec.Replicas)))
	metav1.SetMetaDataAnnotation(&rs.ObjectMeta, maxKey, strconv.Itoa(int(*r.d.Spec.Replicas+surge)))
}

// planned returns the write that is planned for rs, or nil.
func (r *rollout) planned(rs *appsv1.ReplicaSet) *loop.Write {
	for i := range r.plan.Writes {
		if r.plan.Writes[i].Verb() == "update" && r.plan.Writes[i].Object().GetUID() == rs.UID {
			return &r.plan.Writes[i]
		}
	}
	return nil
}

// replace plans that rs becomes next: one write, whatever else is planned for it.
func (r *rollout) replace(rs, next *appsv1.ReplicaSet) *loop.Write {
	if w := r.planned(rs); w != nil {
		done := w.Done
		*w = loop.Update(next)
		w.Done = done
		return w
	}
	r.plan.Writes = append(r.plan.Writes, loop.Update(next))
	return &r.plan.Writes[len(r.plan.Writes)-1]
}
