// Package api is the catalogue of what is served: one row per resource, with
// what api/<group> knows about its kind. apiserver serves exactly these rows (and
// custom resources, whose rows it makes itself); components name resources by
// them. It never does I/O.
package api

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api/kind"
)

// Object is an API object: a pointer to one of k8s.io/api's types.
type Object = kind.Object

// Resource is one row of the catalogue. Rows are made once and never changed.
type Resource struct {
	Group, Version, Name string // Name is the plural: "pods"
	KindName             string // "Pod"
	Singular             string
	Short                []string
	Categories           []string
	Namespaced           bool

	// Prefix is the resource's place in the store, below /registry/: "pods",
	// "services/specs". Empty: nothing is stored (TokenReview and the like).
	Prefix string

	// Kind is what is known of the kind. Its funcs work on the row's own Go type.
	Kind kind.Kind

	// Verbs served, sorted; nil means create, delete, deletecollection, get,
	// list, patch, update, watch.
	Verbs []string

	// Actions are subresources that are not the object itself under another
	// right ("status", "scale" and their like follow from Kind): log, exec,
	// binding, token, proxy …
	Actions []Action

	// View is set when this row shows the objects of another row in another
	// version or group: it has no storage of its own.
	View *View

	// Custom is set for custom resources.
	Custom *Custom

	// Inert says in a few words what is not acted on yet; each write is answered
	// with a Warning header that says so. Empty: it works.
	Inert string
}

// Action is a subresource that does something else than read and write the
// object itself.
type Action struct {
	Name  string                  // "exec"
	Kind  schema.GroupVersionKind // of its body or options, as discovery shows it
	Verbs []string                // sorted
}

// View says how a row's objects are made from those of the row that stores them.
type View struct {
	Of         schema.GroupVersionResource
	FromStored func(stored Object) Object // never changes its argument; may share parts of it
	ToStored   func(shown Object) Object

	// Judges: a write through the view is judged by the view's own Kind, not by
	// the one that is stored.
	Judges bool
}

// GVR returns the row's group, version and resource.
func (r *Resource) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name}
}

// GVK returns the row's group, version and kind.
func (r *Resource) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.KindName}
}

// GroupResource returns the row's group and resource, as errors name it.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Name}
}

// Key returns where the object is stored: /registry/<prefix>[/<namespace>]/<name>.
// With an empty name it is the prefix of all names, ending in a slash; with an
// empty namespace too, of the whole resource.
func (r *Resource) Key(namespace, name string) string {
	key := "/registry/" + r.Prefix + "/"
	if r.Namespaced && namespace != "" {
		key += namespace + "/"
	}
	return key + name
}

// String names the row as kubectl does: "deployments.apps".
func (r *Resource) String() string { return r.GroupResource().String() }

// Has tells whether the row serves the verb.
func (r *Resource) Has(verb string) bool {
	for _, v := range r.verbs() {
		if v == verb {
			return true
		}
	}
	return false
}

var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

func (r *Resource) verbs() []string {
	if r.Verbs != nil {
		return r.Verbs
	}
	return allVerbs
}

// Find returns the row of a group, version and resource, or nil.
func Find(gvr schema.GroupVersionResource) *Resource { return index.byGVR[gvr] }

// FindKind returns the row whose objects have that group, version and kind, or nil.
func FindKind(gvk schema.GroupVersionKind) *Resource { return index.byGVK[gvk] }

// Of returns the row of an object's Go type: Of(&corev1.Pod{}) is the row pods.
// It panics for a type that no row has, since that is a mistake in the program.
func Of(obj runtime.Object) *Resource {
	r := index.byType[reflect.TypeOf(obj)]
	if r == nil {
		panic(fmt.Sprintf("api: no resource has the type %T", obj))
	}
	return r
}

// Known is Of, but returns nil for a type that no row has.
func Known(obj runtime.Object) *Resource { return index.byType[reflect.TypeOf(obj)] }

// For is Of without an object: For[*corev1.Pod]() is the row pods.
func For[T Object]() *Resource {
	r := index.byType[reflect.TypeFor[T]()]
	if r == nil {
		panic(fmt.Sprintf("api: no resource has the type %s", reflect.TypeFor[T]()))
	}
	return r
}

// index finds rows; it is made once, from the literal Catalogue.
var index = newIndex(Catalogue)

type rowIndex struct {
	byGVR  map[schema.GroupVersionResource]*Resource
	byGVK  map[schema.GroupVersionKind]*Resource
	byType map[reflect.Type]*Resource
}

func newIndex(rows []*Resource) rowIndex {
	ix := rowIndex{
		byGVR:  make(map[schema.GroupVersionResource]*Resource, len(rows)),
		byGVK:  make(map[schema.GroupVersionKind]*Resource, len(rows)),
		byType: make(map[reflect.Type]*Resource, len(rows)),
	}
	for _, r := range rows {
		ix.byGVR[r.GVR()] = r
		ix.byGVK[r.GVK()] = r
		ix.byType[reflect.TypeOf(r.Kind.New())] = r
	}
	return ix
}
