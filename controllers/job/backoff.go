package job

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/controllers/workload"
)

// A failed pod is replaced after 10 s, and after twice the time for each further
// failure in a row, ten minutes at most.
const (
	firstBackOff = 10 * time.Second
	maxBackOff   = 10 * time.Minute
)

// record is the memory of a Job: how many pods have failed in a row. Without it,
// the pods that are still there tell.
type record struct {
	failures int32 // since the last success
	last     time.Time
	success  time.Time
	seen     map[types.UID]bool // ended pods that are in the numbers; of those that are still there
}

// with returns the record after the pods; those that it has seen count no more.
func (r record) with(pods []*corev1.Pod) record {
	next := record{failures: r.failures, last: r.last, success: r.success, seen: map[types.UID]bool{}}
	var failed []time.Time
	for _, pod := range pods {
		if !workload.Finished(pod) && pod.DeletionTimestamp == nil {
			continue
		}
		next.seen[pod.UID] = true
		switch {
		case r.seen[pod.UID]:
		case pod.Status.Phase == corev1.PodSucceeded:
			if t := endOf(pod); t.After(next.success) {
				next.success = t
			}
		case tracked(pod) || pod.Status.Phase == corev1.PodFailed: // not what was deleted on purpose
			failed = append(failed, endOf(pod))
		}
	}
	if !next.success.Equal(r.success) {
		next.failures = 0
	}
	slices.SortFunc(failed, time.Time.Compare)
	for _, t := range failed {
		if t.After(next.success) {
			next.failures++
			next.last = t
		}
	}
	return next
}

// until returns when the next pod may be made.
func (r record) until() time.Time { return backOff(r.failures, r.last) }

func backOff(failures int32, last time.Time) time.Time {
	if failures == 0 {
		return time.Time{}
	}
	return last.Add(min(firstBackOff<<min(failures-1, 10), maxBackOff))
}

// endOf returns when the pod ended, as well as that can be known: when its last
// container did, it was no longer ready, or it was deleted.
func endOf(pod *corev1.Pod) time.Time {
	if t, ok := containersEnd(pod); ok {
		return t
	}
	if c := workload.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		var grace int64
		if pod.DeletionGracePeriodSeconds != nil {
			grace = *pod.DeletionGracePeriodSeconds
		}
		return pod.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return pod.CreationTimestamp.Time
}

// containersEnd is the end of the last container, if all have ended; sidecars count.
func containersEnd(pod *corev1.Pod) (last time.Time, ok bool) {
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	statuses := slices.Clone(pod.Status.ContainerStatuses)
	for _, s := range pod.Status.InitContainerStatuses {
		if sidecars[s.Name] {
			statuses = append(statuses, s)
		}
	}
	for _, s := range statuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		if t := s.State.Terminated.FinishedAt.Time; cmp.Compare(t.UnixNano(), last.UnixNano()) > 0 || last.IsZero() {
			last = t
		}
	}
	return last, len(statuses) > 0
}
