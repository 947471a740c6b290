package api

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
)

// What a row says about a write beyond its Kind: the rules of metadata, which are the same for every kind.

// PrepareNew resets what a create may not set, and begins to count generations.
// Where a kind has none, or counts updates alone, what was sent stays.
func (r *Resource) PrepareNew(obj Object) {
	if r.Kind.Intent != nil && !r.Kind.CountsUpdates {
		obj.SetGeneration(1)
	}
	r.Kind.Create(obj)
}

// ValidateNew judges a new object in the storage's version, which has its name.
func (r *Resource) ValidateNew(obj Object) field.ErrorList {
	if r.View != nil {
		if !r.View.Judges {
			return Find(r.View.Of).ValidateNew(obj)
		}
		obj = r.View.FromStored(obj)
	}
	meta := field.NewPath("metadata")
	if r.Kind.PlainMeta {
		if errs := r.Kind.Validate(obj); len(errs) > 0 {
			return errs
		}
		return validation.ValidateObjectMetaAccessor(obj, r.Namespaced, check.PathSegment, meta)
	}
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, r.Kind.NameRule(obj), meta)
	if !r.Kind.AnyFinalizer && r.Custom == nil {
		errs = append(errs, bareFinalizers(obj, meta.Child("finalizers"))...)
	}
	errs = append(errs, r.Kind.Validate(obj)...)
	if len(errs) == 0 {
		errs = validation.ValidateObjectMetaAccessor(obj, r.Namespaced, check.PathSegment, meta)
	}
	return errs
}

// ValidateChange judges the next version of an object, in the storage's version,
// written through a subresource or, with "", through the object itself.
func (r *Resource) ValidateChange(subresource string, obj, old Object) field.ErrorList {
	if r.View != nil {
		if !r.View.Judges {
			return Find(r.View.Of).ValidateChange(subresource, obj, old)
		}
		obj, old = r.View.FromStored(obj), r.View.FromStored(old)
	}
	meta := field.NewPath("metadata")
	validate, nameToo, anyFinalizer := r.Kind.ValidateUpdate, r.Kind.NameOnUpdate, r.Kind.AnyFinalizer
	if !ofObject(subresource) {
		sub := r.Kind.Subs[subresource]
		validate, nameToo, anyFinalizer = sub.Validate, sub.NameOnUpdate, sub.AnyFinalizer
	}
	errs := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, check.PathSegment, meta)
	if nameToo {
		errs = append(errs, validation.ValidateObjectMetaAccessor(obj, r.Namespaced, r.Kind.NameRule(obj), meta)...)
	}
	errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, meta)...)
	if !anyFinalizer && r.Custom == nil {
		errs = append(errs, bareFinalizers(obj, meta.Child("finalizers"))...)
	}
	return append(errs, validate(obj, old)...)
}

// bareFinalizers refuses finalizers without a domain that are not Kubernetes' own.
func bareFinalizers(obj Object, path *field.Path) (errs field.ErrorList) {
	for i, name := range obj.GetFinalizers() {
		switch {
		case strings.Contains(name, "/"):
		case name == string(corev1.FinalizerKubernetes), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents:
		default:
			errs = append(errs, field.Invalid(path.Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// KeepUntouchable gives obj those of old's parts that the write cannot change,
// and counts its generation.
func (r *Resource) KeepUntouchable(subresource string, obj, old Object) {
	obj.SetGeneration(old.GetGeneration())
	if ofObject(subresource) {
		r.Kind.Update(obj, old) // may count a change that it then undoes
	} else {
		r.Kind.Subs[subresource].Update(obj, old)
	}
	inherit(obj, old)
	if r.Kind.Intent != nil && subresource != "status" && !equality.Semantic.DeepEqual(r.Kind.Intent(obj), r.Kind.Intent(old)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
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
