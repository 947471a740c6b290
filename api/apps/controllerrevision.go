package apps

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// ControllerRevision is apps/v1 ControllerRevision.
var ControllerRevision = kind.Of(kind.Spec[*appsv1.ControllerRevision]{
	NameOnUpdate: true,
	New:          func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
	NewList:      func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	Validate: func(r *appsv1.ControllerRevision) field.ErrorList {
		return append(check.NotNegative(nil, check.N("revision", r.Revision)), validateRevisionData(r.Data.Raw)...)
	},
	ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
		return append(check.NotNegative(nil, check.N("revision", r.Revision)),
			validation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Controller", "Controller of the object"),
		column.String("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
		column.Age,
	},
	Row: func(r *appsv1.ControllerRevision) []any {
		return []any{r.Name, controllerOf(r), r.Revision, column.Since(r.CreationTimestamp)}
	},
})

// controllerOf names the controller as kubectl does: statefulset.apps/web.
func controllerOf(obj metav1.Object) string {
	ref := metav1.GetControllerOf(obj)
	if ref == nil {
		return "<none>"
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || ref.Kind == "" && gv.Group == "" {
		return ref.Name
	}
	return strings.ToLower(gv.WithKind(ref.Kind).GroupKind().String()) + "/" + ref.Name
}

// validateRevisionData wants a JSON object.
func validateRevisionData(raw []byte) field.ErrorList {
	path := field.NewPath("data")
	if raw == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))}
	}
	switch v.(type) {
	case nil:
		return field.ErrorList{field.Required(path, "data is mandatory")}
	case map[string]any:
		return nil
	}
	return field.ErrorList{field.Required(path, "data must be a valid JSON object")}
}
