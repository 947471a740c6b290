package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"skiff/api"
)

// fill gives v random contents, as a client could send them.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *resource.Quantity:
		*p = resource.MustParse([]string{"0", "1", "0.5", "100m", "1500m", "1Gi", "1024Mi", "1e3", "12Ki"}[r.IntN(9)])
		return
	case *metav1.Time:
		if r.IntN(4) > 0 {
			*p = metav1.NewTime(time.Unix(r.Int64N(4e9), r.Int64N(1e9)))
		}
		return
	case *metav1.MicroTime:
		if r.IntN(4) > 0 {
			*p = metav1.NewMicroTime(time.Unix(r.Int64N(4e9), r.Int64N(1e9)))
		}
		return
	case *intstr.IntOrString:
		if *p = intstr.FromInt32(r.Int32()); r.IntN(2) == 0 {
			*p = intstr.FromString("25%")
		}
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":1}`)
		return
	case *metav1.FieldsV1:
		*p = *metav1.NewFieldsV1(`{"f:x":{}}`)
		return
	case *apiextensionsv1.JSON:
		p.Raw = []byte(`{"a":[1]}`)
		return
	}
	if depth > 9 {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Name != "TypeMeta" {
				fill(r, v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), depth+1)
		}
	case reflect.Slice:
		n := r.IntN(4) - 1
		if n < 0 {
			return
		}
		if n == 0 && v.Type().Elem().Kind() == reflect.Uint8 {
			n = 1 // what an empty value decodes to is the client's form's business
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		n := r.IntN(4) - 1
		if n < 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, depth+1)
			fill(r, value, depth+1)
			if value.Kind() == reflect.Slice && value.Len() == 0 {
				continue
			}
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", r.IntN(1000)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(int64(r.Int32N(1000)))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	}
}

// storedRows are the rows whose objects the cache holds.
func storedRows() (rows []*api.Resource) {
	for _, r := range api.Catalogue {
		if r.Prefix != "" && r.View == nil {
			rows = append(rows, r)
		}
	}
	return rows
}

// What a writer deposits must be what another server, or this one after a
// restart, decodes: else the same revision would be shown in two ways.
func TestDepositedIsWhatDecodingGives(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, row := range storedRows() {
		for range 20 {
			obj := row.Kind.New()
			fill(r, reflect.ValueOf(obj).Elem(), 0)
			row.Kind.Default(obj)
			c := newCodec(row, row)
			raw, err := c.marshal(obj)
			if err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			decoded, err := c.decode(c.wrap(raw), 7)
			if err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			obj.SetResourceVersion("7")
			if !reflect.DeepEqual(obj, decoded) {
				a, _ := json.Marshal(obj)
				b, _ := json.Marshal(decoded)
				t.Fatalf("%s: deposited\n%s\ndecoded\n%s\nsemantically equal: %v", row, a, b, equality.Semantic.DeepEqual(obj, decoded))
			}
			stamped, err := c.stamp(raw, 7)
			if err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			if whole, _ := decoded.(message).Marshal(); !bytes.Equal(stamped, whole) {
				t.Fatalf("%s: splicing the resourceVersion gives\n%q\nencoding it\n%q", row, stamped, whole)
			}
		}
	}
}

// The resourceVersion may be replaced by a longer or shorter one, or by one
// where another encoder left the field out.
func TestSpliceResourceVersion(t *testing.T) {
	for _, version := range []string{"", "1", "12345678901234567890"} {
		cm := configMap("n", "a", "x")
		cm.UID, cm.ResourceVersion = "u", version
		raw, _ := cm.Marshal()
		got, err := spliceResourceVersion(raw, "99")
		if err != nil {
			t.Fatal(err)
		}
		cm.ResourceVersion = "99"
		if want, _ := cm.Marshal(); !bytes.Equal(got, want) {
			t.Errorf("from %q: %q, want %q", version, got, want)
		}
	}
	bare := []byte{tagMetadata, 3, 1<<3 | 2, 1, 'a'} // metadata {name: "a"}
	got, err := spliceResourceVersion(bare, "5")
	if err != nil {
		t.Fatal(err)
	}
	var cm corev1.ConfigMap
	if err := cm.Unmarshal(got); err != nil || cm.Name != "a" || cm.ResourceVersion != "5" {
		t.Errorf("decoded %+v, %v", cm.ObjectMeta, err)
	}
}

func FuzzSpliceResourceVersion(f *testing.F) {
	raw, _ := configMap("n", "a", "x").Marshal()
	f.Add(raw, "7")
	f.Add([]byte{tagMetadata, 200, 200, 200, 200, 200, 200, 200, 200, 200, 1}, "7")
	f.Fuzz(func(t *testing.T, raw []byte, version string) {
		spliceResourceVersion(raw, version) // must not panic
	})
}

// Values that other versions of Kubernetes, or other settings of it, wrote.
func TestDecodeForeignValues(t *testing.T) {
	row := api.For[*corev1.ConfigMap]()
	c := newCodec(row, row)
	obj, err := c.decode([]byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n"},"data":{"k":"v"}}`), 5)
	if err != nil {
		t.Fatal(err)
	}
	if cm := obj.(*corev1.ConfigMap); cm.Data["k"] != "v" || cm.ResourceVersion != "5" || cm.Kind != "" {
		t.Errorf("decoded %+v", cm)
	}
	for _, value := range []string{"", "nonsense", "k8s\x00\xff\xff", `{"kind":"Secret","apiVersion":"v1"}`, "k8s\x00"} {
		if _, err := c.decode([]byte(value), 5); err == nil {
			t.Errorf("%q was decoded", value)
		}
		if e := c.read("n", "a", []byte(value), 5); e.Err() == nil || e.Revision() != 5 || e.Object() != nil {
			t.Errorf("%q gave the entry %v", value, e)
		}
	}
}

// Every row's list type has its items in field 2, which List.Encode relies on,
// and its objects have metadata in field 1, which splicing relies on.
func TestListsHaveItemsInFieldTwo(t *testing.T) {
	for _, row := range storedRows() {
		list, ok := row.Kind.NewList().(message)
		if !ok {
			t.Errorf("%s: the list has no protobuf form", row)
			continue
		}
		obj := row.Kind.New()
		obj.SetName("a")
		raw, err := obj.(message).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		wire := append(appendVarint([]byte{2<<3 | 2}, uint64(len(raw))), raw...)
		if err := list.Unmarshal(wire); err != nil {
			t.Errorf("%s: %v", row, err)
			continue
		}
		items := reflect.ValueOf(list).Elem().FieldByName("Items")
		if items.Len() != 1 || items.Index(0).FieldByName("Name").String() != "a" {
			t.Errorf("%s: items are %v", row, items)
		}
	}
}

// What is stored in another encoding than today's is written anew when a client
// writes it as it is; anything else is not.
func TestStale(t *testing.T) {
	c := newCodec(api.For[*corev1.ConfigMap](), api.For[*corev1.ConfigMap]())
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a"}}
	raw, err := c.marshal(cm)
	if err != nil {
		t.Fatal(err)
	}
	asJSON := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"namespace":"n","name":"a"}}`)
	table := &Table{codec: c}
	for value, same := range map[string]bool{string(c.wrap(raw)): true, string(asJSON): false} {
		e := c.read("n", "a", []byte(value), 7)
		d := &Deposit{table: table, raw: raw}
		if e.Err() != nil || d.Same(e) != same {
			t.Errorf("stored as %q: same %v, %v", value, d.Same(e), e.Err())
		}
	}
}
