package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// PodTemplate is the kind of a template that stands alone.
var PodTemplate = kind.Of(kind.Spec[*corev1.PodTemplate]{
	New:     func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
	NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
	Default: func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) },
	Create:  func(t *corev1.PodTemplate) { DropPodTemplate(&t.Template, nil) },
	Update:  func(t, old *corev1.PodTemplate) { DropPodTemplate(&t.Template, &old.Template) },
	Intent:  func(t *corev1.PodTemplate) any { return &t.Template },
	Validate: func(t *corev1.PodTemplate) field.ErrorList {
		return ValidatePodTemplate(&t.Template, field.NewPath("template"))
	},
	ValidateUpdate: func(t, old *corev1.PodTemplate) field.ErrorList {
		return ValidatePodTemplateUpdate(&t.Template, &old.Template, field.NewPath("template"))
	},
	Warn: func(t, old *corev1.PodTemplate) []string {
		if old != nil && old.Generation == t.Generation {
			return nil
		}
		return WarnPodTemplate(&t.Template, nil, field.NewPath("template"))
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Containers", "Names of each container in the template."),
		column.String("Images", "Images referenced by each container in the template."),
		column.String("Pod Labels", "The labels for the pod template."),
	},
	Row: func(t *corev1.PodTemplate) []any {
		names, images := PodTemplateImagesAndNames(&t.Template.Spec)
		return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
	},
})

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
