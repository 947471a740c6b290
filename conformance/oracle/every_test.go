package oracle

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// every puts places of the seeds to each of a few values, one at a time: what chance would take long to find. It does
// as many as ORACLE_EVERY says, spread over all that there are.
func (w *writer) every() {
	most := int(environment("ORACLE_EVERY", 0))
	if most == 0 {
		return
	}
	all := 0
	for _, seed := range w.pool[:len(w.seeds)] {
		for _, at := range pointers(tree(json.RawMessage(seed)), nil) {
			all += len(w.values(at, seed))
		}
	}
	for _, seed := range w.pool[:len(w.seeds)] {
		obj := w.created(seed)
		if obj == nil {
			continue
		}
		obj.SetUID("u")
		obj.SetResourceVersion("5")
		old := must(w.t, obj)
		for _, at := range pointers(tree(json.RawMessage(seed)), nil) {
			for _, value := range w.values(at, seed) {
				if w.dice.Intn(all) >= most {
					continue
				}
				text := put(seed, at, value)
				if w.decode(text) == nil {
					continue
				}
				w.create(text)
				if changed := put(old, at, value); w.decode(changed) != nil {
					for _, sub := range w.subresources() {
						w.updateThrough(sub, old, changed)
					}
				}
			}
		}
	}
}

// gone stands for a place that is taken out.
type gone struct{}

// pointers are the places below v, as keys and indexes.
func pointers(v any, at []any) (out [][]any) {
	if len(at) > 0 {
		out = append(out, slices.Clone(at))
	}
	switch x := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(x)) {
			if len(at) == 0 && key == "metadata" {
				continue // chance does metadata, which is the same for all kinds
			}
			out = append(out, pointers(x[key], append(at, key))...)
		}
	case []any:
		for i := range x {
			out = append(out, pointers(x[i], append(at, i))...)
		}
	}
	return out
}

// values are what a place is put to.
func (w *writer) values(at []any, seed []byte) (out []any) {
	out = []any{gone{}}
	switch x := get(tree(json.RawMessage(seed)), at).(type) {
	case string:
		for _, word := range []string{"", "X y", "../x", "..x", "/abs", "a/b/c", "a/b", "None", "10.0.0.1", "010.0.0.1", "127.0.0.1", "fd00::1", "unknown", "Never", "Exists", "-5", "0", "1.5", "101%", x + x, strings.Repeat("a", 64), strings.Repeat("b", 300), strings.Repeat("c", 1100)} {
			out = append(out, word)
		}
	case float64:
		for _, n := range []float64{0, -1, 1, x + 1, 5000, 70000, 1 << 31} {
			out = append(out, n)
		}
	case bool:
		out = append(out, !x)
	case []any:
		out = append(out, []any{})
		if len(x) > 0 {
			many := []any{}
			for range 300 {
				many = append(many, x[0])
			}
			out = append(out, append(slices.Clone(x), x[len(x)-1]), append(slices.Clone(x), x[0]), x[:len(x)-1], many)
		}
	case map[string]any:
		out = append(out, map[string]any{})
	}
	return out
}

func get(v any, at []any) any {
	for _, step := range at {
		switch s := step.(type) {
		case string:
			v = v.(map[string]any)[s]
		case int:
			v = v.([]any)[s]
		}
	}
	return v
}

// put is text with another value at a place; text itself if it has no such place.
func put(text []byte, at []any, value any) []byte {
	root := tree(json.RawMessage(text))
	if safely(func() {
		switch parent := get(root, at[:len(at)-1]).(type) {
		case map[string]any:
			if _, ok := value.(gone); ok {
				delete(parent, at[len(at)-1].(string))
			} else {
				parent[at[len(at)-1].(string)] = value
			}
		case []any:
			if _, ok := value.(gone); ok {
				value = map[string]any{}
			}
			parent[at[len(at)-1].(int)] = value
		default:
			panic(fmt.Sprintf("nothing at %v", at))
		}
	}) != nil {
		return text
	}
	out, err := json.Marshal(root)
	if err != nil {
		return text
	}
	return out
}
