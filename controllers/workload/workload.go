// Package workload holds what the controllers of pods share: which pods belong to
// an owner, how pods are made and deleted for it, and which of them counts as
// ready. It is pure, as they are.
package workload

import (
	"iter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Burst is how many pods one plan creates or deletes at most.
const Burst = 500

const (
	byOwner = "pods by owner"
	orphans = "pods without owner"
)

// PodsByOwner is the index behind PodsOf.
func PodsByOwner() client.Index {
	return client.Index{Name: byOwner, Resource: api.For[*corev1.Pod](), Keys: client.Owners}
}

// PodsOrphaned is the index by which pods are found that nobody controls.
func PodsOrphaned() client.Index {
	return client.Index{Name: orphans, Resource: api.For[*corev1.Pod](), Keys: func(obj api.Object) []string {
		if loop.ControllerOf(obj) != nil {
			return nil
		}
		return client.Namespaces(obj)
	}}
}

// PodsOf yields the pods that owner controls, whatever their labels or state.
func PodsOf(v *client.View, owner api.Object) iter.Seq[*corev1.Pod] {
	return client.By[*corev1.Pod](v, byOwner, string(owner.GetUID()))
}

// KeysOf makes the Keys func of a controller of pods whose own objects are Ts:
// an object concerns itself, a pod its owner, and a pod without owner all Ts of
// its namespace whose selector picks it.
func KeysOf[T api.Object](selector func(T) *metav1.LabelSelector) func(*client.View, client.Change) []loop.Key {
	mine := api.For[T]()
	return func(v *client.View, c client.Change) []loop.Key {
		if c.Resource == mine {
			return []loop.Key{loop.KeyOf(c.Object())}
		}
		var keys []loop.Key
		for _, obj := range []api.Object{c.Old, c.New} {
			if obj == nil {
				continue
			}
			if ref := loop.ControllerOf(obj); ref != nil {
				if ref.Kind == mine.KindName && ref.APIVersion == mine.GVK().GroupVersion().String() {
					keys = append(keys, loop.Key{Namespace: obj.GetNamespace(), Name: ref.Name})
				}
				continue
			}
			keys = append(keys, selecting(v, obj, selector)...)
		}
		return keys
	}
}

// selecting lists the Ts whose selector picks obj.
func selecting[T api.Object](v *client.View, obj api.Object, selector func(T) *metav1.LabelSelector) (keys []loop.Key) {
	if len(obj.GetLabels()) == 0 {
		return nil
	}
	for owner := range client.All[T](v, obj.GetNamespace()) {
		s, err := metav1.LabelSelectorAsSelector(selector(owner))
		if err == nil && !s.Empty() && s.Matches(labels.Set(obj.GetLabels())) {
			keys = append(keys, loop.KeyOf(owner))
		}
	}
	return keys
}

// Active tells whether the pod counts: it has not finished and is not ending.
func Active(pod *corev1.Pod) bool { return !Finished(pod) && pod.DeletionTimestamp == nil }

// Finished tells whether the pod will never run again.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Condition returns the pod's condition of a type, or nil.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// ReadySince returns since when the pod is ready, and whether it is.
func ReadySince(pod *corev1.Pod) (time.Time, bool) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Time, true
}

// Available tells whether the pod has been ready for minReadySeconds, and if it
// is ready but has not yet, when it will.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, at time.Time) {
	since, ready := ReadySince(pod)
	if !ready {
		return false, time.Time{}
	}
	at = since.Add(time.Duration(minReadySeconds) * time.Second)
	return !now.Before(at), at
}
