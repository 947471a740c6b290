package storage

import (
	"maps"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// VolumeAttributesClass is storage.k8s.io/v1 VolumeAttributesClass.
var VolumeAttributesClass = kind.Of(kind.Spec[*storagev1.VolumeAttributesClass]{
	NameOnUpdate: true,
	New:          func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
	NewList:      func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
	Validate:     validateAttributesClass,
	ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) (errs field.ErrorList) {
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !maps.Equal(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return append(errs, validateAttributesClass(c)...)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]), column.Age,
	},
	Row: func(c *storagev1.VolumeAttributesClass) []any {
		return []any{c.Name, c.DriverName, column.Since(c.CreationTimestamp)}
	},
})

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	path := field.NewPath("parameters")
	errs := append(validateProvisioner(c.DriverName, field.NewPath("driverName")), validateParameters(c.Parameters, path)...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}
