package claims

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	claimInUse  = "kubernetes.io/pvc-protection"
	volumeInUse = "kubernetes.io/pv-protection"
	podsOfClaim = "pods by claim"
)

// ProtectClaims is the row that keeps claims while a pod uses them.
func ProtectClaims() loop.Controller {
	return loop.Controller{
		Name:   "pvc-protection-controller",
		Reads:  []*api.Resource{api.For[*corev1.PersistentVolumeClaim](), api.For[*corev1.Pod]()},
		Writes: []string{"persistentvolumeclaims"},
		Indexes: []client.Index{{Name: podsOfClaim, Resource: api.For[*corev1.Pod](), Keys: func(obj api.Object) (keys []string) {
			for _, name := range claimNames(obj.(*corev1.Pod)) {
				keys = append(keys, obj.GetNamespace()+"/"+name)
			}
			return keys
		}}},
		Keys: func(_ *client.View, c client.Change) (keys []loop.Key) {
			pod, ok := c.Object().(*corev1.Pod)
			if !ok {
				return []loop.Key{loop.KeyOf(c.Object())}
			}
			if c.New != nil {
				return nil // a pod that lives frees nothing
			}
			for _, name := range claimNames(pod) {
				keys = append(keys, loop.Key{Namespace: pod.Namespace, Name: name})
			}
			return keys
		},
		Decide: func(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			claim, ok := client.Find[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
			if !ok {
				return loop.Plan{}, nil
			}
			used := false
			for pod := range client.By[*corev1.Pod](v, podsOfClaim, key.Namespace+"/"+key.Name) {
				// The node of a pod that has none yet will refuse a claim that is going.
				used = used || pod.Spec.NodeName != ""
			}
			return protect(claim, claimInUse, used), nil
		},
	}
}

// claimNames lists the claims that a pod uses.
func claimNames(pod *corev1.Pod) (names []string) {
	for _, vol := range pod.Spec.Volumes {
		switch {
		case vol.PersistentVolumeClaim != nil:
			names = append(names, vol.PersistentVolumeClaim.ClaimName)
		case vol.Ephemeral != nil:
			names = append(names, pod.Name+"-"+vol.Name)
		}
	}
	return names
}

// ProtectVolumes is the row that keeps volumes while a claim has them.
func ProtectVolumes() loop.Controller {
	return loop.Controller{
		Name:   "pv-protection-controller",
		Reads:  []*api.Resource{api.For[*corev1.PersistentVolume]()},
		Writes: []string{"persistentvolumes"},
		Decide: func(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			volume, ok := client.Find[*corev1.PersistentVolume](v, "", key.Name)
			if !ok {
				return loop.Plan{}, nil
			}
			return protect(volume, volumeInUse, volume.Status.Phase == corev1.VolumeBound), nil
		},
	}
}

// protect adds the finalizer to what lives, and takes it from what is going and
// not used.
func protect(obj api.Object, finalizer string, used bool) loop.Plan {
	has, going := slices.Contains(obj.GetFinalizers(), finalizer), obj.GetDeletionTimestamp() != nil
	next := obj.DeepCopyObject().(api.Object)
	switch {
	case going && has && !used:
		next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	case !going && !has:
		next.SetFinalizers(append(next.GetFinalizers(), finalizer))
	default:
		return loop.Plan{}
	}
	return loop.Plan{Writes: []loop.Write{loop.Update(next)}}
}
