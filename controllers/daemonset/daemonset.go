// Package daemonset keeps one pod of a DaemonSet on every node that fits. A pod
// is tied to its node by an affinity for the node's name, which the scheduler
// obeys; templates are kept as ControllerRevisions and rolled out node by node.
package daemonset

import (
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	ofSet := workload.KeysOf[*appsv1.DaemonSet](func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector })
	nodes := api.For[*corev1.Node]()
	return loop.Controller{
		Name:    "daemon-set-controller",
		Reads:   []*api.Resource{api.For[*appsv1.DaemonSet](), api.For[*corev1.Pod](), nodes, api.For[*appsv1.ControllerRevision]()},
		Writes:  []string{"pods", "controllerrevisions", "daemonsets/status"},
		Indexes: append(workload.RevisionIndexes(), workload.PodsByOwner(), workload.PodsOrphaned()),
		Keys: func(v *client.View, c client.Change) []loop.Key {
			if c.Resource != nodes {
				return ofSet(v, c)
			}
			if !fitChanged(c) {
				return nil // a heartbeat
			}
			var keys []loop.Key
			for ds := range client.All[*appsv1.DaemonSet](v, "") {
				keys = append(keys, loop.KeyOf(ds))
			}
			return keys
		},
		Decide:  Decide,
		Refused: refused,
	}
}

// fitChanged tells whether other pods may fit on the node than before.
func fitChanged(c client.Change) bool {
	if c.Old == nil || c.New == nil {
		return true
	}
	old, now := c.Old.(*corev1.Node), c.New.(*corev1.Node)
	return !maps.Equal(old.Labels, now.Labels) || !apiequality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints)
}

// memory of a DaemonSet.
type memory struct {
	nameTaken  bool
	generation int64            // to which the back-offs belong
	failed     map[string]pause // by node
}

// pause keeps a failed pod from being replaced at once.
type pause struct {
	began  time.Time
	length time.Duration
}

func refused(m loop.Memory, w loop.Write, err error) loop.Memory {
	if !workload.NameTaken(w, err) {
		return m
	}
	next, _ := m.(memory)
	next.nameTaken = true
	return next
}

// decision is what one decision about a DaemonSet knows, and has decided so far.
type decision struct {
	ds   *appsv1.DaemonSet
	now  time.Time
	plan loop.Plan
	memory

	nodes     []*corev1.Node
	fits      map[string]fit
	revisions workload.Revisions
	hash      string                   // of the present template
	pods      map[string][]*corev1.Pod // by node; without those that have ended and are going
	claimed   []*corev1.Pod
}

// Decide keeps the DaemonSet's pods and status.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	ds, ok := client.Find[*appsv1.DaemonSet](v, key.Namespace, key.Name)
	if !ok || ds.DeletionTimestamp != nil {
		return loop.Plan{}, nil // its history may be gone already: nothing can be said about its pods
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		return loop.Plan{Events: []loop.Event{loop.Warning(ds, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")}}, nil
	}
	d := &decision{ds: ds, now: now, nodes: slices.Collect(client.All[*corev1.Node](v, ""))}
	d.memory, _ = m.(memory)
	d.revisions = workload.RevisionsOf(v, workload.History{
		Owner: ds, Selector: selector, Template: &ds.Spec.Template, Collisions: ds.Status.CollisionCount, HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey,
	})
	if len(d.revisions.Writes) > 0 {
		return d.makeRevision()
	}
	d.nameTaken = false
	d.hash = d.revisions.Current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	if d.hash == "" {
		d.hash = d.revisions.Current.Name // one that was adopted
	}
	claims := workload.Claim(v, ds, selector)
	if len(claims.Writes) > 0 {
		d.plan.Writes = claims.Writes
		return d.plan, m
	}
	d.sortPods(claims.Pods)
	d.judgeNodes()
	d.manage()
	if len(d.plan.Writes) == 0 && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		d.roll()
	}
	d.forgetRevisions()
	d.writeStatus()
	if len(d.failed) == 0 {
		return d.plan, nil
	}
	return d.plan, d.memory
}

// makeRevision makes the revision of the present template, by another name if
// the last one was taken.
func (d *decision) makeRevision() (loop.Plan, loop.Memory) {
	if !d.nameTaken {
		return loop.Plan{Writes: d.revisions.Writes}, d.memory
	}
	next := d.ds.DeepCopy()
	if next.Status.CollisionCount == nil {
		next.Status.CollisionCount = new(int32)
	}
	*next.Status.CollisionCount++
	d.nameTaken = false
	return loop.Plan{Writes: []loop.Write{loop.UpdateStatus(next)}}, d.memory
}

// sortPods sorts pods by the node that each is on or is meant for.
func (d *decision) sortPods(pods []*corev1.Pod) {
	d.claimed, d.pods = pods, map[string][]*corev1.Pod{}
	for _, pod := range pods {
		node := nodeOf(pod)
		if node == "" || workload.Finished(pod) && pod.DeletionTimestamp != nil {
			continue
		}
		d.pods[node] = append(d.pods[node], pod)
	}
	for _, pods := range d.pods {
		slices.SortStableFunc(pods, assignedThenOldest)
	}
}

// assignedThenOldest puts pods first that have been on their node longest.
func assignedThenOldest(a, b *corev1.Pod) int {
	if (a.Spec.NodeName == "") != (b.Spec.NodeName == "") {
		if a.Spec.NodeName == "" {
			return 1
		}
		return -1
	}
	return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
}

// available tells whether the pod is; if it will be, the set is decided again then.
func (d *decision) available(pod *corev1.Pod) bool {
	is, at := workload.Available(pod, d.ds.Spec.MinReadySeconds, d.now)
	if !is && !at.IsZero() {
		d.wake(at)
	}
	return is
}

func (d *decision) wake(at time.Time) {
	if d.plan.WakeAt.IsZero() || at.Before(d.plan.WakeAt) {
		d.plan.WakeAt = at
	}
}

// forgetRevisions deletes revisions beyond the history limit that no pod has.
func (d *decision) forgetRevisions() {
	hashes, live := map[string]bool{}, map[string]bool{}
	for _, pod := range d.claimed {
		hashes[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	for _, rev := range d.revisions.All {
		live[rev.Name] = hashes[rev.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]]
	}
	d.plan.Writes = append(d.plan.Writes, d.revisions.Forget(d.ds.Spec.RevisionHistoryLimit, live)...)
}

// writeStatus plans the status, if it changes: before the pods, which may be refused.
func (d *decision) writeStatus() {
	next := d.ds.DeepCopy()
	s := &next.Status
	*s = appsv1.DaemonSetStatus{ObservedGeneration: d.ds.Generation, CollisionCount: s.CollisionCount, Conditions: s.Conditions}
	for _, node := range d.nodes {
		pods := d.pods[node.Name]
		if !d.fits[node.Name].start {
			if len(pods) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if _, ready := workload.ReadySince(pods[0]); ready {
			s.NumberReady++
			if d.available(pods[0]) {
				s.NumberAvailable++
			}
		}
		if d.updated(pods[0]) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	if apiequality.Semantic.DeepEqual(d.ds.Status, next.Status) {
		return
	}
	w := loop.UpdateStatus(next)
	w.Optional = true // an owner that changed meanwhile is decided about again anyway
	d.plan.Writes = append([]loop.Write{w}, d.plan.Writes...)
}
