package cache

import (
	"iter"
	"strings"
	"sync"

	"github.com/google/btree"

	"skiff/api"
)

// indexed names, per resource, the selectable field by which nodes ask.
var indexed = map[string]string{"pods": "spec.nodeName"}

// followed are the resources that components follow from the start on, as a whole:
// what was decoded to read them from the store need not be decoded again.
var followed = map[string]bool{"pods": true, "nodes": true}

// Table is one resource's part of the cache.
type Table struct {
	cache  *Cache
	codec  *codec
	number int // its place in state.versions

	field      string // the indexed field, or ""
	fieldPlace int    // its place in Entry.values

	// Only the goroutine of Cache.Run touches work: the newest state, of which
	// published versions are clones.
	work version

	// Guarded by cache.mu.
	history  history
	watchers interests

	pastMu sync.Mutex
	past   []pastVersion // states that were read lately, the last used first; guarded by pastMu
}

// version is one state of a table. A published one is never changed.
type version struct {
	byName  *btree.BTreeG[*Entry]
	byField *btree.BTreeG[*Entry] // by the indexed field, then by name; nil: there is none
}

// degree of the trees: a node is one or two cache lines' worth of pages.
const degree = 32

func newTable(c *Cache, row *api.Resource, number int) *Table {
	t := &Table{cache: c, codec: newCodec(row, row), number: number, watchers: newInterests()}
	if place, ok := t.codec.fieldIndex[indexed[row.Name]]; ok && row.Group == "" {
		t.field, t.fieldPlace = indexed[row.Name], place
	}
	t.work = t.newVersion()
	return t
}

func newTree() *btree.BTreeG[*Entry] { return btree.NewG(degree, lessByName) }

func (t *Table) newVersion() version {
	v := version{byName: newTree()}
	if t.field != "" {
		v.byField = btree.NewG(degree, t.lessByField)
	}
	return v
}

// Resource returns the row whose objects the table holds.
func (t *Table) Resource() *api.Resource { return t.codec.row }

// Field returns the indexed field, "" if there is none.
func (t *Table) Field() string { return t.field }

// Get returns the entry of an object in the newest state.
func (t *Table) Get(namespace, name string) (*Entry, bool) {
	return t.Snapshot().Get(namespace, name)
}

// Snapshot returns the newest state. It costs nothing.
func (t *Table) Snapshot() Snapshot {
	now := t.cache.state.Load()
	return Snapshot{Revision: now.revision, table: t, version: now.of(t)}
}

// clone returns a copy that shares all nodes. Nobody may clone or write v at the
// same time.
func (v *version) clone() *version {
	c := &version{byName: v.byName.Clone()}
	if v.byField != nil {
		c.byField = v.byField.Clone()
	}
	return c
}

// put makes e part of the version and returns what it replaces.
func (v *version) put(e *Entry) *Entry {
	old, existed := v.byName.ReplaceOrInsert(e)
	if v.byField != nil {
		if existed {
			v.byField.Delete(old)
		}
		v.byField.ReplaceOrInsert(e)
	}
	if !existed {
		return nil
	}
	return old
}

// remove takes an entry out of the version and returns it.
func (v *version) remove(e *Entry) *Entry {
	old, existed := v.byName.Delete(e)
	if !existed {
		return nil
	}
	if v.byField != nil {
		v.byField.Delete(old)
	}
	return old
}

// Snapshot is one state of a table; it never changes.
type Snapshot struct {
	Revision int64
	table    *Table
	version  *version
}

// Len returns the number of objects.
func (s Snapshot) Len() int { return s.version.byName.Len() }

// Same tells whether two snapshots of a table are of one state.
func (s Snapshot) Same(other Snapshot) bool { return s.version == other.version }

// Get returns the entry of an object.
func (s Snapshot) Get(namespace, name string) (*Entry, bool) {
	return s.version.byName.Get(&Entry{namespace: namespace, name: name})
}

// All iterates over the entries of a namespace ("": of all), in the order of
// their keys.
func (s Snapshot) All(namespace string) iter.Seq[*Entry] { return s.From(namespace, "", "") }

// From iterates, in the order of keys, over the entries of a namespace ("": all)
// that are not before (fromNamespace, fromName).
func (s Snapshot) From(namespace, fromNamespace, fromName string) iter.Seq[*Entry] {
	from := &Entry{namespace: fromNamespace, name: fromName}
	if namespace != "" && compareNamespaces(fromNamespace, namespace) < 0 {
		from = &Entry{namespace: namespace}
	}
	return func(yield func(*Entry) bool) {
		s.version.byName.AscendGreaterOrEqual(from, func(e *Entry) bool {
			if namespace != "" && e.namespace != namespace {
				return false
			}
			return yield(e)
		})
	}
}

// Indexed iterates over the entries whose indexed field has the value and that
// are not before (fromNamespace, fromName), in the order of keys. The table must
// have an indexed field (Table.Field).
func (s Snapshot) Indexed(value, fromNamespace, fromName string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		t := s.table
		from := t.probe(value, fromNamespace, fromName)
		s.version.byField.AscendGreaterOrEqual(from, func(e *Entry) bool {
			return e.values[t.fieldPlace].Value() == value && yield(e)
		})
	}
}

// compareNamespaces orders namespaces as the store orders keys that begin with
// them: the slash after a namespace takes part.
func compareNamespaces(a, b string) int {
	if a == b {
		return 0
	}
	switch {
	case a == "":
		return -1
	case b == "":
		return 1
	case strings.HasPrefix(b, a):
		return int('/') - int(b[len(a)])
	case strings.HasPrefix(a, b):
		return int(a[len(b)]) - int('/')
	}
	return strings.Compare(a, b)
}

func lessByName(a, b *Entry) bool {
	if c := compareNamespaces(a.namespace, b.namespace); c != 0 {
		return c < 0
	}
	return a.name < b.name
}
