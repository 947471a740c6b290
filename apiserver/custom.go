package apiserver

import (
	"fmt"
	"iter"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"skiff/api"
	"skiff/cache"
)

// What the verbs do otherwise for custom resources, because their objects have no
// Go type: they are decoded by a schema, and converted where they are shown.

// coerce makes of an object that a client sent one of the row's. What its schema
// does not know is dropped, and with report returned as errors.
func coerce(row *api.Resource, obj runtime.Object, report bool) (dubious []error, err error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || row.Custom == nil {
		return nil, nil
	}
	unknown, err := row.Custom.Coerce(u, report)
	if err != nil {
		return nil, err
	}
	for _, path := range unknown {
		dubious = append(dubious, fmt.Errorf("unknown field %q", path))
	}
	return dubious, nil
}

// unmarshalCustom reads a JSON object whose kind has no Go type.
func unmarshalCustom(data []byte, kind schema.GroupVersionKind, into *unstructured.Unstructured, strict bool) (found schema.GroupVersionKind, dubious []error, err error) {
	fields := map[string]any{}
	if strict {
		dubious, err = kjson.UnmarshalStrict(data, &fields)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &fields)
	}
	if err != nil {
		return found, nil, fmt.Errorf("couldn't get version/kind; json parse error: %v", err)
	}
	into.Object = fields
	gv, err := schema.ParseGroupVersion(into.GetAPIVersion())
	if err != nil {
		return found, nil, err
	}
	found = gv.WithKind(into.GetKind())
	switch {
	case found.Kind == "":
		return kind, nil, runtime.NewMissingKindErr(string(data))
	case gv.Empty():
		return kind, nil, runtime.NewMissingVersionErr(string(data))
	case gv != kind.GroupVersion():
		return found, nil, errOtherVersion{gv, kind.GroupVersion()}
	}
	return found, dubious, nil // whether the kind is right, validation says
}

// showing yields the entries as the selection's row shows them. Those of a custom
// resource may have to be converted by a webhook: it is asked for a batch of them
// at a time, and for none when enough is said to have been reached.
func (s *selection) showing(entries iter.Seq[*cache.Entry], batch int, enough func() bool) iter.Seq[*cache.Entry] {
	if s.row.Custom == nil {
		return entries
	}
	return func(yield func(*cache.Entry) bool) {
		var waiting []*cache.Entry
		flush := func() bool {
			shown, err := cache.Show(s.row, waiting)
			if err != nil {
				shown = waiting // one by one, so that each has its own error
			}
			waiting = waiting[:0]
			for _, e := range shown {
				if !yield(e) {
					return false
				}
			}
			return true
		}
		for e := range entries {
			if enough() {
				if !flush() || !yield(e) {
					return
				}
				continue
			}
			if waiting = append(waiting, e); len(waiting) >= batch && !flush() {
				return
			}
		}
		flush()
	}
}
