package storage

import (
	"math"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxAttachmentBytes = 256 * 1024
	maxErrorMessage    = 1024
)

// VolumeAttachment is storage.k8s.io/v1 VolumeAttachment.
var VolumeAttachment = kind.Of(kind.Spec[*storagev1.VolumeAttachment]{
	NameOnUpdate: true,
	New:          func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
	NewList:      func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	Default:      defaultAttachment,
	Create:       func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} },
	Update:       func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status },
	Validate: func(a *storagev1.VolumeAttachment) field.ErrorList {
		// On create the rule is a declared one, which names capitals as allowed.
		return append(check.DriverName(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateAttachment(a)...)
	},
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		errs := append(validateDriverName(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateAttachment(a)...)
		return append(errs, validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))...)
	},
	Subs: map[string]kind.Sub[*storagev1.VolumeAttachment]{"status": {NameOnUpdate: true, AnyFinalizer: true,
		Update: func(a, old *storagev1.VolumeAttachment) {
			a.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&a.ObjectMeta, &old.ObjectMeta)
		},
		Validate: func(a, _ *storagev1.VolumeAttachment) field.ErrorList {
			return append(validateDriverName(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateAttachment(a)...)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		{Name: "Attacher", Type: "string", Format: "name", Description: storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["attacher"]},
		column.String("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
		column.String("Node", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["nodeName"]),
		column.Boolean("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
		column.Age,
	},
	Row: func(a *storagev1.VolumeAttachment) []any {
		return []any{a.Name, a.Spec.Attacher, column.Or(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, column.Since(a.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSource(&a.Spec.Source, path.Child("source"))
	errs = append(errs, check.Each(path.Child("nodeName"), a.Spec.NodeName, validation.NameIsDNSSubdomain(a.Spec.NodeName, false))...)
	status := field.NewPath("status")
	if size(a.Status.AttachmentMetadata) > maxAttachmentBytes {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxAttachmentBytes))
	}
	errs = append(errs, validateVolumeError(a.Status.AttachError, status.Child("attachError"))...)
	return append(errs, validateVolumeError(a.Status.DetachError, status.Child("detachError"))...)
}

func validateSource(s *storagev1.VolumeAttachmentSource, path *field.Path) (errs field.ErrorList) {
	const exactlyOne = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	volume, inline := s.PersistentVolumeName, s.InlineVolumeSpec
	switch {
	case volume == nil && inline == nil:
		errs = append(errs, field.Required(path, exactlyOne))
	case volume != nil && inline != nil:
		errs = append(errs, field.Forbidden(path, exactlyOne))
	case inline != nil:
		errs = append(errs, core.ValidatePersistentVolumeSpec(inline, "", true, path.Child("inlineVolumeSpec"))...)
	case *volume == "":
		errs = append(errs, field.Required(path.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	if volume != nil {
		errs = append(errs, check.Each(path.Child("persistentVolumeName"), *volume, validation.NameIsDNSSubdomain(*volume, false))...)
	}
	return errs
}

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) (errs field.ErrorList) {
	if e == nil {
		return nil
	}
	if len(e.Message) > maxErrorMessage {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxErrorMessage))
	}
	if code := e.ErrorCode; code != nil && *code < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *code, utilvalidation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

// defaultAttachment fills an inline volume as a PersistentVolume's is.
func defaultAttachment(a *storagev1.VolumeAttachment) {
	if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
		core.DefaultVolumeSpec(inline)
	}
}
