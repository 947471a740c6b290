package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
)

// model is a store that keeps every state it was ever in.
type model struct {
	states    []map[string]Entry // states[i] is the state at revision i+1
	events    []Event            // events[i] is of revision i+2
	compacted int64
}

func newModel() *model { return &model{states: []map[string]Entry{{}}} }

func (m *model) revision() int64             { return int64(len(m.states)) }
func (m *model) now() map[string]Entry       { return m.states[len(m.states)-1] }
func (m *model) at(r int64) map[string]Entry { return m.states[r-1] }

func (m *model) check(key string, c Condition) error {
	if c.Fence.Key != "" && m.now()[c.Fence.Key].Revision != c.Fence.Revision {
		return ErrFenced
	}
	if c.Revision != Any && m.now()[key].Revision != c.Revision {
		return ErrConflict
	}
	return nil
}

// write appends a state; value nil deletes.
func (m *model) write(key string, value []byte) int64 {
	old, existed := m.now()[key]
	next := maps.Clone(m.now())
	r := m.revision() + 1
	e := Event{Key: key, Value: value, Revision: r, Created: r}
	if existed {
		e.Created, e.Previous, e.PreviousRevision = old.Created, old.Value, old.Revision
	}
	delete(next, key)
	if value != nil {
		next[key] = Entry{Key: key, Value: value, Revision: r, Created: e.Created}
	}
	m.states, m.events = append(m.states, next), append(m.events, e)
	return r
}

func (m *model) put(key string, value []byte, c Condition) (int64, error) {
	if err := m.check(key, c); err != nil {
		return 0, err
	}
	return m.write(key, value), nil
}

func (m *model) del(key string, c Condition) (int64, error) {
	if err := m.check(key, c); err != nil {
		return 0, err
	}
	if _, ok := m.now()[key]; !ok {
		return 0, ErrNotFound
	}
	return m.write(key, nil), nil
}

func (m *model) list(prefix, from string, limit int, at int64) (Page, error) {
	switch {
	case at == 0:
		at = m.revision()
	case at > m.revision():
		return Page{}, ErrFuture
	case at < m.compacted:
		return Page{}, ErrCompacted
	}
	p := Page{Revision: at}
	for _, key := range slices.Sorted(maps.Keys(m.at(at))) {
		if strings.HasPrefix(key, prefix) && key >= from {
			p.Total++
			if limit == 0 || len(p.Entries) < limit {
				p.Entries = append(p.Entries, m.at(at)[key])
			}
		}
	}
	p.More = p.Total > int64(len(p.Entries))
	return p, nil
}

// testModel does random operations on the store and on a model, of which the
// store may be the continuation of an earlier run: everything is under a prefix
// of the run, and revisions are counted from where it began.
func testModel(t *testing.T, s Store) {
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		ctx := t.Context()
		root := fmt.Sprintf("/%d/", run)
		base, err := s.Revision(ctx)
		if err != nil {
			r.Fatal(err)
		}
		d := &duel{r: r, s: s, ctx: ctx, root: root, base: base - 1, m: newModel()}
		defer d.follow(r)()
		r.Repeat(map[string]func(*rapid.T){
			"put":     d.put,
			"delete":  d.delete,
			"get":     d.get,
			"list":    d.list,
			"compact": d.compact,
			"":        d.revision,
		})
	})
}

// duel is a store and a model that get the same operations. The model counts
// revisions from 1; the store is base ahead of it.
type duel struct {
	r    *rapid.T
	s    Store
	ctx  context.Context
	root string
	base int64
	m    *model
	live *reading // began with the duel
}

var duelKeys = []string{"a", "a/b", "b", "b/", "c", "c\xff"}

func (d *duel) key(r *rapid.T) string { return d.root + rapid.SampledFrom(duelKeys).Draw(r, "key") }

// somewhen is a revision of the model, or one that there is not.
func (d *duel) somewhen(r *rapid.T) int64 {
	return rapid.Int64Range(0, d.m.revision()+1).Draw(r, "revision")
}

func (d *duel) condition(r *rapid.T, key string) (model, store Condition) {
	pick := func(key, label string) int64 {
		switch rapid.IntRange(0, 3).Draw(r, label) {
		case 0:
			return 0
		case 1:
			return d.somewhen(r)
		}
		return d.m.now()[key].Revision
	}
	c := Condition{Revision: Any}
	if rapid.Bool().Draw(r, "conditional") {
		c.Revision = pick(key, "at")
	}
	if rapid.IntRange(0, 3).Draw(r, "fenced") == 0 {
		c.Fence.Key = d.key(r)
		c.Fence.Revision = pick(c.Fence.Key, "fence")
	}
	return c, d.shift(c)
}

// shift turns the model's revisions into the store's.
func (d *duel) shift(c Condition) Condition {
	if c.Revision > 0 {
		c.Revision += d.base
	}
	if c.Fence.Revision > 0 {
		c.Fence.Revision += d.base
	}
	return c
}

func (d *duel) same(r *rapid.T, what string, gotErr, wantErr error, got, want any) {
	if (gotErr == nil) != (wantErr == nil) || !errors.Is(gotErr, wantErr) {
		r.Fatalf("%s: error %v; want %v", what, gotErr, wantErr)
	}
	if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); wantErr == nil && g != w {
		r.Fatalf("%s:\n  %s\nwant\n  %s", what, g, w)
	}
}

func (d *duel) put(r *rapid.T) {
	key, value := d.key(r), rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(r, "value")
	mc, sc := d.condition(r, key)
	want, wantErr := d.m.put(key, append([]byte{}, value...), mc)
	got, err := d.s.Put(d.ctx, key, value, sc)
	d.same(r, "put", err, wantErr, got-d.base, want)
}

func (d *duel) delete(r *rapid.T) {
	key := d.key(r)
	mc, sc := d.condition(r, key)
	want, wantErr := d.m.del(key, mc)
	got, err := d.s.Delete(d.ctx, key, sc)
	d.same(r, "delete", err, wantErr, got-d.base, want)
}

func (d *duel) get(r *rapid.T) {
	key := d.key(r)
	want, ok := d.m.now()[key]
	var wantErr error
	if !ok {
		wantErr = ErrNotFound
	}
	got, err := d.s.Get(d.ctx, key)
	d.same(r, "get "+key, err, wantErr, d.entry(got), want)
}

// entry turns the store's revisions into the model's.
func (d *duel) entry(e Entry) Entry {
	e.Revision, e.Created = e.Revision-d.base, e.Created-d.base
	return e
}

func (d *duel) list(r *rapid.T) {
	prefix := d.prefix(r)
	from := ""
	if rapid.Bool().Draw(r, "from?") {
		from = d.key(r)
	}
	limit, at := rapid.IntRange(0, 4).Draw(r, "limit"), d.somewhen(r)
	want, wantErr := d.m.list(prefix, from, limit, at)
	if at > 0 {
		at += d.base
	}
	got, err := d.s.List(d.ctx, prefix, from, limit, at)
	for i := range got.Entries {
		got.Entries[i] = d.entry(got.Entries[i])
	}
	got.Revision -= d.base
	if len(got.Entries) == 0 {
		got.Entries = nil
	}
	d.same(r, fmt.Sprintf("list(%q, %q, %d, %d)", prefix, from, limit, at), err, wantErr, got, want)
}

func (d *duel) compact(r *rapid.T) {
	if rapid.IntRange(0, 4).Draw(r, "really") > 0 {
		return
	}
	at := rapid.Int64Range(1, d.m.revision()+1).Draw(r, "to")
	var wantErr error
	if at > d.m.revision() {
		wantErr = ErrFuture
	} else {
		d.catchUp(r, d.live) // or it may end
		d.m.compacted = max(d.m.compacted, at)
	}
	d.same(r, "compact", d.s.Compact(d.ctx, at+d.base), wantErr, "", "")
}

func (d *duel) revision(r *rapid.T) {
	got, err := d.s.Revision(d.ctx)
	d.same(r, "revision", err, nil, got-d.base, d.m.revision())
}

// reading is a watch and what it has given.
type reading struct {
	w      *Watcher
	prefix string
	after  int64 // the revision that it began after, the model's
	at     int64 // the revision that it has come to
	events []Event
}

func (d *duel) begin(ctx context.Context, prefix string, after int64) *reading {
	return &reading{w: d.s.Watch(ctx, prefix, after+d.base), prefix: prefix, after: after, at: after}
}

// follow begins a watch now, and returns what compares it at the end, and, now and
// then, one that begins in the past (etcd lets those wait for up to 100 ms).
func (d *duel) follow(r *rapid.T) func() {
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	d.live = d.begin(ctx, d.prefix(r), rapid.Int64Range(0, 4).Draw(r, "after"))
	return func() {
		defer cancel()
		if r.Failed() {
			return
		}
		d.compare(r, d.live)
		if rapid.IntRange(0, 9).Draw(r, "past") > 0 {
			return
		}
		after := rapid.Int64Range(max(0, d.m.compacted-3), d.m.revision()).Draw(r, "from")
		past := d.begin(ctx, d.live.prefix, after)
		if after+1 >= d.m.compacted {
			d.compare(r, past)
			return
		}
		for range past.w.C {
			r.Fatal("a compacted watch gave something")
		}
		d.same(r, "watch", past.w.Err(), ErrCompacted, "", "")
	}
}

func (d *duel) prefix(r *rapid.T) string {
	return d.root + rapid.SampledFrom([]string{"", "a", "b/", "x"}).Draw(r, "prefix")
}

// catchUp reads until the watch has come to now.
func (d *duel) catchUp(r *rapid.T, x *reading) {
	for x.at < d.m.revision() {
		// Asked for, because what was last may be behind another prefix.
		if _, err := d.s.Revision(d.ctx); err != nil {
			r.Fatal(err)
		}
		b, ok := d.receive(r, x.w)
		if !ok {
			r.Fatalf("the watch ended: %v", x.w.Err())
		}
		x.events, x.at = append(x.events, b.Events...), b.Revision-d.base
	}
}

func (d *duel) compare(r *rapid.T, x *reading) {
	d.catchUp(r, x)
	var want []Event
	for _, e := range d.m.events {
		if e.Revision > x.after && strings.HasPrefix(e.Key, x.prefix) {
			want = append(want, e)
		}
	}
	d.same(r, "watch", nil, nil, d.brief(x.events, d.base), d.brief(want, 0))
}

// receive takes a batch; while none comes it asks for progress.
func (d *duel) receive(r *rapid.T, w *Watcher) (Batch, bool) {
	for {
		select {
		case b, ok := <-w.C:
			return b, ok
		case <-time.After(50 * time.Millisecond):
			if _, err := d.s.Revision(d.ctx); err != nil {
				r.Fatal(err)
			}
		}
	}
}

// brief writes events with all that is certain about them: what was before the
// compacted revision may be forgotten or not.
func (d *duel) brief(events []Event, base int64) string {
	var s []string
	for _, e := range events {
		line := fmt.Sprintf("%q=%q nil:%v@%d", e.Key, e.Value, e.Value == nil, e.Revision-base)
		if e.Revision-base > d.m.compacted {
			before := e.PreviousRevision
			if before > 0 {
				before -= base
			}
			line += fmt.Sprintf(" created %d before %q@%d", e.Created-base, e.Previous, before)
		}
		s = append(s, line)
	}
	return strings.Join(s, "\n")
}

// registers is what concurrent clients see of single keys, for porcupine.
type registerOp struct {
	kind     string // get, put, cas
	key      string
	value    string
	expected int64 // the revision that cas names
}

type registerResult struct {
	value    string
	revision int64 // of the key; 0: it is not there
	err      error
}

type registerState struct {
	value    string
	revision int64
}

var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerOp).key
			byKey[key] = append(byKey[key], op)
		}
		return slices.Collect(maps.Values(byKey))
	},
	Init: func() any { return registerState{} },
	Step: func(state, input, output any) (bool, any) {
		s, op, out := state.(registerState), input.(registerOp), output.(registerResult)
		switch {
		case op.kind == "get":
			return out.revision == s.revision && out.value == s.value, s
		case op.kind == "cas" && errors.Is(out.err, ErrConflict):
			return s.revision != op.expected, s
		case op.kind == "cas" && s.revision != op.expected:
			return false, s
		}
		return out.err == nil && out.revision > s.revision, registerState{op.value, out.revision}
	},
}

// "Writes are linearizable with optimistic concurrency."
func testLinearizable(t *testing.T, s Store) {
	const clients, each = 6, 60
	var mu sync.Mutex
	var history []porcupine.Operation
	start := time.Now()
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			seen := map[string]int64{}
			for i := range each {
				op := registerOp{
					kind:  []string{"get", "put", "cas", "get", "cas"}[(i+client)%5],
					key:   fmt.Sprintf("/%d", i%3),
					value: fmt.Sprintf("%d.%d", client, i),
				}
				op.expected = seen[op.key]
				called := time.Since(start).Nanoseconds()
				out := doRegister(t, s, op)
				returned := time.Since(start).Nanoseconds()
				if out.err == nil {
					seen[op.key] = out.revision
				}
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: called, Output: out, Return: returned})
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if result := porcupine.CheckOperationsTimeout(registers, history, patience); result != porcupine.Ok {
		t.Fatalf("the history is not linearizable: %v", result)
	}
}

func doRegister(t *testing.T, s Store, op registerOp) registerResult {
	switch op.kind {
	case "get":
		e, err := s.Get(t.Context(), op.key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return registerResult{value: string(e.Value), revision: e.Revision}
	case "put":
		r, err := s.Put(t.Context(), op.key, []byte(op.value), Condition{Revision: Any})
		return registerResult{revision: r, err: err}
	}
	r, err := s.Put(t.Context(), op.key, []byte(op.value), Condition{Revision: op.expected})
	return registerResult{revision: r, err: err}
}
