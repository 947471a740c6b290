package api

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a row says about a write beyond its Kind: the rules of metadata, which are the same for every kind.

// ValidateNew judges a new object that has its name, metadata first.
func (r *Resource) ValidateNew(obj Object) field.ErrorList {
	meta := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, r.Kind.ValidateName, meta)
	errs = append(errs, r.Kind.Validate(obj)...)
	if len(errs) == 0 && obj.GetName() != "" {
		for _, text := range content.IsPathSegmentName(obj.GetName()) {
			errs = append(errs, field.Invalid(meta.Child("name"), obj.GetName(), text))
		}
	}
	return errs
}

// ValidateChange judges the next version of an object, written through a
// subresource or, with "", through the object itself.
func (r *Resource) ValidateChange(subresource string, obj, old Object) field.ErrorList {
	meta := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, pathSegment, meta)
	errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, meta)...)
	if ofObject(subresource) {
		return append(errs, r.Kind.ValidateUpdate(obj, old)...)
	}
	return append(errs, r.Kind.Subs[subresource].Validate(obj, old)...)
}

// KeepUntouchable gives obj those of old's parts that the write cannot change,
// and counts its generation.
func (r *Resource) KeepUntouchable(subresource string, obj, old Object) {
	if ofObject(subresource) {
		r.Kind.Update(obj, old)
	} else {
		r.Kind.Subs[subresource].Update(obj, old)
	}
	inherit(obj, old)
	r.countIntent(obj, old)
}

// ofObject tells whether a write through the subresource is one of the object as a whole.
func ofObject(subresource string) bool { return subresource == "" || subresource == "scale" }

// inherit gives the new version of an object those parts of metadata that an
// update cannot change.
func inherit(obj, old Object) {
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	if created := old.GetCreationTimestamp(); !created.IsZero() {
		obj.SetCreationTimestamp(created)
	}
	if deleted := old.GetDeletionTimestamp(); deleted != nil {
		obj.SetDeletionTimestamp(deleted)
	}
	if grace := old.GetDeletionGracePeriodSeconds(); grace != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(grace)
	}
	obj.SetSelfLink("")
}

// countIntent sets generation: one more than old's when what the user wants has changed.
func (r *Resource) countIntent(obj, old Object) {
	obj.SetGeneration(old.GetGeneration())
	if r.Kind.Intent != nil && !equality.Semantic.DeepEqual(r.Kind.Intent(obj), r.Kind.Intent(old)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}
