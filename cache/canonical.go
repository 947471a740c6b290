package cache

import (
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api"
)

// canonicalize turns obj into what encoding and decoding it would give: times
// cut to what the wire carries, quantities in their canonical form with the
// string already made (resource.Quantity.String writes its receiver, so that
// readers of a shared object would race), empty slices and maps nil. It returns
// whether there were any of these, since to defaults nil is something else. What
// is canonical already is not written: the next version of an object may share
// parts with the one that others are reading.
func canonicalize(obj api.Object) (emptied bool) {
	v := reflect.ValueOf(obj).Elem()
	if walk := walkerOf(v.Type()); walk != nil {
		walk(v, &emptied)
	}
	return emptied
}

// A walker makes one addressable value canonical, and notes whether it made
// something empty nil. Nil: there is nothing to do in values of that type.
type walker func(v reflect.Value, emptied *bool)

var (
	typeQuantity  = reflect.TypeFor[resource.Quantity]()
	typeTime      = reflect.TypeFor[metav1.Time]()
	typeMicroTime = reflect.TypeFor[metav1.MicroTime]()
	typeFieldsV1  = reflect.TypeFor[metav1.FieldsV1]()
	typeRaw       = reflect.TypeFor[runtime.RawExtension]()
)

// walkers are made once per type; they are a property of the program's types,
// not state.
var walkers sync.Map // reflect.Type → walker

func walkerOf(t reflect.Type) walker {
	if w, ok := walkers.Load(t); ok {
		return w.(walker)
	}
	w := newWalker(t, map[reflect.Type]bool{})
	walkers.Store(t, w)
	return w
}

// newWalker builds the walker of t. Types that are being built further up
// (JSONSchemaProps holds itself) are looked up when the walker runs.
func newWalker(t reflect.Type, building map[reflect.Type]bool) walker {
	switch t {
	case typeQuantity:
		return canonicalQuantity
	case typeTime:
		return func(v reflect.Value, _ *bool) { cut(&v.Addr().Interface().(*metav1.Time).Time, time.Second) }
	case typeMicroTime:
		return func(v reflect.Value, _ *bool) { cut(&v.Addr().Interface().(*metav1.MicroTime).Time, time.Microsecond) }
	case typeFieldsV1, typeRaw:
		return nil
	}
	if building[t] {
		return func(v reflect.Value, emptied *bool) { walkerOf(t)(v, emptied) }
	}
	building[t] = true
	defer delete(building, t)
	switch t.Kind() {
	case reflect.Struct:
		return structWalker(t, building)
	case reflect.Pointer:
		if elem := newWalker(t.Elem(), building); elem != nil {
			return func(v reflect.Value, emptied *bool) {
				if !v.IsNil() {
					elem(v.Elem(), emptied)
				}
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			return sliceWalker(newWalker(t.Elem(), building))
		}
	case reflect.Map:
		return mapWalker(t, newWalker(t.Elem(), building))
	}
	return nil
}

func structWalker(t reflect.Type, building map[reflect.Type]bool) walker {
	type field struct {
		index int
		walk  walker
	}
	var fields []field
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		if w := newWalker(t.Field(i).Type, building); w != nil {
			fields = append(fields, field{i, w})
		}
	}
	if fields == nil {
		return nil
	}
	return func(v reflect.Value, emptied *bool) {
		for i := range fields {
			fields[i].walk(v.Field(fields[i].index), emptied)
		}
	}
}

func sliceWalker(elem walker) walker {
	return func(v reflect.Value, emptied *bool) {
		n := v.Len()
		if n == 0 {
			if !v.IsNil() {
				v.SetZero()
				*emptied = true
			}
			return
		}
		if elem != nil {
			for i := range n {
				elem(v.Index(i), emptied)
			}
		}
	}
}

func mapWalker(t reflect.Type, elem walker) walker {
	return func(v reflect.Value, emptied *bool) {
		if v.Len() == 0 {
			if !v.IsNil() {
				v.SetZero()
				*emptied = true
			}
			return
		}
		if elem == nil {
			return
		}
		copied := reflect.New(t.Elem()).Elem()
		for _, key := range v.MapKeys() {
			value := v.MapIndex(key)
			copied.Set(value)
			elem(copied, emptied)
			if !t.Elem().Comparable() || !copied.Equal(value) {
				v.SetMapIndex(key, copied)
			}
		}
	}
}

func canonicalQuantity(v reflect.Value, _ *bool) {
	q := v.Addr().Interface().(*resource.Quantity)
	made := v.FieldByName("s").String() // by String, or by a decoder
	parsed, err := resource.ParseQuantity(q.String())
	if err != nil {
		return // String has been called, which is what matters to readers
	}
	if parsed.String() != made || q.Format != parsed.Format {
		*q = parsed
	}
}

func cut(t *time.Time, unit time.Duration) {
	var canonical time.Time
	if !t.IsZero() {
		canonical = time.Unix(t.Unix(), int64(t.Nanosecond())/int64(unit)*int64(unit)).Local()
	}
	if *t != canonical {
		*t = canonical
	}
}
