package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
)

// The parts of metadata that the server decides when an object is written; what is
// the same for every write of a row is in package api.

// matchNamespace makes an object's namespace the request's, or refuses another.
func matchNamespace(r *Request, obj metav1.Object) error {
	want := r.Namespace
	if !r.Resource.Namespaced {
		want = ""
	}
	switch have := obj.GetNamespace(); {
	case have == want:
	case have == "" || want == "":
		obj.SetNamespace(want)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// matchName refuses an object that is not the one in the URL.
func matchName(r *Request, obj metav1.Object) error {
	switch have := obj.GetName(); {
	case have == r.Name:
		return nil
	case have == "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: %v", r.Name, "name must be provided"))
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", have, r.Name))
	}
}

// wipe takes out of a new object what only the server sets.
func wipe(obj metav1.Object) {
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetUID("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

// baptize gives a new object what only the server sets, and a name if it has
// only the beginning of one.
func baptize(k *api.Resource, obj api.Object) {
	obj.SetCreationTimestamp(now())
	obj.SetUID(uuid.NewUUID())
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		obj.SetName(generatedName(obj.GetGenerateName()))
	}
}

// now is the time as it is written into objects, which know only seconds.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

// generatedName adds five random letters to prefix; the whole is a DNS label if
// prefix begins one.
func generatedName(prefix string) string {
	const letters, longest = 5, 63
	return prefix[:min(len(prefix), longest-letters)] + utilrand.String(letters)
}

// dedupOwners drops owner references that are given twice, with a warning.
func dedupOwners(r *Request, obj metav1.Object, when string) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var once []metav1.OwnerReference
	var twice []string
	for _, ref := range refs {
		if slices.ContainsFunc(once, func(o metav1.OwnerReference) bool { return equality.Semantic.DeepEqual(o, ref) }) {
			twice = append(twice, string(ref.UID))
			continue
		}
		once = append(once, ref)
	}
	if len(twice) == 0 {
		return
	}
	r.Warn(fmt.Sprintf(".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, "+
		"and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v", when, strings.Join(twice, ", ")))
	obj.SetOwnerReferences(once)
}

const afterAdmission = " after mutating admission happens"

func invalid(row *api.Resource, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: row.Group, Kind: row.KindName}, name, errs)
}

// matchVersion compares the resourceVersion that an update carries with what is
// stored; an update that carries none replaces whatever is there, and is given
// the version that it replaces.
func matchVersion(row *api.Resource, obj, old api.Object) error {
	version, err := revisionOf(obj.GetResourceVersion())
	switch {
	case err != nil:
		return apierrors.NewBadRequest(err.Error())
	case version == 0 && row.Kind.UnconditionalUpdateForbidden:
		kind := schema.GroupKind{Group: row.Group, Kind: row.Name}
		return apierrors.NewInvalid(kind, obj.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), version, "must be specified for an update")})
	case version == 0:
		obj.SetResourceVersion(old.GetResourceVersion())
	case obj.GetResourceVersion() != old.GetResourceVersion():
		return apierrors.NewConflict(row.GroupResource(), obj.GetName(), errModified)
	}
	return nil
}

// matchUID refuses an update that was meant for another object of the same name.
func matchUID(row *api.Resource, r *Request, want, have types.UID) error {
	if want == "" || want == have {
		return nil
	}
	return apierrors.NewConflict(row.GroupResource(), r.Name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v",
		stored(row).Key(r.Namespace, r.Name), want, have))
}

// revisionOf reads a resourceVersion; "" is 0.
func revisionOf(resourceVersion string) (uint64, error) {
	if resourceVersion == "" {
		return 0, nil
	}
	return strconv.ParseUint(resourceVersion, 10, 64)
}

// errVersionOnCreate refuses to create an object that says which version it is.
func errVersionOnCreate() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: "resourceVersion should not be set on objects to be created",
	}}
}
