package cache

import "unique"

// probe returns an entry that stands where one with that field, namespace and
// name would.
func (t *Table) probe(value, namespace, name string) *Entry {
	e := &Entry{namespace: namespace, name: name, values: make([]unique.Handle[string], t.fieldPlace+1)}
	e.values[t.fieldPlace] = unique.Make(value)
	return e
}

// lessByField orders by the indexed field, then by name. Broken entries, which
// have no fields, stand first.
func (t *Table) lessByField(a, b *Entry) bool {
	va, oka := t.value(a)
	vb, okb := t.value(b)
	if oka != okb {
		return !oka
	}
	if va != vb {
		return va < vb
	}
	return lessByName(a, b)
}

// value returns an entry's indexed field.
func (t *Table) value(e *Entry) (string, bool) {
	if t.fieldPlace >= len(e.values) {
		return "", false
	}
	return e.values[t.fieldPlace].Value(), true
}
