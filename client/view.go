package client

import (
	"cmp"
	"iter"
	"slices"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
)

// View is what a loop has learnt from a feed: all objects of its sources, by name
// and by the loop's own indexes, in a fixed order. It holds pointers, never
// copies. The goroutine that applies batches owns it; nobody else may read it
// meanwhile.
type View struct {
	tables   map[*api.Resource]*viewTable
	revision int64
}

// Index finds objects of one resource by keys that are made from them.
type Index struct {
	Name     string
	Resource *api.Resource
	Keys     func(obj api.Object) []string // deterministic; nil or empty: not indexed
}

type viewTable struct {
	byName  *btree.BTreeG[api.Object]
	indexes map[string]*viewIndex
}

type viewIndex struct {
	keys    func(obj api.Object) []string
	buckets map[string][]api.Object // in order of namespace and name; none is empty
}

// NewView returns an empty view.
func NewView(indexes ...Index) *View {
	v := &View{tables: map[*api.Resource]*viewTable{}}
	for _, ix := range indexes {
		v.table(ix.Resource).indexes[ix.Name] = &viewIndex{keys: ix.Keys, buckets: map[string][]api.Object{}}
	}
	return v
}

func (v *View) table(r *api.Resource) *viewTable {
	t := v.tables[r]
	if t == nil {
		t = &viewTable{byName: btree.NewG(16, lessByName), indexes: map[string]*viewIndex{}}
		v.tables[r] = t
	}
	return t
}

func lessByName(a, b api.Object) bool { return compareNames(a, b) < 0 }

func compareNames(a, b api.Object) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// Apply takes in a batch.
func (v *View) Apply(b Batch) {
	for _, c := range b.Changes {
		t := v.table(c.Resource)
		if c.New == nil {
			t.remove(c.Old)
			continue
		}
		t.put(c.New)
	}
	v.revision = max(v.revision, b.Revision)
}

// Revision up to which the view has seen everything.
func (v *View) Revision() int64 { return v.revision }

func (t *viewTable) put(obj api.Object) {
	old, existed := t.byName.ReplaceOrInsert(obj)
	for _, ix := range t.indexes {
		if existed {
			ix.remove(old)
		}
		ix.put(obj)
	}
}

func (t *viewTable) remove(obj api.Object) {
	old, existed := t.byName.Delete(obj)
	if !existed {
		return
	}
	for _, ix := range t.indexes {
		ix.remove(old)
	}
}

func (ix *viewIndex) put(obj api.Object) {
	for _, key := range ix.keys(obj) {
		bucket := ix.buckets[key]
		i, found := slices.BinarySearchFunc(bucket, obj, compareNames)
		if found {
			bucket[i] = obj // the keys named it twice
			continue
		}
		ix.buckets[key] = slices.Insert(bucket, i, obj)
	}
}

func (ix *viewIndex) remove(obj api.Object) {
	for _, key := range ix.keys(obj) {
		bucket := ix.buckets[key]
		i, found := slices.BinarySearchFunc(bucket, obj, compareNames)
		if !found {
			continue
		}
		if len(bucket) == 1 {
			delete(ix.buckets, key)
			continue
		}
		ix.buckets[key] = slices.Delete(bucket, i, i+1)
	}
}

// Lookup returns the object of that name, or nil.
func (v *View) Lookup(r *api.Resource, namespace, name string) api.Object {
	t := v.tables[r]
	if t == nil {
		return nil
	}
	obj, _ := t.byName.Get(nameOnly{namespace: namespace, name: name})
	return obj
}

// Find returns the T of that name.
func Find[T api.Object](v *View, namespace, name string) (T, bool) {
	obj, ok := v.Lookup(api.For[T](), namespace, name).(T)
	return obj, ok
}

// All yields every T in a namespace ("": in all), in order of names.
func All[T api.Object](v *View, namespace string) iter.Seq[T] {
	return func(yield func(T) bool) {
		t := v.tables[api.For[T]()]
		if t == nil {
			return
		}
		t.byName.AscendGreaterOrEqual(nameOnly{namespace: namespace}, func(obj api.Object) bool {
			if namespace != "" && obj.GetNamespace() != namespace {
				return false
			}
			return yield(obj.(T))
		})
	}
}

// By yields every T that the index has under key, in order of names.
func By[T api.Object](v *View, index, key string) iter.Seq[T] {
	return func(yield func(T) bool) {
		t := v.tables[api.For[T]()]
		if t == nil || t.indexes[index] == nil {
			return
		}
		for _, obj := range t.indexes[index].buckets[key] {
			if !yield(obj.(T)) {
				return
			}
		}
	}
}

// Owners is an index key function: the UID of the controlling owner.
func Owners(obj api.Object) []string {
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Controller != nil && *ref.Controller {
			return []string{string(ref.UID)}
		}
	}
	return nil
}

// Namespaces is an index key function.
func Namespaces(obj api.Object) []string { return []string{obj.GetNamespace()} }

// nameOnly is a place in the order of objects.
type nameOnly struct {
	api.Object
	namespace, name string
}

func (n nameOnly) GetNamespace() string { return n.namespace }
func (n nameOnly) GetName() string      { return n.name }
func (n nameOnly) GetUID() types.UID    { return "" }
