package apiserver

import (
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/cache"
)

// selection is what a list or a watch is of: a part of a table that the cache
// finds by itself, and selectors that are applied to what it finds.
type selection struct {
	row   *api.Resource // whose version is shown
	table *cache.Table

	namespace string // "": all
	name      string // "": all; with a namespace, if the resource has namespaces
	indexed   bool   // only entries whose indexed field has the value
	value     string

	labels labels.Selector // nil: all
	fields fields.Selector // nil: all
}

// newSelection takes out of the selectors what the cache can find by itself.
func newSelection(row *api.Resource, t *cache.Table, namespace string, label labels.Selector, field fields.Selector) selection {
	s := selection{row: row, table: t, namespace: namespace}
	if label != nil && !label.Empty() {
		s.labels = label
	}
	if field == nil || field.Empty() {
		return s
	}
	s.fields = field
	if v, ok := field.RequiresExactMatch("metadata.namespace"); ok && row.Namespaced && namespace == "" {
		s.namespace = v
	}
	if v, ok := field.RequiresExactMatch("metadata.name"); ok && (s.namespace != "" || !row.Namespaced) {
		s.name = v
	}
	if v, ok := field.RequiresExactMatch(t.Field()); ok && t.Field() != "" && row == t.Resource() {
		s.indexed, s.value = true, v
	}
	return s
}

// parseSelection reads the selectors of a request.
func parseSelection(r *Request, t *cache.Table) (selection, error) {
	label, err := labels.Parse(r.ListOptions.LabelSelector)
	if err != nil {
		return selection{}, apierrors.NewBadRequest(err.Error())
	}
	field, err := fields.ParseSelector(r.ListOptions.FieldSelector)
	if err != nil {
		return selection{}, apierrors.NewBadRequest(err.Error())
	}
	return newSelection(r.Resource, t, r.Namespace, label, field), nil
}

// all tells that there are no selectors.
func (s *selection) all() bool { return s.labels == nil && s.fields == nil }

// pick returns the entry as the selection's row shows it, or nil if it is not
// selected. A broken entry is always selected: its reader must be told.
func (s *selection) pick(e *cache.Entry) *cache.Entry {
	if s.namespace != "" && e.Namespace() != s.namespace || s.name != "" && e.Name() != s.name {
		return nil
	}
	if e.Err() != nil {
		return e
	}
	if s.labels != nil && !s.labels.Matches(e.Labels()) {
		return nil
	}
	e = e.As(s.row)
	if s.fields != nil && e.Err() == nil && !s.fields.Matches(e.Fields()) {
		return nil
	}
	return e
}

// entries iterates, in order and from a place on, over the entries among which
// the selected ones are.
func (s *selection) entries(in cache.Snapshot, from place) iter.Seq[*cache.Entry] {
	switch {
	case s.name != "":
		return func(yield func(*cache.Entry) bool) {
			if e, ok := in.Get(s.namespace, s.name); ok {
				yield(e)
			}
		}
	case s.indexed:
		return in.Indexed(s.value, from.namespace, from.name)
	}
	return in.From(s.namespace, from.namespace, from.name)
}

// place is where in a table a part of it begins.
type place struct{ namespace, name string }

// interest is what the cache is asked to watch.
func (s *selection) interest() cache.Interest {
	return cache.Interest{Table: s.table, Namespace: s.namespace, Name: s.name, Indexed: s.indexed, Value: s.value}
}
