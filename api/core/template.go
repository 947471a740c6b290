package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePodTemplate checks the template of a new object.
func ValidatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return ValidatePodTemplateUpdate(t, nil, path)
}

// ValidatePodTemplateUpdate checks the template of an object whose stored
// template is old (nil on create). Rules that are younger than stored objects
// are not held against what was stored before them.
func ValidatePodTemplateUpdate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return nil
}

// DropPodTemplate clears fields of features that v1.37 has off by default, unless
// the stored template (nil on create) uses them. Every Create and Update of a
// kind with a template calls it.
func DropPodTemplate(t, old *corev1.PodTemplateSpec) {}

// WarnPodTemplate gives the texts of warnings about deprecated or dubious fields.
// old is nil on create.
func WarnPodTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) []string {
	return nil
}

// PodTemplateImagesAndNames gives the columns Containers and Images of the kinds
// that hold a pod template.
func PodTemplateImagesAndNames(spec *corev1.PodSpec) (names, images string) {
	n := make([]string, len(spec.Containers))
	im := make([]string, len(spec.Containers))
	for i := range spec.Containers {
		n[i], im[i] = spec.Containers[i].Name, spec.Containers[i].Image
	}
	return strings.Join(n, ","), strings.Join(im, ",")
}

// ValidateReplicatedVolumes forbids volumes of a template that only one pod can
// write to, for kinds that run several pods of it.
func ValidateReplicatedVolumes(volumes, old []corev1.Volume, path *field.Path) field.ErrorList {
	return nil
}

// ValidateTolerations checks the tolerations of pods and of runtime classes.
func ValidateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	return nil
}

// ValidateNodeSelector checks a node selector with its terms.
func ValidateNodeSelector(s *corev1.NodeSelector, path *field.Path) field.ErrorList {
	return nil
}

// ValidateResourceRequirements checks a container's limits and requests (also a
// runtime class's overhead).
func ValidateResourceRequirements(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	return nil
}

// ValidatePersistentVolumeClaimSpec checks the spec of a new claim, also in a
// stateful set's templates.
func ValidatePersistentVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	return nil
}

// ValidatePersistentVolumeSpec checks a volume's spec. inline: it stands in a
// VolumeAttachment, not in the PersistentVolume called name.
func ValidatePersistentVolumeSpec(spec *corev1.PersistentVolumeSpec, name string, inline bool, path *field.Path) field.ErrorList {
	return nil
}

// ValidateTopologySelectorTerm checks one of a storage class's allowed topologies.
func ValidateTopologySelectorTerm(t corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	return nil
}

// ValidateLegacyIP checks an IP address of a field that once took sloppy ones
// (leading zeros); those in old, the stored values, are still taken.
func ValidateLegacyIP(path *field.Path, value string, old []string) field.ErrorList {
	return nil
}

// ValidateLegacyCIDR is ValidateLegacyIP for address ranges.
func ValidateLegacyCIDR(path *field.Path, value string, old []string) field.ErrorList {
	return nil
}

// ValidateEndpointIP forbids addresses that no endpoint can have: unspecified,
// loopback, link-local.
func ValidateEndpointIP(ip string, path *field.Path) field.ErrorList {
	return nil
}

// ValidateLoadBalancerStatus checks the status of services and ingresses.

// ValidateUserAnnotations checks annotations that a user hands to a signer.
func ValidateUserAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	return nil
}

// ValidateContainerResourceName checks the name of a resource that a container
// may ask for.
func ValidateContainerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	return nil
}
