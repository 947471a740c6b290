package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"

	"skiff/api"
)

// A pair is one row of the catalogue with upstream's side of it.
type pair struct {
	name     string        // of the row, as in testdata/seeds
	row      *api.Resource // whose URL is written to
	stored   *api.Resource // which judges the write; the same row but for views
	upstream upstreamKind
	seeds    []api.Object
	known    *knowledge
}

// rowName is unique among the catalogue's rows.
func rowName(row *api.Resource) string {
	if row.Group == "autoscaling" && row.Version == "v1" {
		return row.Name + ".v1." + row.Group
	}
	return row.String()
}

// pairs are all kinds that can be stored.
func pairs(t testing.TB) []*pair {
	upstream := upstreamKinds()
	var out []*pair
	seeds, rows := map[*api.Resource][]api.Object{}, []*api.Resource{}
	for _, row := range api.Catalogue {
		if row.Prefix == "" && row.View == nil {
			continue
		}
		p := &pair{name: rowName(row), row: row, stored: row, upstream: upstream[rowName(row)]}
		if p.upstream.main == nil {
			t.Errorf("%s: upstream's side is missing in upstreamKinds", p.name)
			continue
		}
		if row.View != nil {
			p.stored = api.Find(row.View.Of)
		}
		p.seeds = p.readSeeds(t)
		seeds[row], rows = p.seeds, append(rows, row)
		out = append(out, p)
	}
	known := learn(t, rows, seeds)
	for _, p := range out {
		p.known = known
	}
	return out
}

func (p *pair) readSeeds(t testing.TB) (out []api.Object) {
	text, err := os.ReadFile("testdata/seeds/" + p.name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i, doc := range bytes.Split(text, []byte("\n---\n")) {
		obj := p.row.Kind.New()
		if err := yaml.UnmarshalStrict(doc, obj); err != nil {
			t.Fatalf("seed %d of %s: %v", i, p.name, err)
		}
		if p.row.Namespaced {
			obj.SetNamespace("default")
		}
		out = append(out, obj)
	}
	return out
}

// context is that of a request to this row.
func (p *pair) context(subresource string) context.Context {
	namespace := ""
	if p.row.Namespaced {
		namespace = "default"
	}
	ctx := genericapirequest.WithNamespace(genericapirequest.NewContext(), namespace)
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{IsResourceRequest: true, APIGroup: p.row.Group,
		APIVersion: p.row.Version, Resource: p.row.Name, Subresource: subresource, Namespace: namespace})
}

// listening is context with the list of the warnings that upstream gives to it.
func (p *pair) listening(subresource string) (context.Context, *heard) {
	given := &heard{}
	return warning.WithWarningRecorder(p.context(subresource), given), given
}

type heard []string

// AddWarning is upstream's way to warn while it prepares an object.
func (h *heard) AddWarning(_, text string) { *h = append(*h, text) }

// decode is what both sides begin with; nil: not an object of the kind.
func (p *pair) decode(text []byte) api.Object {
	obj := p.row.Kind.New()
	if json.Unmarshal(text, obj) != nil {
		return nil
	}
	return obj
}

// internal is upstream's object for a request's body, with its defaults.
func (p *pair) internal(text []byte) (runtime.Object, error) {
	obj := p.decode(text)
	if obj == nil {
		return nil, fmt.Errorf("not a %s", p.row.KindName)
	}
	legacyscheme.Scheme.Default(obj)
	return legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: p.row.Group, Version: runtime.APIVersionInternal})
}

// ours is the object that Skiff would admit for a request's body: with its defaults, in the storage's version.
func (p *pair) ours(text []byte) api.Object {
	obj := p.decode(text)
	p.row.Kind.Default(obj)
	if p.row.View != nil {
		obj = p.row.View.ToStored(obj)
		p.stored.Kind.Default(obj)
	}
	return obj
}

// shown is upstream's internal object in the version of the row.
func (p *pair) shown(in runtime.Object) map[string]any {
	out, err := legacyscheme.Scheme.ConvertToVersion(in.DeepCopyObject(), p.row.GVK().GroupVersion())
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return bare(out)
}

// shownOurs is the stored object in the version of the row.
func (p *pair) shownOurs(obj api.Object) map[string]any {
	if p.row.View != nil {
		return bare(p.row.View.FromStored(obj))
	}
	return bare(obj)
}

// read is upstream's object as a reader gets it: the store keeps protobuf, which does not tell empty from unset, and what
// is read from it gets its defaults again.
func (p *pair) read(in runtime.Object) map[string]any {
	text, err := json.Marshal(p.shown(in))
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	obj := throughStore(p.decode(text))
	legacyscheme.Scheme.Default(obj)
	again, err := legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: p.row.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return p.shown(again)
}

// readOurs is the same of an object as Skiff stores it.
func (p *pair) readOurs(obj api.Object) map[string]any {
	obj = throughStore(obj.DeepCopyObject().(api.Object))
	p.stored.Kind.Default(obj)
	return p.shownOurs(obj)
}

// throughStore is an object after it was encoded to protobuf and decoded, where its kind can be.
func throughStore(obj api.Object) api.Object {
	from, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return obj
	}
	text, err := from.Marshal()
	to := reflect.New(reflect.TypeOf(obj).Elem()).Interface().(interface {
		api.Object
		Unmarshal([]byte) error
	})
	if err != nil || to.Unmarshal(text) != nil {
		return obj
	}
	return to
}

// bare is an object as JSON without its type.
func bare(obj any) map[string]any {
	out := tree(obj)
	delete(out, "kind")
	delete(out, "apiVersion")
	return out
}

// isNow tells whether v is the time of this test run.
func isNow(v any) bool {
	text, ok := v.(string)
	if !ok || !strings.HasPrefix(text, "20") {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return err == nil && time.Since(at).Abs() < time.Hour
}

// safely calls f, and returns what it panicked with.
func safely(f func()) (panicked any) {
	defer func() { panicked = recover() }()
	f()
	return nil
}
