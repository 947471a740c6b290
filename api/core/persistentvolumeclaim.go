package core

import corev1 "k8s.io/api/core/v1"

// DefaultPersistentVolumeClaim fills the defaults of a claim, also of a stateful
// set's templates.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	setDefault(&c.Status.Phase, corev1.ClaimPending)
	DefaultPersistentVolumeClaimSpec(&c.Spec)
	roundResources(c.Status.Capacity)
	roundResources(c.Status.AllocatedResources)
}

// DefaultPersistentVolumeClaimSpec fills the defaults of a claim's spec.
func DefaultPersistentVolumeClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	setDefaultPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(s.Resources.Limits)
	roundResources(s.Resources.Requests)
}
