// Package crd makes rows of the catalogue from CustomResourceDefinitions: for each
// served version what api/<group> says of built-in kinds in Go, said by a schema
// instead. apiserver serves these rows with the same verbs as any other. Until an
// object of a definition is read or written, it costs little more than its names:
// schemas, validation rules and printer columns are compiled when they are first
// used. The rules themselves are those of k8s.io/apiextensions-apiserver. The
// package never reads or writes the cluster's state; it calls conversion webhooks.
package crd

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/api"
)

// Config is what definitions need of their surroundings.
type Config struct {
	// Converter returns what converts between the versions of a definition.
	Converter func(*apiextensionsv1.CustomResourceDefinition) (runtime.ObjectConvertor, error)
	// Meta returns the schemas of the types in k8s.io/apimachinery, by the name under
	// which OpenAPI v3 documents have them.
	Meta func() (map[string]*spec.Schema, error)
}

// Definition is what is served for one CustomResourceDefinition at one time.
type Definition struct {
	Name     string // "crontabs.stable.example.com"
	Revision int64  // of the object that it was last compared with

	// Rows are the served versions, in the order of the definition; none while it
	// is not established.
	Rows []*api.Resource
	// Stored shows objects as they are stored, whichever version that is, without
	// looking at a schema: for those that need only their metadata. It stays the
	// same as long as the names do. Nil while the definition is not established.
	Stored *api.Resource

	identity identity
	config   Config
	load     atomic.Pointer[func() *apiextensionsv1.CustomResourceDefinition]
	replaced chan struct{}
	compile  func() (*compiled, error)
	docs     documents
}

// identity is all of a definition that matters to its rows.
type identity struct {
	uid         types.UID
	generation  int64
	established bool
	terminating bool
	names       apiextensionsv1.CustomResourceDefinitionNames // accepted
	settled     bool                                          // these are all
}

func identityOf(d *apiextensionsv1.CustomResourceDefinition) identity {
	return identity{
		uid: d.UID, generation: d.Generation,
		established: apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established),
		terminating: d.DeletionTimestamp != nil || apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Terminating),
		names:       d.Status.AcceptedNames, settled: AllNames(d),
	}
}

// New returns what is served for d. old is what it replaces, or nil.
func New(c Config, d *apiextensionsv1.CustomResourceDefinition, old *Definition) *Definition {
	def := &Definition{Name: d.Name, identity: identityOf(d), config: c, replaced: make(chan struct{})}
	def.identity.names = *def.identity.names.DeepCopy()
	def.compile = sync.OnceValues(def.compileNow)
	if !def.identity.established {
		return def
	}
	stored, err := apihelpers.GetCRDStorageVersion(d)
	if err != nil {
		return def // validation does not let it come to this
	}
	if def.Stored = def.storedRow(d, stored); old != nil && old.Stored != nil && sameStored(old.Stored, def.Stored) && old.identity.uid == d.UID {
		def.Stored = old.Stored
	}
	for i := range d.Spec.Versions {
		if v := &d.Spec.Versions[i]; v.Served {
			def.Rows = append(def.Rows, def.row(d, v))
		}
	}
	return def
}

// Is tells whether d would be served in the same way.
func (def *Definition) Is(d *apiextensionsv1.CustomResourceDefinition) bool {
	return reflect.DeepEqual(def.identity, identityOf(d))
}

// Seen notes the newest object that is served in this way, and how to get it again
// when its schemas are needed.
func (def *Definition) Seen(revision int64, load func() *apiextensionsv1.CustomResourceDefinition) {
	def.Revision = revision
	def.load.Store(&load)
}

func (def *Definition) object() *apiextensionsv1.CustomResourceDefinition {
	return (*def.load.Load())()
}

// Replace says that the definition's rows are no longer served as they are.
func (def *Definition) Replace() { close(def.replaced) }

// Row returns the row of a served version, or nil.
func (def *Definition) Row(version string) *api.Resource {
	for _, r := range def.Rows {
		if r.Version == version {
			return r
		}
	}
	return nil
}

// Prefix is where a definition's objects are stored, below /registry/.
func Prefix(d *apiextensionsv1.CustomResourceDefinition) string {
	return d.Spec.Group + "/" + d.Spec.Names.Plural
}

// names are the parts of a row that all versions share.
func (def *Definition) names(d *apiextensionsv1.CustomResourceDefinition, version string) *api.Resource {
	names := &def.identity.names
	return &api.Resource{
		Group: d.Spec.Group, Version: version, Name: names.Plural, KindName: names.Kind, Singular: names.Singular,
		Short: names.ShortNames, Categories: names.Categories,
		Namespaced: d.Spec.Scope == apiextensionsv1.NamespaceScoped, Prefix: Prefix(d),
	}
}

// leaving are the verbs of a resource whose definition is being deleted, as
// discovery shows them.
var leaving = []string{"delete", "deletecollection", "get", "list", "watch"}

func (def *Definition) row(d *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) *api.Resource {
	r := def.names(d, v.Name)
	kind := &customKind{def: def, version: v.Name, gvk: r.GVK(), listKind: def.identity.names.ListKind}
	if v.Subresources != nil {
		kind.status = v.Subresources.Status != nil
		if v.Subresources.Scale != nil {
			kind.scale = v.Subresources.Scale.DeepCopy()
		}
	}
	kind.columns = columnsOf(v)
	kind.fields = newFields(v.SelectableFields)
	r.Kind = kind.erased()
	r.Custom = &api.Custom{
		ListKind: kind.listKind, StoredVersion: def.Stored.Version, Terminating: def.identity.terminating, Replaced: def.replaced,
		Show: kind.show, Store: kind.store, Coerce: kind.coerce,
		Owners: kind.owners(), Replicas: replicasPaths(d),
	}
	if v.Deprecated {
		r.Custom.Deprecation = deprecation(d, v)
	}
	if def.identity.terminating {
		r.Custom.ShownVerbs = leaving
	}
	return r
}

func (def *Definition) storedRow(d *apiextensionsv1.CustomResourceDefinition, version string) *api.Resource {
	r := def.names(d, version)
	r.Kind = bareKind(r.GVK(), def.identity.names.ListKind)
	return r
}

func sameStored(a, b *api.Resource) bool {
	return a.GVK() == b.GVK() && a.Name == b.Name && a.Namespaced == b.Namespaced && a.Prefix == b.Prefix
}

// deprecation is the warning about a version: the definition's own, or one that
// names the newest version that is not deprecated.
func deprecation(d *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	var better []string
	for _, other := range d.Spec.Versions {
		if other.Served && !other.Deprecated && version.CompareKubeAwareVersionStrings(other.Name, v.Name) > 0 {
			better = append(better, other.Name)
		}
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.Spec.Group, v.Name, d.Spec.Names.Kind)
	if len(better) > 0 {
		text += fmt.Sprintf("; use %s/%s %s", d.Spec.Group, slices.MaxFunc(better, version.CompareKubeAwareVersionStrings), d.Spec.Names.Kind)
	}
	return text
}

// apiVersion of a version of the definition's group.
func apiVersion(gvk schema.GroupVersionKind) string { return gvk.GroupVersion().String() }

// segments of a simple path into an object: ".spec.replicas".
func segments(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// Group of the definition's resource.
func (def *Definition) Group() string {
	_, group, _ := strings.Cut(def.Name, ".")
	return group
}

// Settled tells whether the definition has the names that it asks for.
func (def *Definition) Settled() bool { return def.identity.settled }
