package storage

import (
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// CSIStorageCapacity is storage.k8s.io/v1 CSIStorageCapacity.
var CSIStorageCapacity = kind.Of(kind.Spec[*storagev1.CSIStorageCapacity]{
	NameOnUpdate: true,
	New:          func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
	NewList:      func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
	Validate:     func(c *storagev1.CSIStorageCapacity) field.ErrorList { return validateCapacity(c, false) },
	ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		errs := validateCapacity(c, len(check.Selector(old.NodeTopology, false, nil)) > 0)
		errs = append(errs, validation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
		return append(errs, validation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
	},
	Warn: func(c, _ *storagev1.CSIStorageCapacity) (texts []string) {
		if c.NodeTopology == nil {
			return nil
		}
		for i, e := range c.NodeTopology.MatchExpressions {
			if text := check.DeprecatedNodeLabel(e.Key); text != "" {
				texts = append(texts, fmt.Sprintf("nodeTopology.matchExpressions[%d].key: %s is %s", i, e.Key, text))
			}
		}
		for key := range c.NodeTopology.MatchLabels {
			if text := check.DeprecatedNodeLabel(key); text != "" {
				texts = append(texts, fmt.Sprintf("nodeTopology.matchLabels.%s: %s", key, text))
			}
		}
		return texts
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("StorageClassName", storagev1.CSIStorageCapacity{}.SwaggerDoc()["storageClassName"]),
		column.String("Capacity", storagev1.CSIStorageCapacity{}.SwaggerDoc()["capacity"]),
	},
	Row: func(c *storagev1.CSIStorageCapacity) []any {
		capacity := "<unset>"
		if c.Capacity != nil {
			capacity = c.Capacity.String()
		}
		return []any{c.Name, c.StorageClassName, capacity}
	},
	UnconditionalUpdateForbidden: true,
})

func validateCapacity(c *storagev1.CSIStorageCapacity, lax bool) field.ErrorList {
	errs := check.Selector(c.NodeTopology, lax, field.NewPath("nodeTopology"))
	errs = append(errs, check.Each(field.NewPath("storageClassName"), c.StorageClassName, validation.NameIsDNSSubdomain(c.StorageClassName, false))...)
	if q := c.Capacity; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), q.String(), "must be greater than or equal to 0"))
	}
	return errs
}
