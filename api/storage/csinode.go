package storage

import (
	"fmt"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const (
	maxDriverName = 63
	maxNodeID     = 256
)

// CSINode is storage.k8s.io/v1 CSINode.
var CSINode = kind.Of(kind.Spec[*storagev1.CSINode]{
	NameOnUpdate: true,
	New:          func() *storagev1.CSINode { return &storagev1.CSINode{} },
	NewList:      func() runtime.Object { return &storagev1.CSINodeList{} },
	Create:       func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} },
	Update:       func(n, old *storagev1.CSINode) { n.Status = old.Status },
	Validate: func(n *storagev1.CSINode) field.ErrorList {
		return validateDrivers(n.Spec.Drivers, field.NewPath("spec", "drivers"))
	},
	ValidateUpdate: validateCSINodeUpdate,
	Subs: map[string]kind.Sub[*storagev1.CSINode]{"status": {AnyFinalizer: true,
		Update: func(n, old *storagev1.CSINode) {
			n.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&n.ObjectMeta, &old.ObjectMeta)
			// Volume health is off by default.
			if len(old.Status.StorageHealth) == 0 {
				n.Status.StorageHealth = nil
			}
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.Integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), column.Age,
	},
	Row: func(n *storagev1.CSINode) []any {
		return []any{n.Name, int64(len(n.Spec.Drivers)), column.Since(n.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

// validateCSINodeUpdate keeps a driver that stays as it was, but for the number
// of volumes that it can attach.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	path := field.NewPath("spec", "drivers")
	errs := validateDrivers(n.Spec.Drivers, path)
	for _, was := range old.Spec.Drivers {
		for _, now := range n.Spec.Drivers {
			if now.Name == was.Name {
				now.Allocatable, was.Allocatable = nil, nil // copies
				errs = append(errs, validation.ValidateImmutableField(now, was, path)...)
			}
		}
	}
	return errs
}

func validateDrivers(drivers []storagev1.CSINodeDriver, path *field.Path) (errs field.ErrorList) {
	names := map[string]bool{}
	for i := range drivers {
		d, at := &drivers[i], path.Index(i)
		errs = append(errs, validateDriverName(d.Name, at.Child("name"))...)
		if names[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		if d.NodeID == "" {
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		} else if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if d.Allocatable != nil {
			errs = append(errs, check.NotNegative(at.Child("allocatable"), check.P("count", d.Allocatable.Count))...)
		}
		keys := map[string]bool{}
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(at, ""))
			}
			if keys[key] {
				errs = append(errs, field.Duplicate(at, key))
			}
			keys[key] = true
			errs = append(errs, check.QualifiedName(key, at)...)
		}
	}
	return errs
}

// validateDriverName checks the name of a CSI driver, in which capitals are taken.
func validateDriverName(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, "", maxDriverName))
	}
	return append(errs, check.Each(path, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}
