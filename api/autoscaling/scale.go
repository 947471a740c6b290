package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// Scale is autoscaling/v1 Scale, the body of scale subresources; it is never stored.
var Scale = kind.Of(kind.Spec[*autoscalingv1.Scale]{
	New:            func() *autoscalingv1.Scale { return &autoscalingv1.Scale{} },
	NewList:        func() runtime.Object { return &metav1.List{} },
	Validate:       validateScale,
	ValidateUpdate: func(s, _ *autoscalingv1.Scale) field.ErrorList { return validateScale(s) },
	Columns: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
		column.Integer("Desired", autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]),
		column.Integer("Available", autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]),
		column.Age,
	},
	Row: func(s *autoscalingv1.Scale) []any {
		return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), column.Since(s.CreationTimestamp)}
	},
})

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	return append(metav1validation.ValidateManagedFields(s.ManagedFields, field.NewPath("metadata", "managedFields")),
		check.NotNegative(field.NewPath("spec"), check.N("replicas", s.Spec.Replicas))...)
}
