package statefulset

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// step does what is next: replicas that should be, from the first on; then pods
// that should not be, from the last on; then the rollout.
func (d *decision) step() {
	inOrder := !parallel(d.set)
	for place, pod := range d.replicas {
		if waits := d.keep(place, pod); waits && inOrder {
			return
		}
	}
	for _, pod := range d.condemned {
		d.ownClaims(pod)
	}
	if d.condemn(inOrder) && inOrder {
		return
	}
	if d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		d.roll()
	}
}

// keep sees to one replica; it tells whether those after it must wait for it.
func (d *decision) keep(place int, pod *corev1.Pod) bool {
	ordinal := firstOrdinal(d.set) + place
	if pod == nil {
		d.create(ordinal)
		return true
	}
	if workload.Finished(pod) {
		if pod.DeletionTimestamp == nil {
			d.delete(pod) // it is made anew when it is gone
		}
		return true
	}
	if pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "" {
		d.makeClaims(ordinal)
	}
	if d.missed(pod) || !ready(pod) {
		if parallel(d.set) {
			d.ownClaims(pod)
		}
		return true
	}
	d.ownClaims(pod)
	if pod.Labels[appsv1.StatefulSetPodNameLabel] != pod.Name {
		next := pod.DeepCopy()
		identify(d.set, next, ordinal)
		d.plan.Writes = append(d.plan.Writes, d.telling(loop.Update(next), "Update", pod.Name))
	}
	return false
}

// condemn deletes pods that should not be; in order, one at a time, and only
// while no other pod is missed. It tells whether there are any.
func (d *decision) condemn(inOrder bool) bool {
	for _, pod := range d.condemned {
		if pod.DeletionTimestamp != nil {
			if inOrder {
				return true
			}
			continue
		}
		if inOrder && d.missed(pod) && pod != d.firstMissed() {
			return true
		}
		d.delete(pod)
		if inOrder {
			return true
		}
	}
	return len(d.condemned) > 0
}

// firstMissed is the pod of the lowest ordinal that does not serve.
func (d *decision) firstMissed() *corev1.Pod {
	for _, pod := range d.replicas {
		if d.missed(pod) {
			return pod
		}
	}
	for i := len(d.condemned) - 1; i >= 0; i-- {
		if d.missed(d.condemned[i]) {
			return d.condemned[i]
		}
	}
	return nil
}

// roll deletes pods of older templates from the last ordinal on, down to the
// partition, as many as may be missed at once.
func (d *decision) roll() {
	budget := d.maxUnavailable()
	for _, pod := range d.replicas {
		if d.missed(pod) {
			budget--
		}
	}
	for place := len(d.replicas) - 1; place >= d.partition(); place-- {
		pod := d.replicas[place]
		old := pod != nil && revisionOf(pod) != d.update.Name && pod.DeletionTimestamp == nil && !workload.Finished(pod)
		switch {
		case old && d.missed(pod) && parallel(d.set):
			d.delete(pod) // nothing is lost by it
		case !old, budget <= 0:
		default:
			d.delete(pod)
			budget--
		}
	}
}

func (d *decision) delete(pod *corev1.Pod) {
	w := d.telling(loop.Delete(pod), "Delete", pod.Name)
	w.Stage = 1 // its claims have their owners first
	d.plan.Writes = append(d.plan.Writes, w)
}

// create makes a pod, after its claims.
func (d *decision) create(ordinal int) {
	if d.claimsAreAnothers(ordinal) {
		return // they go with the last pod of this name; their end brings us back
	}
	if !d.makeClaims(ordinal) {
		return
	}
	d.ownClaimsOf(ordinal, nil)
	pod, err := d.pod(ordinal)
	if err != nil {
		d.plan.Events = append(d.plan.Events, loop.Warning(d.set, "FailedCreate", err.Error()))
		return
	}
	w := d.telling(loop.Create(pod), "Create", pod.Name)
	w.Stage = 1
	d.plan.Writes = append(d.plan.Writes, w)
}

// telling adds the events that tell of a write about a pod.
func (d *decision) telling(w loop.Write, verb, pod string) loop.Write {
	w.Done = func(api.Object) loop.Event {
		return loop.Normal(d.set, "Successful"+verb, fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod, d.set.Name))
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(d.set, "Failed"+verb, fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod, d.set.Name, err))
	}
	return w
}
