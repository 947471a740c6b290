package claims

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	claimInUse  = "kubernetes.io/pvc-protection"
	volumeInUse = "kubernetes.io/pv-protection"
	classInUse  = "kubernetes.io/vac-protection"
	podsOfClaim = "pods by claim"
	claimsOf    = "claims by attributes class"
	volumesOf   = "volumes by attributes class"
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

// ProtectAttributes is the row that keeps attributes classes while a claim or a volume names them.
func ProtectAttributes() loop.Controller {
	claims, volumes := api.For[*corev1.PersistentVolumeClaim](), api.For[*corev1.PersistentVolume]()
	return loop.Controller{
		Name:   "volumeattributesclass-protection-controller",
		Reads:  []*api.Resource{api.For[*storagev1.VolumeAttributesClass](), claims, volumes},
		Writes: []string{"volumeattributesclasses"},
		Indexes: []client.Index{
			{Name: claimsOf, Resource: claims, Keys: attributesClasses},
			{Name: volumesOf, Resource: volumes, Keys: attributesClasses},
		},
		Keys: func(_ *client.View, c client.Change) (keys []loop.Key) {
			if _, ok := c.Object().(*storagev1.VolumeAttributesClass); ok {
				return []loop.Key{loop.KeyOf(c.Object())}
			}
			if c.Old == nil {
				return nil // a new user frees nothing
			}
			for _, name := range attributesClasses(c.Old) {
				keys = append(keys, loop.Key{Name: name})
			}
			return keys
		},
		Decide: func(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			class, ok := client.Find[*storagev1.VolumeAttributesClass](v, "", key.Name)
			if !ok {
				return loop.Plan{}, nil
			}
			used := false
			for range client.By[*corev1.PersistentVolumeClaim](v, claimsOf, key.Name) {
				used = true
			}
			for range client.By[*corev1.PersistentVolume](v, volumesOf, key.Name) {
				used = true
			}
			return protect(class, classInUse, used), nil
		},
	}
}

// attributesClasses lists the attributes classes that a claim or a volume names: what it wants, has, and is changed to.
func attributesClasses(obj api.Object) (names []string) {
	add := func(name *string) {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		add(o.Spec.VolumeAttributesClassName)
		add(o.Status.CurrentVolumeAttributesClassName)
		if change := o.Status.ModifyVolumeStatus; change != nil {
			add(&change.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		add(o.Spec.VolumeAttributesClassName)
	}
	slices.Sort(names)
	return slices.Compact(names)
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
