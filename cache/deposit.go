package cache

import (
	"bytes"
	"fmt"
	"sync"

	"skiff/api"
)

// Deposit is an object on its way into the store: the cache takes it from here
// when the store's watch shows the write, so that it need not be decoded, and
// writer and cache share one Entry. Whoever is first, the writer with the
// store's answer or the cache with the event, makes it.
type Deposit struct {
	table           *Table
	key             string
	namespace, name string

	// Value is what the store is to be given.
	Value []byte

	mu    sync.Mutex
	obj   api.Object    // not ours any more when entry is set
	row   *api.Resource // that shows a custom object as it is stored; nil: none
	raw   []byte        // obj's bytes without resourceVersion
	entry *Entry
}

// pending are the deposits that neither were seen in the watch nor failed.
type pending struct {
	mu    sync.Mutex
	byKey map[string][]*Deposit
}

// Deposit encodes obj, which the cache takes over: the caller must not touch it
// afterwards. The caller gives d.Value to the store and then calls Commit or
// Abort.
func (t *Table) Deposit(obj api.Object) (*Deposit, error) {
	d := &Deposit{table: t, name: obj.GetName(), obj: obj}
	if t.codec.row.Namespaced {
		d.namespace = obj.GetNamespace() // of custom resources without one: ""
	}
	var err error
	if d.raw, err = t.codec.marshal(obj); err != nil {
		return nil, fmt.Errorf("encode %s %q: %w", t.codec.row, d.name, err)
	}
	d.Value = t.codec.wrap(d.raw)
	d.key = t.codec.row.Key(d.namespace, d.name)
	p := &t.cache.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byKey[d.key] = append(p.byKey[d.key], d)
	return d, nil
}

// Key is where Value is to be stored.
func (d *Deposit) Key() string { return d.key }

// Namespace returns the object's namespace.
func (d *Deposit) Namespace() string { return d.namespace }

// Name returns the object's name.
func (d *Deposit) Name() string { return d.name }

// Same tells whether storing the deposit over e would change nothing.
func (d *Deposit) Same(e *Entry) bool {
	if e.broken != nil || e.stale {
		return false
	}
	raw, err := d.table.codec.stamp(d.raw, e.revision)
	return err == nil && bytes.Equal(raw, e.message)
}

// Commit returns the entry of the write, which the store made at revision.
func (d *Deposit) Commit(revision int64) (*Entry, error) {
	entry, err := d.at(revision)
	if err != nil {
		return nil, err
	}
	if d.table.cache.Revision() >= revision {
		d.table.cache.pending.drop(d) // the event is past: it will not be asked for
	}
	return entry, nil
}

// Abort takes the deposit back: the write failed, or it is not known to have
// happened (then the event, if there is one, is decoded).
func (d *Deposit) Abort() { d.table.cache.pending.drop(d) }

// at returns the entry of the write at revision. If the deposit was taken for
// another write of the same bytes, that entry is stamped anew.
func (d *Deposit) at(revision int64) (*Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.entry != nil {
		if d.entry.revision == revision {
			return d.entry, nil
		}
		other := d.entry.At(revision)
		return other, other.broken
	}
	if d.table.codec.custom {
		e, err := d.customAt(revision)
		d.entry = e
		return e, err
	}
	raw, err := d.table.codec.stamp(d.raw, revision)
	if err != nil {
		return nil, fmt.Errorf("encode %s %q: %w", d.table.codec.row, d.name, err)
	}
	d.obj.SetResourceVersion(formatRevision(revision))
	e := d.table.codec.entry(d.namespace, d.name, d.obj, raw, revision)
	e.object.Store(&d.obj)
	e.used.Store(true)
	d.entry = e
	return e, nil
}

// Newest returns the entry of an object as the newest state has it or, where
// this process has written it since, as it wrote it. Somebody else may have
// written since: only the store knows.
func (t *Table) Newest(namespace, name string) (*Entry, bool) {
	written := t.cache.pending.written(t.codec.row.Key(namespace, name))
	if written != nil && written.revision > t.cache.Revision() { // else the cache has seen that write, and maybe more
		return written, true
	}
	return t.Get(namespace, name)
}

// written returns the newest entry of the deposits of a key that are known to
// be stored; nil: there is none.
func (p *pending) written(key string) (newest *Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.byKey[key] {
		d.mu.Lock()
		if e := d.entry; e != nil && (newest == nil || e.revision > newest.revision) {
			newest = e
		}
		d.mu.Unlock()
	}
	return newest
}

// take returns the oldest deposit of the key that has this value, if there is
// one, and forgets it.
func (p *pending) take(key string, value []byte) *Deposit {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.byKey[key] {
		if bytes.Equal(d.Value, value) {
			p.dropLocked(d)
			return d
		}
	}
	return nil
}

// forget drops the deposits of writes up to a revision: two writers may have
// given the same bytes, and the watch took the other's deposit.
func (p *pending) forget(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.byKey {
		for _, d := range list {
			if d.writtenBy(revision) {
				p.dropLocked(d)
			}
		}
	}
}

// writtenBy tells whether the deposit is known to be written at or before a revision.
func (d *Deposit) writtenBy(revision int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entry != nil && d.entry.revision <= revision
}

func (p *pending) drop(d *Deposit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(d)
}

func (p *pending) dropLocked(d *Deposit) {
	list := p.byKey[d.key]
	for i := range list {
		if list[i] == d {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(p.byKey, d.key)
		return
	}
	p.byKey[d.key] = list
}
