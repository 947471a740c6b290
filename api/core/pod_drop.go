package core

import (
	corev1 "k8s.io/api/core/v1"
)

// unreleased are the fields of features that v1.37 has off by default. Each func
// tells whether a spec uses the feature and, asked to clear, unsets it. Nothing is
// written that is unset already: the spec may be shared.
var unreleased = []func(s *corev1.PodSpec, clear bool) bool{
	func(s *corev1.PodSpec, clear bool) bool { return unset(&s.SchedulingGroup, clear) },
	func(s *corev1.PodSpec, clear bool) bool { return unsetList(&s.EvictionResponders, clear) },
	emptyDirModes, bindMountOptions, fileOwners, stopSignals, httpProtocols, grpcModes,
}

// DropPodTemplate clears fields of features that v1.37 has off by default, unless
// the stored template (nil on create) uses them. Every Create and Update of a
// kind with a template calls it.
func DropPodTemplate(t, old *corev1.PodTemplateSpec) {
	dropInitAnnotations(t.Annotations)
	if old == nil {
		dropUnreleased(&t.Spec, nil)
		return
	}
	dropUnreleased(&t.Spec, &old.Spec)
}

func dropUnreleased(s, old *corev1.PodSpec) {
	for _, feature := range unreleased {
		if old == nil || !feature(old, false) {
			feature(s, true)
		}
	}
}

// dropInitAnnotations drops what stood for init containers before v1.8.
func dropInitAnnotations(annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	delete(annotations, "pod.beta.kubernetes.io/init-containers")
	delete(annotations, "pod.alpha.kubernetes.io/init-containers")
	delete(annotations, "pod.beta.kubernetes.io/init-container-statuses")
	delete(annotations, "pod.alpha.kubernetes.io/init-container-statuses")
}

// unset tells whether *p is set; it clears it if asked to.
func unset[T any](p **T, clear bool) bool {
	if *p == nil {
		return false
	}
	if clear {
		*p = nil
	}
	return true
}

func unsetList[T any](l *[]T, clear bool) bool {
	if *l == nil {
		return false
	}
	used := len(*l) > 0
	if clear {
		*l = nil
	}
	return used
}

func emptyDirModes(s *corev1.PodSpec, clear bool) (used bool) {
	for i := range s.Volumes {
		if e := s.Volumes[i].EmptyDir; e != nil {
			used = unset(&e.Mode, clear) || used
		}
	}
	return used
}

func bindMountOptions(s *corev1.PodSpec, clear bool) (used bool) {
	for c := range containersOf(s) {
		for i := range c.VolumeMounts {
			used = unsetList(&c.VolumeMounts[i].BindMountOptions, clear) || used
		}
	}
	return used
}

// fileOwners are the users that own the files which the node writes into volumes.
func fileOwners(s *corev1.PodSpec, clear bool) (used bool) {
	drop := func(user **int64) { used = unset(user, clear) || used }
	items := func(list []corev1.KeyToPath) {
		for i := range list {
			drop(&list[i].User)
		}
	}
	files := func(list []corev1.DownwardAPIVolumeFile) {
		for i := range list {
			drop(&list[i].User)
		}
	}
	for i := range s.Volumes {
		// A volume of several sources is refused afterwards, and shown as it was sent.
		switch v := &s.Volumes[i]; {
		case v.Secret != nil:
			drop(&v.Secret.DefaultUser)
			items(v.Secret.Items)
		case v.ConfigMap != nil:
			drop(&v.ConfigMap.DefaultUser)
			items(v.ConfigMap.Items)
		case v.DownwardAPI != nil:
			drop(&v.DownwardAPI.DefaultUser)
			files(v.DownwardAPI.Items)
		case v.Projected != nil:
			drop(&v.Projected.DefaultUser)
			for j := range v.Projected.Sources {
				projectedOwners(&v.Projected.Sources[j], drop, items, files)
			}
		}
	}
	return used
}

func projectedOwners(p *corev1.VolumeProjection, drop func(**int64), items func([]corev1.KeyToPath), files func([]corev1.DownwardAPIVolumeFile)) {
	switch {
	case p.Secret != nil:
		items(p.Secret.Items)
	case p.DownwardAPI != nil:
		files(p.DownwardAPI.Items)
	case p.ConfigMap != nil:
		items(p.ConfigMap.Items)
	case p.ServiceAccountToken != nil:
		drop(&p.ServiceAccountToken.User)
	case p.ClusterTrustBundle != nil:
		drop(&p.ClusterTrustBundle.User)
	case p.PodCertificate != nil:
		drop(&p.PodCertificate.User)
	}
}

func stopSignals(s *corev1.PodSpec, clear bool) (used bool) {
	for c := range containersOf(s) {
		if c.Lifecycle == nil || !unset(&c.Lifecycle.StopSignal, clear) {
			continue
		}
		used = true
		if *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
	return used
}

func httpProtocols(s *corev1.PodSpec, clear bool) (used bool) {
	drop := func(a *corev1.HTTPGetAction) { used = a != nil && unset(&a.Protocol, clear) || used }
	for c := range containersOf(s) {
		for _, p := range probesOf(c) {
			if p != nil {
				drop(p.HTTPGet)
			}
		}
		if l := c.Lifecycle; l != nil && l.PostStart != nil {
			drop(l.PostStart.HTTPGet)
		}
		if l := c.Lifecycle; l != nil && l.PreStop != nil {
			drop(l.PreStop.HTTPGet)
		}
	}
	return used
}

func grpcModes(s *corev1.PodSpec, clear bool) (used bool) {
	for c := range containersOf(s) {
		for _, p := range probesOf(c) {
			if p != nil && p.GRPC != nil {
				used = unset(&p.GRPC.Mode, clear) || used
			}
		}
	}
	return used
}

// dropUnreleasedStatus is dropUnreleased for a pod's status.
func dropUnreleasedStatus(s, old *corev1.PodStatus) {
	if len(old.VolumeHealth) == 0 {
		s.VolumeHealth = nil
	}
	if len(old.NodeAllocatableResourceClaimStatuses) == 0 {
		s.NodeAllocatableResourceClaimStatuses = nil
	}
	if !mountDigests(old, false) {
		mountDigests(s, true)
	}
}

// mountDigests are the digests of images mounted as volumes.
func mountDigests(s *corev1.PodStatus, clear bool) (used bool) {
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for j := range list[i].VolumeMounts {
				used = unset(&list[i].VolumeMounts[j].VolumeStatus, clear) || used
			}
		}
	}
	return used
}
