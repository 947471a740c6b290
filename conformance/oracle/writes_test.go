package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"skiff/api"
)

// TestWrites puts the same random objects before both sides, as creates, updates and writes through each
// subresource: what is unset gets the same defaults, the same is kept and reset, and the same is refused and warned of.
func TestWrites(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))
	t.Logf("ORACLE_SEED=%d ORACLE_N=%d", seed, n)
	for _, p := range pairs(t) {
		if !chosen(p.name) {
			continue
		}
		t.Run(p.name, func(t *testing.T) { newWriter(t, p, seed).run(n) })
	}
	results.report(t, "defaulting", "create", "validation", "update", "warnings")
}

// chosen tells whether ORACLE_KIND, a list of names, leaves the kind in.
func chosen(name string) bool {
	only := os.Getenv("ORACLE_KIND")
	return only == "" || slices.Contains(strings.Split(only, ","), name)
}

// must is obj as JSON.
func must(t testing.TB, obj any) []byte {
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A writer makes one kind's writes.
type writer struct {
	*pair
	t    *testing.T
	dice *dice
	pool []json.RawMessage // of bodies that upstream takes; the first are the seeds
	// How many creates upstream took, and refused.
	taken, refused int
}

// poolLimit is how many objects a pool holds: enough for variety, few enough that the seeds stay frequent.
const poolLimit = 64

func newWriter(t *testing.T, p *pair, seed int64) *writer {
	w := &writer{pair: p, t: t, dice: newDice(seed, p.known, wordsOf(p.seeds))}
	for _, obj := range p.seeds {
		text, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		w.pool = append(w.pool, text)
	}
	return w
}

func (w *writer) run(n int) {
	for i := range w.seeds {
		w.create(w.pool[i])
	}
	w.every()
	for range n {
		w.create(w.next())
		w.update()
	}
}

// next is a body of which at least every second one is valid, and the others are but for a change or two.
func (w *writer) next() []byte {
	for range 50 {
		text := w.changed(pick(w.dice, w.pool), 1+w.dice.Intn(2))
		if w.refused < w.taken || w.valid(text) {
			return text
		}
	}
	return pick(w.dice, w.pool[:len(w.seeds)])
}

// changed is text after n random changes that leave it an object of its kind.
func (w *writer) changed(text []byte, n int) []byte {
	for range n {
		obj := w.decode(text)
		w.dice.change(obj)
		next, err := json.Marshal(obj)
		if err == nil && w.decode(next) != nil {
			text = next
		}
	}
	return text
}

func (w *writer) valid(text []byte) (valid bool) {
	_ = safely(func() {
		if in, err := w.internal(text); err == nil {
			ctx := w.context("")
			w.upstream.main.PrepareForCreate(ctx, in)
			valid = len(rest.ValidateCreate(ctx, in, w.upstream.main)) == 0
		}
	})
	return valid
}

// allocated is a service with what is allocated before upstream judges it, and after Skiff does.
func (w *writer) allocated(text []byte) []byte {
	svc, ok := w.decode(text).(*corev1.Service)
	if !ok || svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || svc.Spec.HealthCheckNodePort != 0 {
		return text
	}
	svc.Spec.HealthCheckNodePort = 31000
	return must(w.t, svc)
}

// create compares defaults, what a create resets, the verdict and the warnings.
func (w *writer) create(text []byte) {
	text = w.allocated(text)
	example := func() string { return string(text) }
	var in runtime.Object
	var err error
	if safely(func() { in, err = w.internal(text) }) != nil || err != nil {
		return // upstream refuses it before validation
	}
	obj := w.ours(text)
	d := sameTrees(w.shown(in), w.shownOurs(obj))
	results.count("defaulting", w.name, d, example)
	if d != "" {
		return
	}

	ctx, given := w.listening("")
	var want field.ErrorList
	if safely(func() {
		w.upstream.main.PrepareForCreate(ctx, in)
		want = rest.ValidateCreate(ctx, in, w.upstream.main)
	}) != nil {
		return
	}
	w.learnRules("create", want)
	if p := safely(func() { w.stored.PrepareNew(obj) }); p != nil {
		results.count("create", w.name, fmt.Sprintf("  skiff panics: %v", p), example)
		return
	}
	if len(want) > 0 {
		w.refused++
	} else {
		w.taken++
		w.keep(text)
	}
	if d := sameTrees(w.read(in), w.readOurs(obj)); d != "" {
		results.count("create", w.name, d, example)
		return
	}
	results.count("create", w.name, "", nil)

	var have field.ErrorList
	if p := safely(func() { have = w.row.ValidateNew(obj) }); p != nil {
		results.count("validation", w.name, fmt.Sprintf("  skiff panics: %v", p), example)
		return
	}
	results.count("validation", w.name, sameSets(lines(want), lines(have)), example)
	if len(want) > 0 {
		return
	}
	warnings := append(*given, w.upstream.main.WarningsOnCreate(ctx, in)...)
	results.count("warnings", w.name, sameSets(warnings, w.stored.Kind.Warn(obj, nil)), example)
}

// keep puts a valid body into the pool.
func (w *writer) keep(text []byte) {
	if len(w.pool) < poolLimit+len(w.seeds) {
		w.pool = append(w.pool, text)
		return
	}
	w.pool[len(w.seeds)+w.dice.Intn(poolLimit)] = text
}

// update writes a changed version of a stored object, through the object itself and through each of its subresources.
func (w *writer) update() {
	old := w.old()
	if old == nil {
		return
	}
	changed := w.named(w.nextVersion(old), old)
	for _, sub := range w.subresources() {
		w.updateThrough(sub, old, changed)
	}
}

// nextVersion is old as it was, with a change or two, or with another object's content.
func (w *writer) nextVersion(old []byte) []byte {
	switch w.dice.Intn(4) {
	case 0:
		return old
	case 1:
		return w.changed(old, 2)
	case 2:
		return w.mixed(old)
	}
	return w.changed(old, 1)
}

// named is text with old's name: another one is refused before anything is judged.
func (w *writer) named(text, old []byte) []byte {
	obj := w.decode(text)
	was := w.decode(old)
	obj.SetName(was.GetName())
	obj.SetUID(was.GetUID())
	out, err := json.Marshal(obj)
	if err != nil {
		return text
	}
	return out
}

func (w *writer) subresources() []string {
	out := []string{""}
	for sub := range w.upstream.subs {
		out = append(out, sub)
	}
	slices.Sort(out)
	return out
}

// old is a stored object: one that could be created, perhaps with a status.
func (w *writer) old() []byte {
	text := pick(w.dice, w.pool)
	if w.dice.Intn(2) == 0 {
		text = w.pool[w.dice.Intn(len(w.seeds))]
	}
	if next := w.changed(text, 1+w.dice.Intn(2)); w.dice.Intn(3) == 0 && w.valid(next) {
		text = next
	}
	obj := w.created(text)
	if obj == nil {
		return nil
	}
	obj.SetUID("u")
	obj.SetResourceVersion("5")
	obj.SetGeneration(3)
	text, err := json.Marshal(obj)
	if err != nil {
		return nil
	}
	return text
}

// created is what upstream makes of an object when it is created; mostly its status was written since.
func (w *writer) created(text []byte) (obj api.Object) {
	_ = safely(func() {
		in := w.must(text)
		w.upstream.main.PrepareForCreate(w.context(""), in)
		stored, err := json.Marshal(w.shown(in))
		if err != nil {
			return
		}
		sent, next := w.decode(text), w.decode(stored)
		status := reflect.ValueOf(next).Elem().FieldByName("Status")
		if status.IsValid() && w.dice.Intn(8) > 0 {
			status.Set(reflect.ValueOf(sent).Elem().FieldByName("Status"))
		}
		if at := sent.GetDeletionTimestamp(); at != nil {
			next.SetDeletionTimestamp(at)
		}
		obj = w.withStatus(stored, next)
	})
	return obj
}

// mixed is old with another object's content.
func (w *writer) mixed(old []byte) []byte {
	a, b := w.decode(old), w.decode(pick(w.dice, w.pool))
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range x.NumField() {
		if name := x.Type().Field(i).Name; name != "ObjectMeta" && w.dice.Intn(3) > 0 {
			x.Field(i).Set(y.Field(i))
		}
	}
	text, err := json.Marshal(a)
	if err != nil {
		return old
	}
	return text
}

// withStatus is next, of which the status was written through the subresource.
func (w *writer) withStatus(created []byte, next api.Object) api.Object {
	through, ok := w.upstream.subs["status"]
	if !ok {
		return next
	}
	text, err := json.Marshal(next)
	if err != nil {
		return nil
	}
	old, in := w.must(created), w.must(text)
	w.prepare(w.context("status"), through, in, old)
	if len(rest.ValidateUpdate(w.context("status"), in, old, through)) > 0 {
		return w.decode(created) // it could not be written
	}
	if text, err = json.Marshal(w.shown(in)); err != nil {
		return nil
	}
	return w.decode(text)
}

func (w *writer) updateThrough(sub string, before, after []byte) {
	example := func() string { return string(before) + "\n  -> " + string(after) }
	name := w.name
	if sub != "" {
		name += "/" + sub
	}
	s := rest.RESTUpdateStrategy(w.upstream.main)
	if sub != "" {
		s = w.upstream.subs[sub]
	}
	var old, in runtime.Object
	if p := safely(func() { old, in = w.must(before), w.must(w.allocated(after)) }); p != nil {
		return
	}
	// Both sides begin with the same: upstream's defaults are compared elsewhere.
	ourOld, obj := w.fromUpstream(old), w.fromUpstream(in)
	if ourOld == nil || obj == nil {
		return
	}
	ctx, given := w.listening(sub)
	var want field.ErrorList
	if safely(func() {
		w.prepare(ctx, s, in, old)
		want = rest.ValidateUpdate(ctx, in, old, s)
	}) != nil {
		return
	}
	w.learnRules("update "+sub, want)
	if _, ok := w.stored.Kind.Subs[sub]; sub != "" && !ok {
		results.count("update", name, "  skiff has no such subresource", example)
		return
	}
	if p := safely(func() { w.stored.KeepUntouchable(sub, obj, ourOld) }); p != nil {
		results.count("update", name, fmt.Sprintf("  skiff panics: %v", p), example)
		return
	}
	if d := sameTrees(w.read(in), w.readOurs(obj)); d != "" {
		results.count("update", name, d, example)
		return
	}
	results.count("update", name, "", nil)
	var have field.ErrorList
	if p := safely(func() { have = w.row.ValidateChange(sub, obj, ourOld) }); p != nil {
		results.count("validation", name, fmt.Sprintf("  skiff panics: %v", p), example)
		return
	}
	results.count("validation", name, sameSets(lines(want), lines(have)), example)
	if len(want) > 0 || sub != "" {
		return
	}
	warnings := append(*given, s.WarningsOnUpdate(ctx, in, old)...)
	results.count("warnings", name, sameSets(warnings, w.stored.Kind.Warn(obj, ourOld)), example)
}

func (w *writer) must(text []byte) runtime.Object {
	in, err := w.internal(text)
	if err != nil {
		panic(err)
	}
	return in
}

// fromUpstream is upstream's internal object as Skiff stores it; nil if that cannot be.
func (w *writer) fromUpstream(in runtime.Object) (obj api.Object) {
	text, err := json.Marshal(w.shown(in))
	if err != nil {
		return nil
	}
	_ = safely(func() { obj = w.ours(text) })
	return obj
}

// prepare is what rest.BeforeUpdate does before it validates.
func (w *writer) prepare(ctx context.Context, s rest.RESTUpdateStrategy, in, old runtime.Object) {
	obj, was := in.(api.Object), old.(api.Object)
	obj.SetGeneration(was.GetGeneration())
	s.PrepareForUpdate(ctx, in, old)
	if obj.GetUID() == "" {
		obj.SetUID(was.GetUID())
	}
	if created := was.GetCreationTimestamp(); !created.IsZero() {
		obj.SetCreationTimestamp(created)
	}
	if !was.GetDeletionTimestamp().IsZero() {
		obj.SetDeletionTimestamp(was.GetDeletionTimestamp())
	}
	if grace := was.GetDeletionGracePeriodSeconds(); grace != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(grace)
	}
}

// lines are errors as text, once each, sorted.
func lines(errs field.ErrorList) (out []string) {
	for _, e := range errs {
		// Where a message goes on in further lines, they are a diff of upstream's own Go types.
		detail, _, _ := strings.Cut(e.Detail, "\n")
		out = append(out, fmt.Sprintf("%s %s%s: %s", e.Type, e.Field, badValue(e), detail))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// badValue is the value that an error names, where both sides have the same type for it.
func badValue(e *field.Error) string {
	if s, ok := e.BadValue.(fmt.Stringer); ok && reflect.ValueOf(e.BadValue).Kind() != reflect.Pointer {
		return " " + s.String()
	}
	v := reflect.ValueOf(e.BadValue)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf(" %q", v.String())
	case reflect.Int, reflect.Int32, reflect.Int64:
		return fmt.Sprintf(" %d", v.Int())
	case reflect.Bool:
		return fmt.Sprintf(" %v", v.Bool())
	}
	return ""
}

// learnRules notes which of upstream's rules refused something.
func (w *writer) learnRules(how string, errs field.ErrorList) {
	for _, e := range errs {
		seenRules[ruleOf(w.name, strings.TrimSpace(how), e)]++
	}
}

// seenRules counts upstream's refusals by rule.
var seenRules = map[string]int{}

// ruleOf is what is the same about all errors of one rule.
func ruleOf(kind, how string, e *field.Error) string {
	path := keyed.ReplaceAllString(e.Field, "[]")
	detail := numeric.ReplaceAllString(quoted.ReplaceAllString(e.Detail, `""`), "N")
	return strings.Join([]string{kind, how, string(e.Type), path, detail[:min(len(detail), 100)]}, "\t")
}
