package job

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff/controllers/workload"
)

// manage starts and stops pods so that as many run as should.
func (d *decision) manage() {
	if surplus := d.surplus(); len(surplus) > 0 {
		d.stopPods(surplus[:min(len(surplus), workload.Burst)])
		return
	}
	if suspended(d.job) {
		return
	}
	missing := int(d.wanted()) - len(d.active)
	if d.replacesOnlyFailed() {
		missing -= int(d.terminating)
	}
	missing = min(missing, workload.Burst)
	if missing <= 0 {
		return
	}
	if until := d.record.until(); d.job.Spec.BackoffLimitPerIndex == nil && d.now.Before(until) {
		d.wake(until)
		return
	}
	if !indexed(d.job) {
		for range missing {
			pod := workload.PodFrom(d.job, &d.job.Spec.Template, d.job.Name+"-")
			pod.Finalizers = withFinalizer(pod.Finalizers)
			d.plan.Writes = append(d.plan.Writes, workload.Creating(d.job, pod))
		}
		return
	}
	for _, i := range d.missingIndexes(missing) {
		d.plan.Writes = append(d.plan.Writes, workload.Creating(d.job, d.indexedPod(i)))
	}
}

// wanted returns how many pods should be active.
func (d *decision) wanted() int32 {
	if suspended(d.job) {
		return 0
	}
	parallelism := *d.job.Spec.Parallelism
	if n := d.job.Spec.Completions; n != nil {
		return min(max(0, *n-d.succeeded-int32(d.lost.total())), parallelism)
	}
	if d.succeeded > 0 {
		return int32(len(d.active)) // a success says that there is no more work
	}
	return parallelism
}

// surplus chooses the pods that should not be: of an Indexed Job, those without a
// proper index and all but one of each index; then as many as there are too many.
func (d *decision) surplus() []*corev1.Pod {
	sorted := slices.Clone(d.active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int { return workload.CompareForDeletion(a, b, nil, d.now) })
	var out, left []*corev1.Pod
	if indexed(d.job) {
		kept := map[int]bool{-1: true}
		for _, pod := range slices.Backward(sorted) {
			if i := d.index(pod); kept[i] {
				out = append(out, pod)
			} else {
				kept[i] = true
				left = append(left, pod)
			}
		}
		slices.Reverse(left)
	} else {
		left = sorted
	}
	if n := len(d.active) - int(d.wanted()) - len(out); n > 0 {
		out = append(out, left[:n]...)
	}
	return out
}

// stopPods takes pods out of the count and deletes them.
func (d *decision) stopPods(pods []*corev1.Pod) {
	for _, pod := range pods {
		if tracked(pod) {
			d.plan.Writes = append(d.plan.Writes, letGo(pod))
		}
	}
	for _, pod := range pods {
		w := workload.DeletePod(d.job, pod)
		w.Stage = 1
		d.plan.Writes = append(d.plan.Writes, w)
	}
}

// deletePods deletes pods whose end will still be counted.
func (d *decision) deletePods(pods []*corev1.Pod) {
	for _, pod := range pods {
		d.plan.Writes = append(d.plan.Writes, workload.DeletePod(d.job, pod))
	}
}

// missingIndexes chooses up to n indexes that need a pod and may have one now.
func (d *decision) missingIndexes(n int) (out []int) {
	taken := d.done.with(d.indexesOf(d.active)...)
	if d.replacesOnlyFailed() {
		var going []*corev1.Pod
		for _, pod := range d.pods {
			if pod.DeletionTimestamp != nil && !workload.Finished(pod) {
				going = append(going, pod)
			}
		}
		taken = taken.with(d.indexesOf(going)...)
	}
	taken = append(taken, d.lost...).joined()
	var first time.Time // at which one more may be made
	for _, i := range taken.free(n, int(*d.job.Spec.Completions)) {
		if last := d.held[i]; last != nil {
			if until := backOff(allFailuresOf(last)+1, endOf(last)); d.now.Before(until) {
				if first.IsZero() || until.Before(first) {
					first = until
				}
				continue
			}
		}
		out = append(out, i)
	}
	if !first.IsZero() {
		d.wake(first)
	}
	return out
}

const indexEnv = "JOB_COMPLETION_INDEX"

// indexedPod makes the pod of an index: it is told its index by annotation,
// label, host name and environment.
func (d *decision) indexedPod(i int) *corev1.Pod {
	pod := workload.PodFrom(d.job, &d.job.Spec.Template, prefix(d.job.Name, i))
	pod.Finalizers = withFinalizer(pod.Finalizers)
	index := strconv.Itoa(i)
	annotate(&pod.Annotations, batchv1.JobCompletionIndexAnnotation, index)
	annotate(&pod.Labels, batchv1.JobCompletionIndexAnnotation, index)
	pod.Spec.Hostname = fmt.Sprintf("%s-%d", d.job.Name, i)
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for n := range containers {
			tellIndex(&containers[n])
		}
	}
	if d.job.Spec.BackoffLimitPerIndex != nil {
		d.handOn(pod, d.held[i])
	}
	return pod
}

func annotate(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation),
	}}})
}

// handOn notes on a pod how many of its index have failed before it.
func (d *decision) handOn(pod, last *corev1.Pod) {
	var failures, ignored int32
	if last != nil {
		failures, ignored = failuresOf(last), ignoredOf(last)
		if d.ignored(last) {
			ignored++
		} else {
			failures++
		}
	}
	pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
	if ignored > 0 {
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
	}
}

// prefix of the names of an index's pods; the index stays where the name is too long.
func prefix(name string, i int) string {
	const longest = 63 - 5 // with the suffix, as long as names may be
	suffix := "-" + strconv.Itoa(i) + "-"
	return name[:min(len(name), longest-len(suffix))] + suffix
}
