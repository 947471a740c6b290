// Package statefulset keeps the pods of a StatefulSet, each with a name and
// volumes of its own that survive it. It owns those pods, the claims that are
// made for them, and the ControllerRevisions of the templates. In order (the
// default) one pod is started, replaced or stopped at a time; in parallel none
// waits for another, except in a rollout.
package statefulset

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	ofSet := workload.KeysOf[*appsv1.StatefulSet](func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector })
	claims := api.For[*corev1.PersistentVolumeClaim]()
	return loop.Controller{
		Name:    "statefulset-controller",
		Reads:   []*api.Resource{api.For[*appsv1.StatefulSet](), api.For[*corev1.Pod](), claims, api.For[*appsv1.ControllerRevision]()},
		Writes:  []string{"pods", "persistentvolumeclaims", "controllerrevisions", "statefulsets/status"},
		Indexes: append(workload.RevisionIndexes(), workload.PodsByOwner(), workload.PodsOrphaned()),
		Keys: func(v *client.View, c client.Change) []loop.Key {
			if c.Resource == claims {
				return ofClaim(v, c)
			}
			return ofSet(v, c)
		},
		Decide:  Decide,
		Refused: refused,
	}
}

// ofClaim finds the sets that a claim may have been made for, by its name:
// TEMPLATE-SET-ORDINAL.
func ofClaim(v *client.View, c client.Change) (keys []loop.Key) {
	if c.Old != nil && c.New != nil && apiequality.Semantic.DeepEqual(c.Old.GetOwnerReferences(), c.New.GetOwnerReferences()) {
		return nil
	}
	claim := c.Object()
	for set := range client.All[*appsv1.StatefulSet](v, claim.GetNamespace()) {
		for _, t := range set.Spec.VolumeClaimTemplates {
			if strings.HasPrefix(claim.GetName(), t.Name+"-"+set.Name+"-") {
				keys = append(keys, loop.KeyOf(set))
				break
			}
		}
	}
	return keys
}

// nameTaken is the memory: a revision could not be made, since another has its name.
type nameTaken struct{}

func refused(m loop.Memory, w loop.Write, err error) loop.Memory {
	if workload.NameTaken(w, err) {
		return nameTaken{}
	}
	return m
}

// decision is what one decision about a StatefulSet knows, and has decided so far.
type decision struct {
	set  *appsv1.StatefulSet
	next *appsv1.StatefulSet // with its new status
	now  time.Time
	view *client.View
	plan loop.Plan

	revisions workload.Revisions
	current   *appsv1.ControllerRevision // from which a rollout goes
	update    *appsv1.ControllerRevision // to which it goes

	pods      []*corev1.Pod
	replicas  []*corev1.Pod // by place: the first ordinal's first; nil where there is none
	condemned []*corev1.Pod // of ordinals that should not be, the highest first
}

// Decide makes the next step of the StatefulSet.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	set, ok := client.Find[*appsv1.StatefulSet](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return loop.Plan{}, nil // validation does not let it in
	}
	d := &decision{set: set, next: set.DeepCopy(), now: now, view: v}
	if set.DeletionTimestamp == nil {
		d.revisions = workload.RevisionsOf(v, workload.History{
			Owner: set, Selector: selector, Template: &set.Spec.Template, Collisions: set.Status.CollisionCount, HashLabel: "controller.kubernetes.io/hash",
		})
		if len(d.revisions.Writes) > 0 {
			return d.makeRevision(m), nil
		}
		d.chooseRevisions()
	}
	claims := workload.Claim(v, set, selector)
	for _, w := range claims.Writes {
		if ordinalIn(set, w.Object().GetName()) >= 0 || loop.ControlledBy(w.Object(), set.UID) {
			d.plan.Writes = append(d.plan.Writes, w) // a pod of another name is not the set's to adopt
		}
	}
	if len(d.plan.Writes) > 0 {
		return d.plan, nil
	}
	d.sortPods(claims.Pods)
	if set.DeletionTimestamp == nil {
		d.step()
		d.forgetRevisions()
	}
	d.writeStatus()
	return d.plan, nil
}

// makeRevision makes the revision of the present template, by another name if
// the last one was taken.
func (d *decision) makeRevision(m loop.Memory) loop.Plan {
	if _, taken := m.(nameTaken); !taken {
		return loop.Plan{Writes: d.revisions.Writes}
	}
	if d.next.Status.CollisionCount == nil {
		d.next.Status.CollisionCount = new(int32)
	}
	*d.next.Status.CollisionCount++
	return loop.Plan{Writes: []loop.Write{loop.UpdateStatus(d.next)}}
}

func (d *decision) chooseRevisions() {
	d.update, d.current = d.revisions.Current, d.revisions.Current
	for _, rev := range d.revisions.All {
		if rev.Name == d.set.Status.CurrentRevision {
			d.current = rev
		}
	}
}

// ordinalIn returns the ordinal that a pod's name gives it in the set, or -1.
func ordinalIn(set *appsv1.StatefulSet, name string) int {
	digits, ok := strings.CutPrefix(name, set.Name+"-")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != digits {
		return -1
	}
	return int(n)
}

// firstOrdinal is that of the first replica.
func firstOrdinal(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// sortPods sorts pods into those that should be and those that should not.
func (d *decision) sortPods(pods []*corev1.Pod) {
	d.replicas = make([]*corev1.Pod, *d.set.Spec.Replicas)
	for _, pod := range pods {
		n := ordinalIn(d.set, pod.Name)
		if n < 0 {
			continue
		}
		d.pods = append(d.pods, pod)
		if place := n - firstOrdinal(d.set); place >= 0 && place < len(d.replicas) {
			d.replicas[place] = pod
		} else {
			d.condemned = append(d.condemned, pod)
		}
	}
	slices.SortFunc(d.condemned, func(a, b *corev1.Pod) int {
		return cmp.Compare(ordinalIn(d.set, b.Name), ordinalIn(d.set, a.Name))
	})
}

func parallel(set *appsv1.StatefulSet) bool {
	return set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
}

func ready(pod *corev1.Pod) bool {
	_, is := workload.ReadySince(pod)
	return is && pod.Status.Phase == corev1.PodRunning
}

// available tells whether the pod is; if it will be, the set is decided again then.
func (d *decision) available(pod *corev1.Pod) bool {
	is, at := workload.Available(pod, d.set.Spec.MinReadySeconds, d.now)
	if !is && !at.IsZero() && (d.plan.WakeAt.IsZero() || at.Before(d.plan.WakeAt)) {
		d.plan.WakeAt = at
	}
	return is
}

// missed tells whether the place does not serve, or will not in a moment.
func (d *decision) missed(pod *corev1.Pod) bool {
	return pod == nil || pod.DeletionTimestamp != nil || !d.available(pod)
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// forgetRevisions deletes revisions beyond the history limit that nobody uses.
func (d *decision) forgetRevisions() {
	live := map[string]bool{d.current.Name: true, d.update.Name: true}
	for _, pod := range d.pods {
		live[revisionOf(pod)] = true
	}
	d.plan.Writes = append(d.plan.Writes, d.revisions.Forget(d.set.Spec.RevisionHistoryLimit, live)...)
}

// writeStatus plans the status, if it changes: before the pods, which may be refused.
func (d *decision) writeStatus() {
	s := &d.next.Status
	*s = appsv1.StatefulSetStatus{ObservedGeneration: d.set.Generation, Conditions: s.Conditions, CollisionCount: s.CollisionCount,
		CurrentRevision: s.CurrentRevision, UpdateRevision: s.UpdateRevision}
	if s.CollisionCount == nil {
		s.CollisionCount = new(int32)
	}
	if d.update != nil {
		s.CurrentRevision, s.UpdateRevision = d.current.Name, d.update.Name
	}
	for _, pod := range d.pods {
		s.Replicas++
		if ready(pod) {
			s.ReadyReplicas++
			if d.available(pod) {
				s.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(pod) == s.CurrentRevision {
			s.CurrentReplicas++
		}
		if revisionOf(pod) == s.UpdateRevision {
			s.UpdatedReplicas++
		}
	}
	rolls := d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType
	if n := *d.set.Spec.Replicas; rolls && s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision // the rollout is over
	}
	if apiequality.Semantic.DeepEqual(d.set.Status, d.next.Status) {
		return
	}
	w := loop.UpdateStatus(d.next)
	w.Optional = true // an owner that changed meanwhile is decided about again anyway
	d.plan.Writes = append([]loop.Write{w}, d.plan.Writes...)
}

// partition is the place from which on pods are rolled out.
func (d *decision) partition() int {
	r := d.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.Partition == nil {
		return 0
	}
	return int(*r.Partition)
}

// maxUnavailable is how many pods a rollout may take away at once.
func (d *decision) maxUnavailable() int {
	r := d.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(*d.set.Spec.Replicas), false)
	if err != nil {
		return 1 // validation does not let it in
	}
	return max(1, n)
}
