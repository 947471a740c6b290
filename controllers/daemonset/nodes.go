package daemonset

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// manage sees to it that each fitting node has its pod and no other node has one.
func (d *decision) manage() {
	d.expire()
	exists := map[string]bool{}
	for _, node := range d.nodes {
		exists[node.Name] = true
		fit, pods := d.fits[node.Name], d.pods[node.Name]
		switch {
		case fit.start && len(pods) == 0:
			d.create(node.Name)
		case fit.stay:
			d.tidy(node.Name, fit)
		default:
			for _, pod := range pods {
				if pod.DeletionTimestamp == nil {
					d.delete(pod)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.pods)) {
		for _, pod := range d.pods[name] {
			if !exists[name] && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				d.delete(pod) // its node is gone, and it never was on it: nobody else ends it
			}
		}
	}
	d.bound()
}

// tidy deletes pods of a node that have ended, and those that are too many.
func (d *decision) tidy(node string, f fit) {
	var alive []*corev1.Pod
	for _, pod := range d.pods[node] {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			d.replaceFailed(node, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			d.plan.Events = append(d.plan.Events, loop.Normal(d.ds, "SucceededDaemonPod",
				fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node)))
			d.delete(pod)
		default:
			alive = append(alive, pod)
		}
	}
	if surge, _ := d.limits(1); surge == 0 {
		for _, pod := range alive[min(1, len(alive)):] {
			d.delete(pod)
		}
		return
	}
	if len(alive) == 0 {
		if f.start {
			d.create(node) // beside one that is going
		}
		return
	}
	d.tidySurge(alive)
}

// tidySurge leaves one pod of the present template and one of an older, as long
// as the older serves and the new one does not yet.
func (d *decision) tidySurge(alive []*corev1.Pod) {
	if len(alive) < 2 {
		return
	}
	var fresh, old *corev1.Pod
	for _, pod := range alive {
		isFresh := pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash
		switch {
		case isFresh && fresh == nil:
			fresh = pod
		case !isFresh && old == nil:
			old = pod
		default:
			d.delete(pod)
		}
	}
	if fresh == nil || old == nil {
		return
	}
	if _, serves := workload.ReadySince(old); !serves || d.available(fresh) {
		d.delete(old)
	}
}

// A failed pod is replaced at once, the next one on the node a second later,
// then after twice the time each, up to a quarter of an hour: a node may refuse
// pods as fast as they come.
const (
	firstPause = time.Second
	maxPause   = 15 * time.Minute
)

// replaceFailed deletes a failed pod, unless the last one on the node was deleted
// a moment ago.
func (d *decision) replaceFailed(node string, pod *corev1.Pod) {
	last, was := d.failed[node]
	if end := last.began.Add(last.length); was && d.now.Before(end) {
		d.wake(end)
		return
	}
	next := pause{began: d.now, length: firstPause}
	if was {
		next.length = min(2*last.length, maxPause)
	}
	d.failed[node] = next
	d.plan.Events = append(d.plan.Events, loop.Warning(d.ds, "FailedDaemonPod",
		fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node)))
	d.delete(pod)
}

// expire drops pauses that another template or a long peace has ended.
func (d *decision) expire() {
	failed := map[string]pause{}
	for node, p := range d.failed {
		if d.generation == d.ds.Generation && d.now.Before(p.began.Add(2*maxPause)) {
			failed[node] = p
			d.wake(p.began.Add(2 * maxPause))
		}
	}
	d.failed, d.generation = failed, d.ds.Generation
}

// limits are how many pods there may be too many and too few among n nodes while
// a template is rolled out.
func (d *decision) limits(n int) (surge, unavailable int) {
	r := d.ds.Spec.UpdateStrategy.RollingUpdate
	if d.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r == nil {
		return 0, 0
	}
	share := func(value *intstr.IntOrString) int {
		if value == nil {
			return 0
		}
		x, err := intstr.GetScaledValueFromIntOrPercent(value, n, true)
		if err != nil {
			return 0 // validation does not let it in
		}
		return x
	}
	surge, unavailable = share(r.MaxSurge), share(r.MaxUnavailable)
	if surge == 0 && unavailable == 0 {
		unavailable = 1 // else nothing could ever move
	}
	return surge, unavailable
}
