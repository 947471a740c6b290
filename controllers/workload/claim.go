package workload

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Claims are the pods of an owner, and what must be written to make them so.
type Claims struct {
	Pods   []*corev1.Pod // owned and picked by the selector, in order of names
	Writes []loop.Write  // adoptions and releases
}

// Claim finds the owner's pods: those that it controls and its selector picks.
// Pods that it controls and does not pick are released; pods that it picks and
// nobody controls are adopted, unless the owner is going.
func Claim(v *client.View, owner api.Object, selector labels.Selector) (c Claims) {
	going := owner.GetDeletionTimestamp() != nil
	for pod := range PodsOf(v, owner) {
		switch {
		case selector.Matches(labels.Set(pod.Labels)):
			c.Pods = append(c.Pods, pod)
		case !going && pod.DeletionTimestamp == nil:
			c.Writes = append(c.Writes, Release(owner, pod))
		}
	}
	if going {
		return c
	}
	for pod := range client.By[*corev1.Pod](v, orphans, owner.GetNamespace()) {
		if pod.DeletionTimestamp == nil && selector.Matches(labels.Set(pod.Labels)) {
			c.Writes = append(c.Writes, Adopt(owner, pod))
		}
	}
	return c
}

// Adopt makes owner the controller of obj.
func Adopt(owner, obj api.Object) loop.Write {
	ref := metav1.NewControllerRef(owner, api.Of(owner).GVK())
	return patchOwners(obj, append(slices.Clone(obj.GetOwnerReferences()), *ref))
}

// Release makes owner no longer an owner of obj.
func Release(owner, obj api.Object) loop.Write {
	refs := slices.DeleteFunc(slices.Clone(obj.GetOwnerReferences()), func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() })
	return patchOwners(obj, refs)
}

// patchOwners replaces the owners of exactly this object in exactly this state:
// the UID and resourceVersion in the patch are preconditions.
func patchOwners(obj api.Object, refs []metav1.OwnerReference) loop.Write {
	if refs == nil {
		refs = []metav1.OwnerReference{}
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), "ownerReferences": refs,
	}})
	if err != nil {
		panic(fmt.Sprintf("owner references always have a JSON form: %v", err))
	}
	w := loop.Patch(obj, client.Patch{Type: types.MergePatchType, Data: data})
	w.Optional = true // it changed, or it is gone: the next decision sees which
	return w
}
