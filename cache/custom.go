package cache

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api"
	"skiff/api/kind"
)

// Custom resources. What they are is told by objects that are in the cache
// themselves, and may change at any time; so the cache knows nothing of it. A key
// whose first segment has a dot and is not a built-in row's is that of a custom
// resource: its table is made when the key, or a request, first names it, and
// holds what is stored as it is stored. Rows show that (Entry.As) in the version
// and under the schema of the day.

// tableSet is all tables there are; a published one is not changed.
type tableSet struct {
	list     []*Table          // by Table.number
	byPrefix map[string]*Table // one or two segments of the key
}

// all returns the tables.
func (c *Cache) all() *tableSet { return c.tables.Load() }

// customPrefix tells whether a row's prefix is a custom resource's.
func customPrefix(prefix string) bool {
	group, name, ok := strings.Cut(prefix, "/")
	return ok && strings.Contains(group, ".") && name != "" && !strings.Contains(name, "/")
}

// customTable returns the table of a custom resource's prefix, which is made if
// it is not there yet. Cache.mu must not be held.
func (c *Cache) customTable(prefix string) *Table {
	if t := c.all().byPrefix[prefix]; t != nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.all()
	if t := have.byPrefix[prefix]; t != nil {
		return t
	}
	group, name, _ := strings.Cut(prefix, "/")
	// Some are namespaced and some are not: with a namespace and without one,
	// keys are as they should be.
	t := newTable(c, &api.Resource{Group: group, Name: name, Prefix: prefix, Namespaced: true, Kind: storedKind}, len(have.list))
	// Nothing has happened to it since the cache began: it would be here.
	t.history.start = c.began
	next := &tableSet{list: append(have.list[:len(have.list):len(have.list)], t), byPrefix: maps.Clone(have.byPrefix)}
	next.byPrefix[prefix] = t
	c.tables.Store(next)
	return t
}

// storedKind is what the cache must know of the kind of stored custom objects.
var storedKind = kind.Kind{New: func() kind.Object { return &unstructured.Unstructured{Object: map[string]any{}} }}

// nothing is the state of tables that are younger than the state that is asked.
var nothing = &version{byName: newTree()}

// of returns a table's part of the state.
func (s *state) of(t *Table) *version {
	if t.number < len(s.versions) {
		return s.versions[t.number]
	}
	return nothing
}

// shows are the codecs of the rows that show a custom resource's stored objects.
type shows struct {
	mu     sync.Mutex
	codecs []*codec // one for each version at most; guarded by mu
}

// of returns the codec of a row; that of a row which it replaces is forgotten.
func (s *shows) of(row *api.Resource, stored *api.Resource) *codec {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.codecs {
		if c.row == row {
			return c
		}
		if c.row.Version == row.Version {
			s.codecs[i] = newCodec(row, stored)
			return s.codecs[i]
		}
	}
	c := newCodec(row, stored)
	s.codecs = append(s.codecs, c)
	return c
}

// Show returns the entries as a custom resource's row shows them, with one call
// of its conversion for all. It leaves alone those that are shown already, and
// those that are broken. An error is about all.
func Show(row *api.Resource, entries []*Entry) ([]*Entry, error) {
	out := make([]*Entry, len(entries))
	var missing []int
	var stored []api.Object
	for i, e := range entries {
		out[i] = e
		if row.Custom == nil || e.codec.row == row || e.broken != nil {
			continue
		}
		if shown := e.shownBy(row); shown != nil {
			out[i] = shown
			continue
		}
		obj, err := e.decoded()
		if err != nil {
			return nil, err
		}
		missing, stored = append(missing, i), append(stored, obj)
	}
	if len(missing) == 0 {
		return out, nil
	}
	shown, err := row.Custom.Show(stored)
	if err != nil {
		return nil, err
	}
	for n, i := range missing {
		if out[i], err = entries[i].keep(row, shown[n], stored[n]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// asCustom is As for a custom resource's row.
func (e *Entry) asCustom(row *api.Resource) *Entry {
	shown, err := Show(row, []*Entry{e})
	if err != nil {
		// It is not kept: a webhook that fails now may work later.
		return &Entry{codec: e.codec.shows.of(row, e.codec.stored), namespace: e.namespace, name: e.name, uid: e.uid,
			revision: e.revision, labels: e.labels, broken: err}
	}
	return shown[0]
}

// keep makes the entry of an object that row shows of a stored one, and keeps it
// with that.
func (e *Entry) keep(row *api.Resource, obj, stored api.Object) (*Entry, error) {
	obj.SetResourceVersion(formatRevision(e.revision))
	message := e.message
	if obj != stored {
		var err error
		if message, err = encodeCustom(obj); err != nil {
			return nil, fmt.Errorf("show %s as %s: %w", e, row.GVK(), err)
		}
		if string(message) == string(e.message) {
			message = e.message
		}
	}
	shown := e.codec.shows.of(row, e.codec.stored).entry(e.namespace, e.name, obj, message, e.revision)
	shown.object.Store(&obj)
	shown.used.Store(true)
	e.touch()
	e.keepShown(shown)
	return shown, nil
}

// shownBy returns the entry as a row shows it, if somebody asked before.
func (e *Entry) shownBy(row *api.Resource) *Entry {
	list := e.shown.Load()
	if list == nil {
		return nil
	}
	for _, s := range *list {
		if s.codec.row == row {
			s.touch()
			e.touch()
			return s
		}
	}
	return nil
}

// keepShown keeps an entry as its row shows it, in place of those of the row that
// it replaces.
func (e *Entry) keepShown(shown *Entry) {
	for {
		have := e.shown.Load()
		next := []*Entry{shown}
		if have != nil {
			for _, s := range *have {
				if s.codec.row.Version != shown.codec.row.Version || s.codec.row.Group != shown.codec.row.Group {
					next = append(next, s)
				}
			}
		}
		if e.shown.CompareAndSwap(have, &next) {
			return
		}
	}
}

// dropShown lets go of what is shown, but for the headers that share the entry's
// bytes: these cost little, and making them anew costs decoding.
func (e *Entry) dropShown() {
	have := e.shown.Load()
	if have == nil {
		return
	}
	var keep []*Entry
	for _, s := range *have {
		if e.codec.custom && len(s.message) > 0 && &s.message[0] == &e.message[0] {
			s.mustBeUnchanged()
			s.object.Store(nil)
			keep = append(keep, s)
		}
	}
	if keep == nil {
		e.shown.Store(nil)
		return
	}
	e.shown.Store(&keep)
}

// encodeCustom returns an object's JSON, its resourceVersion included. Equal
// objects have equal bytes.
func encodeCustom(obj runtime.Object) ([]byte, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("encode a custom object: it is a %T", obj)
	}
	return encodeMap(u.Object)
}

func encodeMap(m map[string]any) ([]byte, error) { return json.Marshal(m) }

// DepositAs is Deposit of an object that is row's: the table's own, or a custom
// resource's. Errors of its conversion are returned as they are.
func (t *Table) DepositAs(row *api.Resource, obj api.Object) (*Deposit, error) {
	if row.Custom == nil {
		return t.Deposit(obj)
	}
	stored, err := row.Custom.Store(obj)
	if err != nil {
		return nil, err
	}
	d, err := t.Deposit(stored)
	if err != nil {
		return nil, err
	}
	if stored == obj {
		d.row = row // what is stored is what the row shows
	}
	return d, nil
}

// customAt returns the entry of a deposited custom object.
func (d *Deposit) customAt(revision int64) (*Entry, error) {
	d.obj.SetResourceVersion(formatRevision(revision))
	raw, err := encodeCustom(d.obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %q: %w", d.table.codec.row, d.name, err)
	}
	e := d.table.codec.entry(d.namespace, d.name, d.obj, raw, revision)
	e.object.Store(&d.obj)
	e.used.Store(true)
	if d.row != nil {
		if _, err := e.keep(d.row, d.obj, d.obj); err != nil {
			return nil, err
		}
	}
	return e, nil
}
