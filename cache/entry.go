package cache

import (
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
)

// Entry is one object at one revision: a small header, its encoded forms, and
// the typed object, decoded when somebody asks. Entries never change, nor does
// anything that they hand out; whoever wants to change an object copies it.
type Entry struct {
	codec     *codec
	namespace string
	name      string
	uid       types.UID
	revision  int64
	created   int64 // revision that created the key; 0: not known
	labels    pairs
	values    []string // of the selectable fields, in the order of codec.fields
	broken    error    // why the stored value cannot be decoded; then there is nothing else

	// message is the object as a protobuf message (custom resources: as JSON),
	// its resourceVersion included. Always there unless broken.
	message []byte

	// Forms that can be made again from message, and are dropped when nobody
	// has used them for a while.
	object atomic.Pointer[api.Object]
	json   atomic.Pointer[[]byte]
	used   atomic.Bool // since the last sweep
	// shown is the entry as the row that is a view of this one shows it.
	shown atomic.Pointer[Entry]
}

// Resource returns the row whose version the entry has.
func (e *Entry) Resource() *api.Resource { return e.codec.row }

// Namespace returns metadata.namespace.
func (e *Entry) Namespace() string { return e.namespace }

// Name returns metadata.name.
func (e *Entry) Name() string { return e.name }

// UID returns metadata.uid.
func (e *Entry) UID() types.UID { return e.uid }

// Revision returns the revision of the entry's write, which is its resourceVersion.
func (e *Entry) Revision() int64 { return e.revision }

// Key returns where the object is stored.
func (e *Entry) Key() string { return e.codec.stored.Key(e.namespace, e.name) }

// Labels returns the object's labels, for selectors.
func (e *Entry) Labels() labels.Labels { return e.labels }

// Fields returns the object's selectable fields, metadata.name and
// metadata.namespace among them.
func (e *Entry) Fields() fields.Fields { return entryFields{e} }

// Err says why the stored value cannot be decoded; nil for a sound entry. A
// broken entry has a namespace, a name and a revision, and nothing else.
func (e *Entry) Err() error { return e.broken }

// String names the entry in logs.
func (e *Entry) String() string {
	if e.namespace == "" {
		return fmt.Sprintf("%s %s", e.codec.row, e.name)
	}
	return fmt.Sprintf("%s %s/%s", e.codec.row, e.namespace, e.name)
}

// field returns the value of a selectable field.
func (e *Entry) field(name string) (string, bool) {
	switch name {
	case "metadata.name":
		return e.name, true
	case "metadata.namespace":
		return e.namespace, true
	}
	if i, ok := e.codec.fieldIndex[name]; ok && i < len(e.values) {
		return e.values[i], true
	}
	return "", false
}

type entryFields struct{ e *Entry }

func (f entryFields) Has(name string) bool { _, ok := f.e.field(name); return ok }

func (f entryFields) Get(name string) string { v, _ := f.e.field(name); return v }

// pairs are labels sorted by key: a third of a map's memory.
type pairs []pair

type pair struct{ key, value string }

func (p pairs) Has(key string) bool { _, ok := p.Lookup(key); return ok }

func (p pairs) Get(key string) string { v, _ := p.Lookup(key); return v }

func (p pairs) Lookup(key string) (string, bool) {
	for i := range p {
		if p[i].key == key {
			return p[i].value, true
		}
	}
	return "", false
}
