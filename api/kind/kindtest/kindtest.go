// Package kindtest is what the tests of the packages api/<group> share: what
// holds for every kind, and tables of what is refused. Only tests call it.
package kindtest

import (
	"fmt"
	"reflect"
	"sort"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"skiff/api/kind"
)

// From reads an object from YAML and fills its defaults. Unknown fields fail the test.
func From[T kind.Object](t testing.TB, k kind.Kind, text string) T {
	t.Helper()
	obj := k.New()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("read %T: %v\n%s", obj, err, text)
	}
	k.Default(obj)
	return obj.(T)
}

// Holds checks what holds for every kind: an object that is valid after Create,
// defaults that are idempotent and cost nothing the second time, a table row as
// long as the columns, and field names that do not depend on the object.
func Holds(t *testing.T, k kind.Kind, valid string) {
	t.Helper()
	obj := From[kind.Object](t, k, valid)
	k.Create(obj)
	if errs := k.Validate(obj); len(errs) > 0 {
		t.Errorf("a valid %T is refused: %v", obj, errs.ToAggregate())
	}
	if errs := k.ValidateUpdate(obj, obj.DeepCopyObject().(kind.Object)); len(errs) > 0 {
		t.Errorf("an unchanged %T is refused: %v", obj, errs.ToAggregate())
	}
	for name, sub := range k.Subs {
		changed := obj.DeepCopyObject().(kind.Object)
		sub.Update(changed, obj)
		if errs := sub.Validate(changed, obj); len(errs) > 0 {
			t.Errorf("an unchanged %T is refused at %s: %v", obj, name, errs.ToAggregate())
		}
	}
	for _, msg := range k.NameRule(obj)(obj.GetName(), false) {
		t.Errorf("the name %q is refused: %s", obj.GetName(), msg)
	}
	k.Default(obj)
	again := obj.DeepCopyObject()
	k.Default(obj)
	if !reflect.DeepEqual(obj, again) {
		t.Errorf("defaults of %T are not idempotent", obj)
	}
	if allocs := testing.AllocsPerRun(10, func() { k.Default(obj) }); allocs > 0 {
		t.Errorf("defaulting a complete %T allocates %v times", obj, allocs)
	}
	if k.Row != nil {
		for _, o := range []kind.Object{obj, k.New()} {
			if cells := k.Row(o); len(cells) != len(k.Columns) {
				t.Errorf("%T: %d cells in %d columns", o, len(cells), len(k.Columns))
			}
		}
		cellsAre(t, k.Row(obj))
	}
	if k.Fields != nil {
		if full, empty := keys(k.Fields(obj)), keys(k.Fields(k.New())); full != empty {
			t.Errorf("%T: fields %s, but %s of an empty object", obj, full, empty)
		}
	}
	empty := k.New()
	k.Default(empty)
	k.Create(empty)
	k.Validate(empty)
	k.Warn(empty, nil)
	k.Update(empty, k.New())
	if k.NewList() == nil {
		t.Errorf("%T has no list", obj)
	}
}

func cellsAre(t *testing.T, cells []any) {
	t.Helper()
	for i, c := range cells {
		switch c.(type) {
		case nil, string, int64, bool:
		default:
			t.Errorf("cell %d is a %T", i, c)
		}
	}
}

func keys(m map[string]string) string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}

// Case is one change of a valid object, and the errors that it must give, each
// as "<type> <path>" or "<type> <path>: <detail>" ("Required spec.x"), in any order. No errors: the
// changed object is valid too.
type Case[T kind.Object] struct {
	Name   string
	Change func(T)
	Want   []string
}

// When makes a Case.
func When[T kind.Object](name string, change func(T), want ...string) Case[T] {
	return Case[T]{Name: name, Change: change, Want: want}
}

// Refuses runs cases against Validate.
func Refuses[T kind.Object](t *testing.T, k kind.Kind, valid string, cases []Case[T]) {
	t.Helper()
	for _, c := range cases {
		obj := From[T](t, k, valid)
		k.Create(obj)
		c.Change(obj)
		compare(t, c.Name, append(misnamed(k, obj), k.Validate(obj)...), c.Want)
	}
}

// RefusesUpdate runs cases against ValidateUpdate.
func RefusesUpdate[T kind.Object](t *testing.T, k kind.Kind, valid string, cases []Case[T]) {
	t.Helper()
	for _, c := range cases {
		old := From[T](t, k, valid)
		k.Create(old)
		obj := old.DeepCopyObject().(T)
		c.Change(obj)
		errs := k.ValidateUpdate(obj, old)
		if k.NameOnUpdate {
			errs = append(misnamed(k, obj), errs...)
		}
		compare(t, c.Name, errs, c.Want)
	}
}

// RefusesSub runs cases against a subresource.
func RefusesSub[T kind.Object](t *testing.T, k kind.Kind, sub, valid string, cases []Case[T]) {
	t.Helper()
	for _, c := range cases {
		old := From[T](t, k, valid)
		obj := old.DeepCopyObject().(T)
		c.Change(obj)
		k.Subs[sub].Update(obj, old)
		compare(t, c.Name, k.Subs[sub].Validate(obj, old), c.Want)
	}
}

func compare(t *testing.T, name string, errs field.ErrorList, want []string) {
	t.Helper()
	got := make([]string, 0, len(errs))
	for _, e := range errs {
		got = append(got, fmt.Sprintf("%s %s: %s", strings.TrimPrefix(string(e.Type), "FieldValue"), e.Field, e.Detail))
	}
	left := append([]string(nil), got...)
	// The longest first, so that a general one does not take what a special one needs.
	want = append([]string(nil), want...)
	sort.Slice(want, func(i, j int) bool { return len(want[i]) > len(want[j]) })
	for _, w := range want {
		found := -1
		for i, g := range left {
			if g == w || strings.HasPrefix(g, w+": ") || strings.Contains(w, ": ") && strings.HasPrefix(g, w) {
				found = i
				break
			}
		}
		if found < 0 {
			t.Errorf("%s: no error %q in\n\t%s", name, w, strings.Join(got, "\n\t"))
			continue
		}
		left = append(left[:found], left[found+1:]...)
	}
	for _, g := range left {
		t.Errorf("%s: error not expected: %s", name, g)
	}
}

// Defaults checks that the defaults of one object, in YAML, give another.
func Defaults(t *testing.T, k kind.Kind, given, want string) {
	t.Helper()
	obj := From[kind.Object](t, k, given)
	expected := k.New()
	if err := yaml.UnmarshalStrict([]byte(want), expected); err != nil {
		t.Fatalf("read %T: %v", expected, err)
	}
	g, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	w, err := yaml.Marshal(expected)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("defaults of %T:\n%s\nwant:\n%s", obj, g, w)
	}
}

// misnamed says what is wrong with an object's name, as the object's row does.
func misnamed(k kind.Kind, obj kind.Object) (errs field.ErrorList) {
	if obj.GetName() == "" {
		return nil // of a kind whose objects need no name
	}
	for _, msg := range k.NameRule(obj)(obj.GetName(), false) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.GetName(), msg))
	}
	return errs
}
