package job

import (
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/controllers/workload"
)

// maxUncounted bounds the pods that a status lists while they are counted.
const maxUncounted = 500

// count sums what the pods are, and what the status will say of them.
func (d *decision) count() {
	s := &d.next.Status
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	u := s.UncountedTerminatedPods
	var ready int32
	d.succeeded = s.Succeeded + int32(len(u.Succeeded))
	d.failed = s.Failed + int32(len(u.Failed))
	for _, pod := range d.pods {
		switch {
		case workload.Active(pod):
			d.active = append(d.active, pod)
			if _, is := workload.ReadySince(pod); is {
				ready++
			}
		case !workload.Finished(pod):
			d.terminating++
		}
		if !tracked(pod) || !d.counts(pod) {
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			if !slices.Contains(u.Succeeded, pod.UID) {
				d.succeeded++
			}
		case d.podFailed(pod) && !slices.Contains(u.Failed, pod.UID) && !d.ignored(pod):
			d.failed++
		}
	}
	terminating := d.terminating
	s.Active, s.Ready, s.Terminating = int32(len(d.active)), &ready, &terminating
	if indexed(d.job) {
		d.countIndexes()
	}
}

// counts tells whether the pod's end matters: in an Indexed Job, pods without a
// proper index do not.
func (d *decision) counts(pod *corev1.Pod) bool {
	return !indexed(d.job) || d.index(pod) >= 0
}

// countIndexes finds out which indexes are done, and which are given up.
func (d *decision) countIndexes() {
	n := int(*d.job.Spec.Completions)
	d.done = parseIndexes(d.job.Status.CompletedIndexes, n)
	perIndex := d.job.Spec.BackoffLimitPerIndex
	if perIndex != nil && d.job.Status.FailedIndexes != nil {
		d.lost = parseIndexes(*d.job.Status.FailedIndexes, n)
	}
	var done, lost []int
	for _, pod := range d.pods {
		i := d.index(pod)
		if i < 0 || !tracked(pod) {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded {
			done = append(done, i)
		} else if perIndex != nil && d.podFailed(pod) {
			action, _ := d.applyPolicy(pod)
			counted := action != batchv1.PodFailurePolicyActionIgnore && failuresOf(pod) >= *perIndex
			if action == batchv1.PodFailurePolicyActionFailIndex || counted {
				lost = append(lost, i)
			}
		}
	}
	d.done, d.lost = d.done.with(done...), d.lost.with(lost...)
	d.succeeded = int32(d.done.total())
	if perIndex != nil {
		d.hold()
	}
}

// hold chooses, per index that still needs a pod, the failed pod that the next
// one takes its count of failures from.
func (d *decision) hold() {
	d.held = map[int]*corev1.Pod{}
	active := map[int]bool{}
	for _, pod := range d.active {
		active[d.index(pod)] = true
	}
	for _, pod := range d.pods {
		i := d.index(pod)
		if i < 0 || !tracked(pod) || !d.podFailed(pod) || active[i] || d.done.has(i) || d.lost.has(i) {
			continue
		}
		if last := d.held[i]; last == nil || allFailuresOf(pod) >= allFailuresOf(last) && !endOf(pod).Before(endOf(last)) {
			d.held[i] = pod
		}
	}
}

// account moves ended pods on by one step: those that the status lists and no
// finalizer holds any more are counted; the others are listed, and let go.
func (d *decision) account() {
	holding := map[types.UID]bool{}
	for _, pod := range d.pods {
		if tracked(pod) {
			holding[pod.UID] = true
		}
	}
	s := &d.next.Status
	u := s.UncountedTerminatedPods
	s.Succeeded += settle(&u.Succeeded, holding)
	s.Failed += settle(&u.Failed, holding)
	d.list()
	if indexed(d.job) {
		s.CompletedIndexes, s.Succeeded = d.done.String(), int32(d.done.total())
		if d.job.Spec.BackoffLimitPerIndex != nil {
			lost := d.lost.String()
			s.FailedIndexes = &lost
		} else {
			s.FailedIndexes = nil
		}
	}
	if d.verdict != nil && len(holding) == 0 && len(d.active) == 0 && d.terminating == 0 {
		d.finish()
	}
}

// settle drops the pods that are held no longer and returns how many they were.
func settle(list *[]types.UID, holding map[types.UID]bool) int32 {
	before := len(*list)
	*list = slices.DeleteFunc(*list, func(uid types.UID) bool { return !holding[uid] })
	return int32(before - len(*list))
}

// list notes ended pods in the status and lets them go after it is written.
func (d *decision) list() {
	u := d.next.Status.UncountedTerminatedPods
	deciding := map[types.UID]bool{} // those that manage has let go itself
	for _, w := range d.plan.Writes {
		deciding[w.Object().GetUID()] = true
	}
	byIndex := slices.Clone(d.pods)
	slices.SortStableFunc(byIndex, func(a, b *corev1.Pod) int { return d.index(a) - d.index(b) })
	released := 0
	for _, pod := range byIndex {
		if !tracked(pod) || deciding[pod.UID] || !d.mayGo(pod) {
			continue
		}
		if released == maxUncounted {
			return // their writes bring the rest
		}
		released++
		d.plan.Writes = append(d.plan.Writes, letGo(pod))
		switch {
		case !d.counts(pod) || slices.Contains(u.Failed, pod.UID):
		case pod.Status.Phase == corev1.PodSucceeded:
			if !indexed(d.job) && !slices.Contains(u.Succeeded, pod.UID) {
				u.Succeeded = append(u.Succeeded, pod.UID)
			}
		case d.endsFailed(pod) && !d.ignored(pod):
			u.Failed = append(u.Failed, pod.UID)
		}
	}
}

// mayGo tells whether the pod need not be held any longer.
func (d *decision) mayGo(pod *corev1.Pod) bool {
	over := d.verdict != nil && len(d.active) == 0
	if d.job.DeletionTimestamp != nil || over || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return d.podFailed(pod) && d.held[d.index(pod)] != pod
}

// endsFailed tells whether a pod that is let go counts as failed: after a
// failure all do, after a success not those that are deleted because of it.
func (d *decision) endsFailed(pod *corev1.Pod) bool {
	switch {
	case d.verdict == nil:
		return d.podFailed(pod)
	case d.verdict.Type == batchv1.JobFailureTarget:
		return true
	}
	return pod.Status.Phase == corev1.PodFailed
}

// finish turns the verdict into the Job's end.
func (d *decision) finish() {
	if d.verdict.Type == batchv1.JobFailureTarget {
		d.set(d.state(batchv1.JobFailed, corev1.ConditionTrue, d.verdict.Reason, d.verdict.Message))
		return
	}
	c := d.state(batchv1.JobComplete, corev1.ConditionTrue, d.verdict.Reason, d.verdict.Message)
	d.set(c)
	d.next.Status.CompletionTime = &c.LastTransitionTime
}

// indexesOf are the indexes of pods, each once.
func (d *decision) indexesOf(pods []*corev1.Pod) []int {
	set := map[int]bool{}
	for _, pod := range pods {
		if i := d.index(pod); i >= 0 {
			set[i] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
