package crash

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What clients did and heard is written down as it happens, and judged when all
// is over: writes and reads must have an order that explains all answers
// (linearizability, by porcupine, object by object), and each watch must have
// told every change of its stretch once, in order.

// verbs of operations.
const (
	get = iota
	create
	update // of the revision that the client believes to be there
	patch  // whatever is there
	remove
)

// asked is what a client asks for.
type asked struct {
	verb     int
	key      string
	value    string // that an object gets; each is written once
	revision int64  // that an update goes from
}

// outcomes of operations.
const (
	unknown = iota
	done
	notFound
	exists
	conflict
)

// answered is what it was told. With done, revision and value are what the answer
// shows; a deletion's answer shows neither.
type answered struct {
	outcome  int
	revision int64
	value    string
}

func (a asked) String() string {
	return fmt.Sprintf("%s %s %s@%d", [...]string{"get", "create", "update", "patch", "delete"}[a.verb], a.key, a.value, a.revision)
}

func (a answered) String() string {
	return fmt.Sprintf("%s %s@%d", [...]string{"unknown", "done", "not found", "exists", "conflict"}[a.outcome], a.value, a.revision)
}

// state of an object, as the model sees it.
type state struct {
	there bool
	value string
	// revision of the object; 0 where it is not known (there is none, or nobody was
	// told): then it is greater than above.
	revision, above int64
}

func (s state) newest() int64 { return max(s.revision, s.above) }

// may be that the object has this revision.
func (s state) may(revision int64) bool {
	return s.revision == revision || s.revision == 0 && revision > s.above
}

func (s state) written(value string, revision int64) state {
	if revision == 0 {
		return state{there: true, value: value, above: s.newest()}
	}
	return state{there: true, value: value, revision: revision}
}

func (s state) removed() state { return state{above: s.newest()} }

// next are the states to which an operation can lead that was answered so; none:
// it cannot have been.
func (s state) next(in asked, out answered) []state {
	switch out.outcome {
	case notFound:
		if s.there || in.verb == create {
			return nil
		}
		return []state{s}
	case exists:
		if !s.there || in.verb != create {
			return nil
		}
		return []state{s}
	case conflict: // with a revision that has passed; patches say so after several attempts
		if !s.there || in.verb != patch && in.verb != update || in.verb == update && s.revision == in.revision {
			return nil
		}
		return []state{s}
	}
	after, can := s.effect(in, out.revision)
	switch {
	case out.outcome == unknown && can:
		return []state{s, after}
	case out.outcome == unknown:
		return []state{s}
	case !can || out.revision != 0 && in.verb != get && out.revision <= s.newest():
		return nil
	case in.verb == get && (s.value != out.value || !s.may(out.revision)):
		return nil
	}
	return []state{after}
}

// effect of the operation, if it can have one.
func (s state) effect(in asked, revision int64) (after state, can bool) {
	switch in.verb {
	case get:
		return s.written(s.value, revision), s.there
	case create:
		return s.written(in.value, revision), !s.there
	case update:
		return s.written(in.value, revision), s.there && s.may(in.revision)
	case patch:
		return s.written(in.value, revision), s.there
	}
	return s.removed(), s.there
}

// model of one object.
var model = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range history {
			key := o.Input.(asked).key
			byKey[key] = append(byKey[key], o)
		}
		for _, key := range slices.Sorted(maps.Keys(byKey)) {
			parts = append(parts, byKey[key])
		}
		return parts
	},
	Init: func() []any { return []any{state{}} },
	Step: func(s, in, out any) (next []any) {
		for _, n := range s.(state).next(in.(asked), out.(answered)) {
			next = append(next, n)
		}
		return next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v: %v", in, out) },
}).ToModel()

// change is one change of one object, as a watch or the store tells it.
type change struct {
	revision int64
	key      string
	value    string // "": not told
	kind     string // ADDED, MODIFIED, DELETED
}

// stretch is what one watch told from a revision to another, without a break.
type stretch struct {
	who      string
	from, to int64
	changes  []change
	// base is the state at from, if the watch began with a list.
	base map[string]change
}

// history is what is written down of one bout.
type history struct {
	began time.Time

	mu        sync.Mutex
	ops       []porcupine.Operation
	limbo     []int // ops whose outcome is not known, and which may still take effect; guarded by mu
	acked     map[int64]change
	stretches []stretch
	newest    int64 // greatest revision that anybody was told; guarded by mu
	expired   int   // watches that were told 410; guarded by mu
	counts    [5]int
}

func newHistory() *history { return &history{began: time.Now(), acked: map[int64]change{}} }

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) saw(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.newest = max(h.newest, revision)
}

// wrote writes an operation down.
func (h *history) wrote(client int, called int64, in asked, out answered) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.outcome == unknown && in.verb == get {
		return // it says nothing
	}
	h.counts[out.outcome]++
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: h.now()})
	if out.outcome == unknown {
		h.limbo = append(h.limbo, len(h.ops)-1)
	}
	if out.outcome == done && out.revision > 0 && in.verb != get {
		h.acked[out.revision] = change{revision: out.revision, key: in.key, value: in.value}
	}
	h.newest = max(h.newest, out.revision)
}

// settle is called when a new life of the server is ready: what was asked of the
// earlier ones has happened by now, or never will.
func (h *history) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.limbo {
		h.ops[i].Return = h.now()
	}
	h.limbo = nil
}

func (h *history) told(s stretch, expired bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stretches = append(h.stretches, s)
	if expired {
		h.expired++
	}
}

// judge checks all that was written down.
func (h *history) judge(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(model, h.ops, 5*time.Minute)
	if result != porcupine.Ok {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("skiff-history-%d.html", os.Getpid()))
		if err := porcupine.VisualizePath(model, info, path); err != nil {
			t.Error(err)
		}
		t.Errorf("the answers of %d operations are not linearizable (%s): see %s", len(h.ops), result, path)
	}
	for _, wrong := range append(h.wrongWatches(), h.wrongLists()...) {
		t.Error(wrong)
	}
	t.Logf("%d operations (%d unknown, %d done, %d not found, %d exist already, %d conflicts), %d watches, %d of them expired",
		len(h.ops), h.counts[unknown], h.counts[done], h.counts[notFound], h.counts[exists], h.counts[conflict], len(h.stretches), h.expired)
}

// wrongWatches compares all stretches with each other, and with the writes that
// were acknowledged: "ordered, no gap, no duplicate".
func (h *history) wrongWatches() (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	all := maps.Clone(h.acked) // by revision
	for _, s := range h.stretches {
		last := s.from
		for _, c := range s.changes {
			if c.revision <= last || c.revision > s.to {
				say("%s from %d to %d told %v after %d", s.who, s.from, s.to, c, last)
			}
			last = c.revision
			known, ok := all[c.revision]
			if ok && (known.key != c.key || c.value != "" && known.value != "" && known.value != c.value || known.kind != "" && known.kind != c.kind) {
				say("%s told %v; somebody else was told %v", s.who, c, known)
			}
			if !ok || known.kind == "" {
				all[c.revision] = c
			}
		}
	}
	order := slices.SortedFunc(maps.Values(all), func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	for _, s := range h.stretches {
		from, _ := slices.BinarySearchFunc(order, s.from+1, byRevision)
		to, _ := slices.BinarySearchFunc(order, s.to+1, byRevision)
		if want := order[from:max(from, to)]; !slices.EqualFunc(want, s.changes, func(a, b change) bool { return a.revision == b.revision }) {
			say("%s from %d to %d told %d changes, there were %d: missing %v", s.who, s.from, s.to, len(s.changes), len(want), missing(want, s.changes))
		}
	}
	return wrong
}

func byRevision(c change, revision int64) int { return cmp.Compare(c.revision, revision) }

func missing(want, got []change) (out []change) {
	for _, c := range want {
		if !slices.ContainsFunc(got, func(g change) bool { return g.revision == c.revision }) {
			out = append(out, c)
		}
	}
	return out[:min(len(out), 10)]
}

// wrongLists checks that each list shows what the changes before it had led to, as
// far as a stretch tells that began with a list before it and ended after it.
func (h *history) wrongLists() (wrong []string) {
	judged := 0
	for _, list := range h.stretches {
		if list.base == nil {
			continue
		}
		for _, s := range h.stretches {
			if s.base == nil || s.from > list.from || s.to < list.from || s.from == list.from && s.who == list.who {
				continue
			}
			if got := s.at(list.from); !maps.Equal(got, list.base) {
				wrong = append(wrong, fmt.Sprintf("%s listed %v at %d; what %s was told leads to %v", list.who, list.base, list.from, s.who, got))
			}
			judged++
			break
		}
	}
	if judged == 0 && len(h.stretches) > 3 {
		wrong = append(wrong, "no list could be judged")
	}
	return wrong
}

// at is the state that the stretch leads to at a revision: each object with
// revision and value, of no kind.
func (s stretch) at(revision int64) map[string]change {
	at := maps.Clone(s.base)
	for _, c := range s.changes {
		switch {
		case c.revision > revision:
			return at
		case c.kind == "DELETED":
			delete(at, c.key)
		default:
			c.kind = ""
			at[c.key] = c
		}
	}
	return at
}
