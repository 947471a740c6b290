package cache

import (
	"encoding/json"
	"fmt"
	"sort"
	"sync/atomic"
	"unique"

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
	labels    pairs
	values    []unique.Handle[string] // of the selectable fields, in the order of codec.fields
	stale     bool                    // stored in another encoding than it would be now
	broken    error                   // why the stored value cannot be decoded; then there is no message

	// message is the object as a protobuf message (custom resources: as JSON),
	// its resourceVersion included.
	message []byte

	// Forms that can be made again from message; drop lets go of them.
	object atomic.Pointer[api.Object]
	json   atomic.Pointer[[]byte]
	shown  atomic.Pointer[[]*Entry] // as rows show it that are views of this one, or a custom resource's
	used   atomic.Bool              // a form was asked for since the last sweep
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

// String names the entry in logs and errors.
func (e *Entry) String() string {
	if e.namespace == "" {
		return fmt.Sprintf("%s %q", e.codec.row, e.name)
	}
	return fmt.Sprintf("%s %q in namespace %q", e.codec.row, e.name, e.namespace)
}

// Object returns the typed object, with resourceVersion and without apiVersion
// and kind. All callers share it: nobody changes it. A broken entry has none.
func (e *Entry) Object() api.Object {
	if p := e.object.Load(); p != nil {
		e.touch()
		return *p
	}
	if e.broken != nil {
		return nil
	}
	obj, err := e.codec.unmarshal(e.message)
	if err != nil {
		// The message was made by this process from an object.
		panic(fmt.Sprintf("cache: %s at %d: its own bytes cannot be decoded: %v", e, e.revision, err))
	}
	e.touch()
	if !e.object.CompareAndSwap(nil, &obj) {
		if p := e.object.Load(); p != nil {
			return *p
		}
	}
	return obj
}

// decoded is Object, without keeping what had to be decoded.
func (e *Entry) decoded() (api.Object, error) {
	if p := e.object.Load(); p != nil {
		return *p, nil
	}
	if e.broken != nil {
		return nil, e.broken
	}
	return e.codec.unmarshal(e.message)
}

// Custom tells that the entry has no protobuf form, and that its JSON has
// apiVersion and kind.
func (e *Entry) Custom() bool { return e.codec.custom }

// Protobuf returns the object as a bare protobuf message; nil for custom resources.
func (e *Entry) Protobuf() []byte {
	if e.codec.custom {
		return nil
	}
	return e.message
}

// JSON returns the object as a JSON object without apiVersion and kind (custom
// resources: with them). It is made once, by the first who asks.
func (e *Entry) JSON() ([]byte, error) {
	if e.codec.custom {
		return e.message, e.broken
	}
	if p := e.json.Load(); p != nil {
		e.touch()
		return *p, nil
	}
	obj, err := e.decoded()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e, err)
	}
	e.touch()
	e.json.CompareAndSwap(nil, &body)
	return body, nil
}

// As returns the entry as another row shows it: the row itself, its view, or a
// version of a custom resource. Of that one the answer may be long in coming, and
// broken: it may need a webhook (Show asks for many at once).
func (e *Entry) As(row *api.Resource) *Entry {
	if row == e.codec.row || e.broken != nil || row.View == nil && row.Custom == nil {
		return e
	}
	if shown := e.shownBy(row); shown != nil {
		return shown
	}
	if row.Custom != nil {
		return e.asCustom(row)
	}
	view := e.codec.view(row)
	shown, err := view.show(e)
	if err != nil {
		shown = &Entry{codec: view, namespace: e.namespace, name: e.name, revision: e.revision, broken: err}
	}
	e.touch()
	e.keepShown(shown)
	return shown
}

// At returns the entry with another revision: what a watcher is told of an
// object that was deleted, or left its selection, by the write at that revision.
func (e *Entry) At(revision int64) *Entry {
	at := &Entry{codec: e.codec, namespace: e.namespace, name: e.name, uid: e.uid, revision: revision,
		labels: e.labels, values: e.values, broken: e.broken}
	if e.broken == nil {
		at.message, at.broken = e.codec.stamp(e.message, revision)
	}
	return at
}

// touch marks that a form is in use. It writes only when that is news, so that
// readers on several cores do not fight for the line.
func (e *Entry) touch() {
	if !e.used.Load() {
		e.used.Store(true)
	}
}

// drop lets go of the forms that can be made again.
func (e *Entry) drop() {
	e.mustBeUnchanged()
	e.object.Store(nil)
	e.json.Store(nil)
	e.dropShown()
}

// age drops the forms if nobody used them since the last call.
func (e *Entry) age() {
	if !e.used.Swap(false) {
		e.drop()
	}
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
		return e.values[i].Value(), true
	}
	return "", false
}

type entryFields struct{ e *Entry }

func (f entryFields) Has(name string) bool { _, ok := f.e.field(name); return ok }

func (f entryFields) Get(name string) string { v, _ := f.e.field(name); return v }

// pairs are labels sorted by key, in a fraction of a map's memory: equal
// strings stand in memory once.
type pairs []pair

type pair struct{ key, value unique.Handle[string] }

func newPairs(m map[string]string) pairs {
	if len(m) == 0 {
		return nil
	}
	p := make(pairs, 0, len(m))
	for k, v := range m {
		p = append(p, pair{unique.Make(k), unique.Make(v)})
	}
	sort.Slice(p, func(i, j int) bool { return p[i].key.Value() < p[j].key.Value() })
	return p
}

func (p pairs) Has(key string) bool { _, ok := p.Lookup(key); return ok }

func (p pairs) Get(key string) string { v, _ := p.Lookup(key); return v }

func (p pairs) Lookup(key string) (string, bool) {
	for i := range p {
		if p[i].key.Value() == key {
			return p[i].value.Value(), true
		}
	}
	return "", false
}
