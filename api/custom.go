package api

import (
	"k8s.io/apimachinery/pkg/util/managedfields"
)

// Custom is what rows of custom resources have beyond their Kind. Such rows are
// made at run time, one for each served version of a CustomResourceDefinition;
// when that changes, others take their place. Their objects are
// *unstructured.Unstructured, with apiVersion and kind.
type Custom struct {
	// ListKind is the kind of lists: "CronTabList".
	ListKind string
	// StoredVersion is the version in which objects are stored.
	StoredVersion string
	// Terminating: the definition is being deleted, and nothing is created any more.
	Terminating bool
	// ShownVerbs are what discovery shows in place of the row's verbs; nil: these.
	ShownVerbs []string
	// Deprecation is a warning that every answer carries; "": none.
	Deprecation string
	// Replaced is closed when the row is no longer served as it is.
	Replaced <-chan struct{}

	// Show returns stored objects, whichever version they have and whichever
	// schema they were written under, as the row shows them. It never changes its
	// arguments. It may call a conversion webhook: it may take long, and fail.
	Show func(stored []Object) ([]Object, error)
	// Store returns an object of the row, which it may change, in the version in
	// which objects are stored. It may take long, and fail.
	Store func(obj Object) (Object, error)

	// Coerce makes of an object that was sent one of the row's: what the schema
	// does not know is dropped and, with report, named ("spec.foo").
	Coerce func(obj Object, report bool) (unknown []string, err error)

	// Owners tracks who owns the fields that are written through a subresource, or
	// with "" through the object itself.
	Owners func(subresource string) (*managedfields.FieldManager, error)
	// Replicas is where, in each version, the scale subresource's number stands.
	Replicas managedfields.ResourcePathMappings
}

// List is the kind of the row's lists.
func (r *Resource) List() string {
	if r.Custom != nil {
		return r.Custom.ListKind
	}
	return r.KindName + "List"
}
