package core

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"skiff/api/kind"
)

// kindsByFile are the kinds by the first part of their names in testdata/objects.yaml.
var kindsByFile = map[string]kind.Kind{
	"configmap": ConfigMap, "endpoints": Endpoints, "event": Event, "limits": LimitRange, "namespace": Namespace, "node": Node,
	"pod": Pod, "pv": PersistentVolume, "pvc": PersistentVolumeClaim, "quota": ResourceQuota, "rc": ReplicationController,
	"secret": Secret, "service": Service,
}

// refusal is one case of testdata/refused.txt, which says what the parts mean.
type refusal struct {
	how, object, pointer, value string
	want                        []string
}

func (r refusal) String() string {
	return strings.Join([]string{r.how, r.object, r.pointer, r.value}, " ")
}

func readRefusals(t *testing.T) (cases []refusal) {
	t.Helper()
	text, err := os.ReadFile("testdata/refused.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "\t"):
			last := &cases[len(cases)-1]
			last.want = append(last.want, line[1:])
		default:
			parts := append(strings.SplitN(line, " ", 4), "", "")
			cases = append(cases, refusal{how: parts[0], object: parts[1], pointer: parts[2], value: parts[3]})
		}
	}
	return cases
}

// changed is a copy of tree with one value at a JSON pointer replaced or deleted.
func changed(t *testing.T, tree any, pointer, value string) any {
	t.Helper()
	text, _ := json.Marshal(tree)
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if pointer == "" {
		return out
	}
	var to any
	if value != "delete" {
		if err := json.Unmarshal([]byte(value), &to); err != nil {
			t.Fatalf("%s %s: %v", pointer, value, err)
		}
	}
	cur, parts := out, strings.Split(pointer, "/")[1:]
	for i, p := range parts {
		p, last := strings.ReplaceAll(p, "~1", "/"), i == len(parts)-1
		switch x := cur.(type) {
		case map[string]any:
			if last && value == "delete" {
				delete(x, p)
			} else if last {
				x[p] = to
			}
			cur = x[p]
		case []any:
			n, err := strconv.Atoi(p)
			if err != nil {
				t.Fatal(err)
			}
			if last {
				x[n] = to
			}
			cur = x[n]
		}
	}
	return out
}

func decoded(t *testing.T, k kind.Kind, tree any) kind.Object {
	t.Helper()
	text, _ := json.Marshal(tree)
	obj := k.New()
	if err := json.Unmarshal(text, obj); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	k.Default(obj)
	return obj
}

// shortened gives errors the form that they have in testdata/refused.txt.
func shortened(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		detail, _, _ := strings.Cut(e.Detail, "\n")
		out = append(out, fmt.Sprintf("%s %s: %s", e.Type, e.Field, detail))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	for i, s := range out {
		if j := strings.Index(s, ": "); len(s) > j+64 {
			s = s[:j+64]
		}
		out[i] = strings.TrimRight(s, " ")
	}
	return out
}

// What Kubernetes refuses is refused, at the same field, for the same reason, and
// nothing else is; a check changes neither the object nor the stored one.
func TestRefusals(t *testing.T) {
	text, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var objects map[string]any
	if err := yaml.Unmarshal(text, &objects); err != nil {
		t.Fatal(err)
	}
	cases := readRefusals(t)
	if len(cases) < 800 {
		t.Fatalf("%d cases read", len(cases))
	}
	for _, c := range cases {
		name, _, _ := strings.Cut(c.object, "-")
		k, tree := kindsByFile[name], objects[c.object]
		obj := decoded(t, k, changed(t, tree, c.pointer, c.value))
		old := decoded(t, k, tree)
		var check func() field.ErrorList
		switch c.how {
		case "create":
			k.Create(obj)
			check = func() field.ErrorList { return k.Validate(obj) }
		case "update":
			k.Update(obj, old)
			check = func() field.ErrorList { return k.ValidateUpdate(obj, old) }
		default:
			k.Subs[c.how].Update(obj, old)
			check = func() field.ErrorList { return k.Subs[c.how].Validate(obj, old) }
		}
		before, stored := asJSON(t, obj), asJSON(t, old)
		if got := shortened(check()); !slices.Equal(got, c.want) {
			t.Errorf("%s\n got %s\nwant %s", c, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
		if asJSON(t, obj) != before || asJSON(t, old) != stored {
			t.Errorf("%s: the check changed what it looked at", c)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
