package storage

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxParameters     = 512
	maxParameterBytes = 256 * 1024
)

// Annotations that make a class the default one.
const (
	defaultClass     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// StorageClass is storage.k8s.io/v1 StorageClass.
var StorageClass = kind.Of(kind.Spec[*storagev1.StorageClass]{
	NameOnUpdate: true,
	New:          func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
	NewList:      func() runtime.Object { return &storagev1.StorageClassList{} },
	Default: func(c *storagev1.StorageClass) {
		setDefault(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		setDefault(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	},
	Validate: validateStorageClass,
	ValidateUpdate: func(c, old *storagev1.StorageClass) field.ErrorList {
		errs := validateStorageClass(c)
		for _, f := range []struct {
			name     string
			now, was any
		}{
			{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner},
			{"reclaimPolicy", c.ReclaimPolicy, old.ReclaimPolicy}, {"volumeBindingMode", c.VolumeBindingMode, old.VolumeBindingMode},
		} {
			errs = append(errs, check.Unchanged(f.now, f.was, field.NewPath(f.name))...)
		}
		return errs
	},
	Warn: func(c, _ *storagev1.StorageClass) (texts []string) {
		for i, t := range c.AllowedTopologies {
			for j, e := range t.MatchLabelExpressions {
				if text := check.DeprecatedNodeLabel(e.Key); text != "" {
					texts = append(texts, fmt.Sprintf("allowedTopologies[%d].matchLabelExpressions[%d].key: %s", i, j, text))
				}
			}
		}
		return texts
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Provisioner", storagev1.StorageClass{}.SwaggerDoc()["provisioner"]),
		column.String("ReclaimPolicy", storagev1.StorageClass{}.SwaggerDoc()["reclaimPolicy"]),
		column.String("VolumeBindingMode", storagev1.StorageClass{}.SwaggerDoc()["volumeBindingMode"]),
		column.String("AllowVolumeExpansion", storagev1.StorageClass{}.SwaggerDoc()["allowVolumeExpansion"]),
		column.Age,
	},
	Row: func(c *storagev1.StorageClass) []any {
		name := c.Name
		if c.Annotations[defaultClass] == "true" || c.Annotations[betaDefaultClass] == "true" {
			name += " (default)"
		}
		return []any{name, c.Provisioner, string(column.Or(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
			string(column.Or(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), column.Or(c.AllowVolumeExpansion, false),
			column.Since(c.CreationTimestamp)}
	},
})

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, check.OneOf(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if m := c.VolumeBindingMode; m == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, check.OneOf(*m, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateProvisioner(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.QualifiedName(strings.ToLower(name), path)
}

func validateParameters(params map[string]string, path *field.Path) (errs field.ErrorList) {
	if len(params) > maxParameters {
		return append(errs, field.TooLong(path, "", maxParameters))
	}
	if _, ok := params[""]; ok {
		errs = append(errs, field.Invalid(path, "", "field can not be empty."))
	}
	if size(params) > maxParameterBytes {
		errs = append(errs, field.TooLong(path, "", maxParameterBytes))
	}
	return errs
}

func size(m map[string]string) (n int) {
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}

// validateTopologies refuses two terms that say the same, and terms that say
// nothing: as often as there are terms.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) (errs field.ErrorList) {
	seen := make([]map[string]sets.Set[string], len(terms))
	for i, t := range terms {
		errs = append(errs, core.ValidateTopologySelectorTerm(t, path.Index(i))...)
		values := map[string]sets.Set[string]{}
		for _, e := range t.MatchLabelExpressions {
			values[e.Key] = sets.New(e.Values...)
		}
		for _, s := range seen {
			if equality.Semantic.DeepEqual(values, s) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("matchLabelExpressions"), ""))
			}
		}
		seen = append(seen, values)
	}
	return errs
}
