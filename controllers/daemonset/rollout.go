package daemonset

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// roll replaces pods of older templates, as many at once as the strategy allows.
func (d *decision) roll() {
	desired := 0
	for _, node := range d.nodes {
		if d.fits[node.Name].start {
			desired++
		}
	}
	if surge, unavailable := d.limits(desired); surge > 0 {
		d.rollSurging(surge, desired)
	} else {
		d.rollDeleting(unavailable)
	}
	d.bound()
}

// sites are the nodes that count in a rollout: those with pods, and those that
// should have one; by name.
func (d *decision) sites() []string {
	names := map[string]bool{}
	for name := range d.pods {
		names[name] = true
	}
	for name, f := range d.fits {
		if f.start {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// onNode returns the node's pod of the present template and the one of an older;
// ok is false where there are several of a kind, which manage sees to.
func (d *decision) onNode(node string) (fresh, old *corev1.Pod, ok bool) {
	for _, pod := range d.pods[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		place := &old
		if d.updated(pod) {
			place = &fresh
		}
		if *place != nil {
			return nil, nil, false
		}
		*place = pod
	}
	return fresh, old, true
}

// rollDeleting deletes old pods; manage makes the new ones when they are gone.
// Those that do not serve go at once, others within the limit.
func (d *decision) rollDeleting(limit int) {
	missing := 0
	var candidates []*corev1.Pod
	for _, node := range d.sites() {
		fresh, old, ok := d.onNode(node)
		switch {
		case !ok, (fresh == nil) == (old == nil):
			missing++
		case fresh != nil:
			if !d.available(fresh) {
				missing++
			}
		case !d.available(old):
			missing++
			d.delete(old)
		default:
			candidates = append(candidates, old)
		}
	}
	for _, pod := range candidates[:min(len(candidates), max(0, limit-missing))] {
		d.delete(pod)
	}
}

// rollSurging makes new pods beside old ones, and deletes the old when the new serve.
func (d *decision) rollSurging(limit, desired int) {
	surging, serving := 0, 0
	var candidates []string
	var misplaced []*corev1.Pod
	for _, node := range d.sites() {
		fresh, old, ok := d.onNode(node)
		if !ok {
			surging++
			continue
		}
		if old != nil && d.available(old) || old == nil && fresh != nil && d.available(fresh) {
			serving++
		}
		start := d.fits[node].start
		switch {
		case old == nil:
		case fresh != nil && d.available(fresh):
			d.delete(old)
		case fresh != nil:
			surging++
		case d.available(old) && start:
			candidates = append(candidates, node)
		case d.available(old):
			misplaced = append(misplaced, old)
		case start:
			d.create(node)
		default:
			d.delete(old)
		}
	}
	for _, node := range candidates[:min(len(candidates), max(0, limit-surging))] {
		d.create(node)
	}
	// A pod that no longer fits serves until another does in its place.
	for _, pod := range misplaced[:min(len(misplaced), max(0, serving-desired))] {
		d.delete(pod)
	}
}
