// Package storagemigration says what Kubernetes documents about the kinds of
// storagemigration.k8s.io/v1: one variable per kind, which api/catalogue.go puts
// into its rows. It never does I/O, and never looks at other objects.
package storagemigration

import (
	"strings"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// StorageVersionMigration is storagemigration.k8s.io/v1 StorageVersionMigration.
var StorageVersionMigration = kind.Of(kind.Spec[*storagemigrationv1.StorageVersionMigration]{
	NameOnUpdate: true,
	New: func() *storagemigrationv1.StorageVersionMigration {
		return &storagemigrationv1.StorageVersionMigration{}
	},
	NewList: func() runtime.Object { return &storagemigrationv1.StorageVersionMigrationList{} },
	Create: func(m *storagemigrationv1.StorageVersionMigration) {
		m.Status = storagemigrationv1.StorageVersionMigrationStatus{}
	},
	Update:   func(m, old *storagemigrationv1.StorageVersionMigration) { m.Status = old.Status },
	Validate: validateMigration,
	ValidateUpdate: func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		return append(validateMigration(m), validation.ValidateImmutableField(m.Spec, old.Spec, field.NewPath("spec"))...)
	},
	Subs: map[string]kind.Sub[*storagemigrationv1.StorageVersionMigration]{"status": {AnyFinalizer: true,
		Update: func(m, old *storagemigrationv1.StorageVersionMigration) {
			m.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&m.ObjectMeta, &old.ObjectMeta)
		},
		Validate: validateMigrationStatus,
	}},
	Columns: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
		column.String("Resource", "GroupResource to migrate"),
		column.String("Status", "Status of the migration"),
	},
	Row: func(m *storagemigrationv1.StorageVersionMigration) []any {
		status := "Unknown"
		for _, c := range m.Status.Conditions {
			switch storagemigrationv1.MigrationConditionType(c.Type) {
			case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
				if c.Status == metav1.ConditionTrue {
					status = c.Type
				}
			}
		}
		return []any{m.Name, m.Spec.Resource.String(), status}
	},
	UnconditionalUpdateForbidden: true,
})

func validateMigration(m *storagemigrationv1.StorageVersionMigration) (errs field.ErrorList) {
	r, path := m.Spec.Resource, field.NewPath("spec", "resource")
	if r.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else if wrong := utilvalidation.IsDNS1035Label(r.Resource); len(wrong) > 0 {
		errs = append(errs, field.Invalid(path.Child("resource"), r.Resource, strings.Join(wrong, ",")))
	}
	if r.Group != "" {
		if wrong := utilvalidation.IsDNS1123Subdomain(r.Group); len(wrong) > 0 {
			errs = append(errs, field.Invalid(path.Child("group"), r.Group, strings.Join(wrong, ",")))
		}
	}
	return errs
}

func validateMigrationStatus(m, old *storagemigrationv1.StorageVersionMigration) (errs field.ErrorList) {
	path := field.NewPath("status")
	now, was, version := m.Status, old.Status, path.Child("resourceVersion")
	if now.ResourceVersion != "" {
		if _, err := resourceversion.CompareResourceVersion(now.ResourceVersion, now.ResourceVersion); err != nil {
			errs = append(errs, field.Invalid(version, now.ResourceVersion, err.Error()))
		}
	}
	errs = append(errs, metav1validation.ValidateConditions(now.Conditions, path.Child("conditions"))...)
	if was.ResourceVersion != "" && was.ResourceVersion != now.ResourceVersion {
		errs = append(errs, field.Invalid(version, now.ResourceVersion, validation.FieldImmutableErrorMsg))
	}
	is := func(s *storagemigrationv1.StorageVersionMigrationStatus, t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(s.Conditions, string(t))
	}
	const succeeded, failed = storagemigrationv1.MigrationSucceeded, storagemigrationv1.MigrationFailed
	for _, rule := range []struct {
		broken  bool
		message string
	}{
		{is(&now, succeeded) && is(&now, failed), "Both success and failed conditions cannot be true at the same time"},
		{is(&was, succeeded) && !is(&now, succeeded), "Success condition cannot be set to false once it is true"},
		{is(&was, failed) && !is(&now, failed), "Failed condition cannot be set to false once it is true"},
	} {
		if rule.broken {
			errs = append(errs, field.Invalid(path.Child("conditions"), now.Conditions, rule.message))
		}
	}
	return errs
}
