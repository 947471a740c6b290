package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const (
	minUpdatePeriod    = 10 // seconds
	minTokenExpiration = 600
	maxTokenExpiration = 1 << 32
)

// CSIDriver is storage.k8s.io/v1 CSIDriver.
var CSIDriver = kind.Of(kind.Spec[*storagev1.CSIDriver]{
	New:           func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
	NewList:       func() runtime.Object { return &storagev1.CSIDriverList{} },
	Default:       defaultDriver,
	Intent:        func(d *storagev1.CSIDriver) any { return &d.Spec },
	CountsUpdates: true,
	Validate:      func(d *storagev1.CSIDriver) field.ErrorList { return validateDriver(&d.Spec) },
	ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
		path := field.NewPath("spec")
		errs := validateDriver(&d.Spec)
		errs = append(errs, validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))...)
		return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
	},
	Warn: func(d, old *storagev1.CSIDriver) []string {
		requests := d.Spec.TokenRequests
		if len(requests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil ||
			old != nil && equality.Semantic.DeepEqual(requests, old.Spec.TokenRequests) {
			return nil
		}
		return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Boolean("AttachRequired", storagev1.CSIDriverSpec{}.SwaggerDoc()["attachRequired"]),
		column.Boolean("PodInfoOnMount", storagev1.CSIDriverSpec{}.SwaggerDoc()["podInfoOnMount"]),
		column.Boolean("StorageCapacity", storagev1.CSIDriverSpec{}.SwaggerDoc()["storageCapacity"]),
		column.String("TokenRequests", storagev1.CSIDriverSpec{}.SwaggerDoc()["tokenRequests"]),
		column.Boolean("RequiresRepublish", storagev1.CSIDriverSpec{}.SwaggerDoc()["requiresRepublish"]),
		column.String("Modes", storagev1.CSIDriverSpec{}.SwaggerDoc()["volumeLifecycleModes"]),
		column.Age,
	},
	Row: func(d *storagev1.CSIDriver) []any {
		s := &d.Spec
		tokens, modes := "<unset>", "<none>"
		if s.TokenRequests != nil {
			var audiences []string
			for _, t := range s.TokenRequests {
				audiences = append(audiences, t.Audience)
			}
			tokens = strings.Join(audiences, ",")
		}
		if len(s.VolumeLifecycleModes) > 0 {
			var names []string
			for _, m := range s.VolumeLifecycleModes {
				names = append(names, string(m))
			}
			modes = strings.Join(names, ",")
		}
		return []any{d.Name, column.Or(s.AttachRequired, true), column.Or(s.PodInfoOnMount, false), column.Or(s.StorageCapacity, false),
			tokens, column.Or(s.RequiresRepublish, false), modes, column.Since(d.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func defaultDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	setDefault(&s.AttachRequired, true)
	for _, flag := range []**bool{&s.PodInfoOnMount, &s.StorageCapacity, &s.RequiresRepublish, &s.SELinuxMount, &s.PreventPodSchedulingIfMissing} {
		setDefault(flag, false)
	}
	setDefault(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func validateDriver(s *storagev1.CSIDriverSpec) (errs field.ErrorList) {
	path := field.NewPath("spec")
	for _, flag := range []struct {
		name  string // as messages have it: the first differs from the field's
		value *bool
	}{
		{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount}, {"storageCapacity", s.StorageCapacity},
		{"seLinuxMount", s.SELinuxMount}, {"preventPodSchedulingIfMissing", s.PreventPodSchedulingIfMissing},
	} {
		if flag.value == nil {
			errs = append(errs, field.Required(path.Child(flag.name), ""))
		}
	}
	if p := s.FSGroupPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("fsGroupPolicy"),
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	errs = append(errs, validateTokenRequests(s.TokenRequests, path.Child("tokenRequests"))...)
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, check.OneOf(m, path.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < minUpdatePeriod {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds"))
	}
	if in := s.ServiceAccountTokenInSecrets; in != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), in, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return errs
}

func validateTokenRequests(requests []storagev1.TokenRequest, path *field.Path) (errs field.ErrorList) {
	audiences := map[string]bool{}
	for i, r := range requests {
		if audiences[r.Audience] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("audience"), r.Audience))
			continue
		}
		audiences[r.Audience] = true
		at := path.Index(i).Child("expirationSeconds")
		switch n := r.ExpirationSeconds; {
		case n == nil:
		case *n < minTokenExpiration:
			errs = append(errs, field.Invalid(at, *n, "may not specify a duration less than 10 minutes"))
		case *n > maxTokenExpiration:
			errs = append(errs, field.Invalid(at, *n, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
