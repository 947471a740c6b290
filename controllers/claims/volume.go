package claims

import (
	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// decideVolume says in its phase what became of a volume. One that we made and
// whose claim is gone is deleted if its policy says so, after a live read of the
// claim by name and UID.
func decideVolume(v *client.View, name string) loop.Plan {
	volume, ok := client.Find[*corev1.PersistentVolume](v, "", name)
	if !ok {
		return loop.Plan{}
	}
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return phase(volume, corev1.VolumeAvailable)
	}
	claim, ok := client.Find[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	switch {
	case ok && claim.UID == ref.UID && claim.Spec.VolumeName == volume.Name:
		return phase(volume, corev1.VolumeBound)
	case ok && claim.UID == ref.UID && claim.Spec.VolumeName == "":
		return loop.Plan{} // the claim is about to name it
	case ok && claim.UID == ref.UID && volume.Annotations[provisionedBy] == "":
		return unbind(volume) // the claim has another: this one is free again
	case volume.Status.Phase != corev1.VolumeReleased:
		return phase(volume, corev1.VolumeReleased)
	case volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || volume.Annotations[provisionedBy] != Provisioner || volume.DeletionTimestamp != nil:
		return loop.Plan{} // somebody else's to delete, or to keep
	}
	w := loop.Delete(volume)
	if !ok || claim.UID != ref.UID {
		w.Unless = &loop.Identity{Resource: api.For[*corev1.PersistentVolumeClaim](), Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID}
	}
	return loop.Plan{Writes: []loop.Write{w}}
}

func phase(volume *corev1.PersistentVolume, p corev1.PersistentVolumePhase) loop.Plan {
	if volume.Status.Phase == p {
		return loop.Plan{}
	}
	next := volume.DeepCopy()
	next.Status.Phase, next.Status.Reason, next.Status.Message = p, "", ""
	return loop.Plan{Writes: []loop.Write{loop.UpdateStatus(next)}}
}

// unbind frees a volume: of what we wrote, or of the UID where a person meant it
// for a claim by name.
func unbind(volume *corev1.PersistentVolume) loop.Plan {
	next := volume.DeepCopy()
	if _, ours := volume.Annotations[boundByController]; ours {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, boundByController)
	} else {
		next.Spec.ClaimRef.UID = ""
	}
	return loop.Plan{Writes: []loop.Write{loop.Update(next)}}
}
