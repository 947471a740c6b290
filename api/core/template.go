package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

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
