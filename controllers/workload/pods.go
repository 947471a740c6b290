package workload

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/controllers/loop"
)

// PodFrom makes a pod of the template, controlled by owner, with a name to be
// generated from prefix.
func PodFrom(owner api.Object, template *corev1.PodTemplateSpec, prefix string) *corev1.Pod {
	gvk := api.Of(owner).GVK()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    prefix,
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, gvk)},
		},
	}
	template.Spec.DeepCopyInto(&pod.Spec)
	return pod
}

// CreatePod writes a pod of the template, and tells of it.
func CreatePod(owner api.Object, template *corev1.PodTemplateSpec) loop.Write {
	return Creating(owner, PodFrom(owner, template, owner.GetName()+"-"))
}

// Creating writes a pod for its owner, and tells of it.
func Creating(owner api.Object, pod *corev1.Pod) loop.Write {
	w := loop.Create(pod)
	w.Done = func(got api.Object) loop.Event {
		return loop.Normal(owner, "SuccessfulCreate", "Created pod: "+got.GetName())
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(owner, "FailedCreate", fmt.Sprintf("Error creating: %v", err))
	}
	return w
}

// DeletePod deletes a pod of the owner, and tells of it.
func DeletePod(owner api.Object, pod *corev1.Pod) loop.Write {
	w := loop.Delete(pod)
	w.Done = func(api.Object) loop.Event {
		return loop.Normal(owner, "SuccessfulDelete", "Deleted pod: "+pod.Name)
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(owner, "FailedDelete", fmt.Sprintf("Error deleting: %v", err))
	}
	return w
}

// CompareForDeletion orders pods so that the first is missed least: see "Pod
// deletion cost" and "Scaling a ReplicaSet" in the documentation of ReplicaSets.
// together counts the application's pods per node.
func CompareForDeletion(a, b *corev1.Pod, together map[string]int, now time.Time) int {
	sinceA, readyA := ReadySince(a)
	sinceB, readyB := ReadySince(b)
	c := cmp.Or(
		first(a.Spec.NodeName == "", b.Spec.NodeName == ""),
		cmp.Compare(phaseOrder[a.Status.Phase], phaseOrder[b.Status.Phase]),
		first(!readyA, !readyB),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		cmp.Compare(together[b.Spec.NodeName], together[a.Spec.NodeName]),
	)
	if c != 0 {
		return c
	}
	if readyA && readyB {
		if c := compareAges(sinceA, sinceB, a, b, now); c != 0 {
			return c
		}
	}
	return cmp.Or(
		cmp.Compare(restarts(b), restarts(a)),
		compareAges(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a, b, now),
	)
}

var phaseOrder = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

// first puts the one for which it is true before the other.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// compareAges puts the younger first, where ages differ in order of magnitude;
// among equals the UID decides, so that old pods are not always spared (KEP-2185).
func compareAges(sinceA, sinceB time.Time, a, b *corev1.Pod, now time.Time) int {
	if sinceA.Equal(sinceB) {
		return 0
	}
	return cmp.Or(cmp.Compare(magnitude(sinceA, now), magnitude(sinceB, now)), cmp.Compare(a.UID, b.UID))
}

// magnitude is the logarithm of an age, -1 for none.
func magnitude(since, now time.Time) int {
	age := now.Sub(since)
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}

func restarts(pod *corev1.Pod) (most int32) {
	for _, c := range pod.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}
