package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/client"
)

// selectedNode tells the claims' controller where a claim that waits for its
// first consumer is wanted.
const selectedNode = "volume.kubernetes.io/selected-node"

// claimsOf lists the names of the claims that a pod's volumes name.
func claimsOf(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Name+"-"+v.Name)
		}
	}
	return names
}

// volumesReach keeps pods where their volumes are.
func volumesReach(s *state, _ *class, pod *corev1.Pod) (func(*nodeState) string, string) {
	var required []*nodeaffinity.NodeSelector
	promised := "" // where a volume is being made already
	for _, name := range claimsOf(pod) {
		claim, ok := client.Find[*corev1.PersistentVolumeClaim](s.others, pod.Namespace, name)
		switch {
		case !ok:
			return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case claim.Spec.VolumeName == "":
			if !waitsForConsumer(s, claim) {
				return nil, "pod has unbound immediate PersistentVolumeClaims"
			}
			if node := claim.Annotations[selectedNode]; node != "" {
				promised = node
			}
			continue
		}
		volume, ok := client.Find[*corev1.PersistentVolume](s.others, "", claim.Spec.VolumeName)
		if !ok {
			return nil, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
		}
		if a := volume.Spec.NodeAffinity; a != nil && a.Required != nil {
			selector, err := nodeaffinity.NewNodeSelector(a.Required)
			if err != nil {
				return nil, fmt.Sprintf("node affinity of persistentvolume %q: %v", volume.Name, err)
			}
			required = append(required, selector)
		}
	}
	if len(required) == 0 && promised == "" {
		return nil, ""
	}
	return func(n *nodeState) string {
		if promised != "" && n.name != promised {
			return "node(s) didn't find available persistent volumes to bind"
		}
		for _, selector := range required {
			if !selector.Match(n.node) {
				return "node(s) didn't match PersistentVolume's node affinity"
			}
		}
		return ""
	}, ""
}

// volumesUnshared keeps a pod waiting while another one, wherever it is, has a
// claim that only one pod may use (ReadWriteOncePod, KEP-2485).
func volumesUnshared(s *state, _ *class, pod *corev1.Pod) (func(*nodeState) string, string) {
	for _, name := range claimsOf(pod) {
		claim, ok := client.Find[*corev1.PersistentVolumeClaim](s.others, pod.Namespace, name)
		if !ok || !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			continue
		}
		for _, p := range s.byNamespace[pod.Namespace] {
			if slices.Contains(claimsOf(p.pod), name) {
				return func(*nodeState) string {
					return "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
				}, ""
			}
		}
	}
	return nil, ""
}

func waitsForConsumer(s *state, claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.StorageClassName == nil {
		return false
	}
	class, ok := client.Find[*storagev1.StorageClass](s.others, "", *claim.Spec.StorageClassName)
	return ok && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// unboundClaims are those that must be bound before the pod can be.
func (s *state) unboundClaims(pod *corev1.Pod) (claims []*corev1.PersistentVolumeClaim) {
	for _, name := range claimsOf(pod) {
		if claim, ok := client.Find[*corev1.PersistentVolumeClaim](s.others, pod.Namespace, name); ok && claim.Status.Phase != corev1.ClaimBound {
			claims = append(claims, claim)
		}
	}
	return claims
}
