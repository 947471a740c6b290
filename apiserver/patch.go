package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"skiff/api"
	"skiff/cache"
)

const (
	// maxPatchOperations is how many operations one JSON patch may have, and
	// maxPatchCopies by how many bytes those that copy may make an object larger.
	maxPatchOperations = 10000
	maxPatchCopies     = 3 << 20
)

// limitCopies sets the library's limit, which is one for the whole process and
// which it does not set itself: a few copies of copies would fill the memory.
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxPatchCopies })

// patch answers PATCH, to an object or to one of its parts.
func (s *Server) patch(ctx context.Context, r *Request) (*Result, error) {
	if err := partExists(r); err != nil {
		return nil, err
	}
	if r.PatchType == types.ApplyYAMLPatchType {
		return s.apply(ctx, r)
	}
	p, err := newPatch(r, r.Resource.GVK(), r.Resource.Kind.New)
	if err != nil {
		return nil, err
	}
	return s.modify(ctx, r, change{make: func(entry *cache.Entry, old api.Object) (api.Object, error) {
		obj, err := p.to(entry.As(r.Resource).Object())
		if err != nil {
			return nil, err
		}
		r.Resource.Kind.Default(obj)
		if err := s.owners.update(r, old, obj); err != nil {
			return nil, err
		}
		return toStored(r.Resource, obj), nil
	}})
}

// patch is what a client sent with PATCH, parsed once for all tries.
type patch struct {
	r     *Request
	kind  schema.GroupVersionKind // of what is patched: the URL's, or Scale
	empty func() api.Object
	// apply changes the JSON of an object (JSON and merge patches) …
	apply func(document []byte) ([]byte, error)
	// touches are the top-level fields that apply may change or look at; nil: all.
	touches map[string]bool
	// … or its fields as a map (strategic merge patches).
	merge map[string]any
	// dubious are the fields that are given twice.
	dubious []error
}

func newPatch(r *Request, kind schema.GroupVersionKind, empty func() api.Object) (*patch, error) {
	if !json.Valid(r.Body.Bytes) {
		return nil, apierrors.NewBadRequest("invalid JSON patch")
	}
	p := &patch{r: r, kind: kind, empty: empty}
	switch r.PatchType {
	case types.JSONPatchType:
		return p, p.parseJSONPatch()
	case types.MergePatchType:
		return p, p.parseMergePatch()
	case types.StrategicMergePatchType:
		if _, custom := empty().(*unstructured.Unstructured); !custom {
			return p, p.parseStrategic()
		}
	}
	return nil, unsupportedMediaType(patchTypesOf(r))
}

// strict tells whether unknown and duplicate fields matter.
func (p *patch) strict() bool { return p.r.Write.FieldValidation != metav1.FieldValidationIgnore }

// jsonPatchOp is one operation, for finding fields that no operation has.
type jsonPatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

func (p *patch) parseJSONPatch() error {
	if p.strict() {
		var operations []jsonPatchOp
		dubious, err := kjson.UnmarshalStrict(p.r.Body.Bytes, &operations)
		if err != nil {
			// The type's name is what clients of Kubernetes know from the message.
			text := strings.Replace(err.Error(), "apiserver.jsonPatchOp", "handlers.jsonPatchOp", 1)
			return apierrors.NewBadRequest("error decoding patch: " + text)
		}
		for _, d := range dubious {
			p.dubious = append(p.dubious, fmt.Errorf("json patch %v", d))
		}
	}
	operations, err := jsonpatch.DecodePatch(p.r.Body.Bytes)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if len(operations) > maxPatchOperations {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
	}
	p.touches = touchedBy(operations)
	p.apply = func(document []byte) ([]byte, error) {
		patched, err := applied(operations, document)
		if err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
		return patched, nil
	}
	return nil
}

// applied applies operations. The library takes for granted that a test has a
// value; what panics there is a patch that cannot be applied.
func applied(operations jsonpatch.Patch, document []byte) (patched []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			patched, err = nil, fmt.Errorf("an operation cannot be applied: %v", cause)
		}
	}()
	return operations.Apply(document)
}

// touchedBy are the top-level fields that JSON patch operations name; nil: one
// names the whole document, or something that cannot be told.
func touchedBy(operations jsonpatch.Patch) map[string]bool {
	touched := make(map[string]bool)
	note := func(path string) bool {
		first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		touched[first] = true
		return first != "" && strings.HasPrefix(path, "/")
	}
	for _, o := range operations {
		path, err := o.Path()
		if err != nil || !note(path) {
			return nil
		}
		if _, ok := o["from"]; !ok {
			continue
		}
		if from, err := o.From(); err != nil || !note(from) {
			return nil
		}
	}
	return touched
}

func (p *patch) parseMergePatch() error {
	var fields map[string]any
	if p.strict() {
		dubious, err := kjson.UnmarshalStrict(p.r.Body.Bytes, &fields)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		p.dubious = dubious
	} else if kjson.UnmarshalCaseSensitivePreserveInts(p.r.Body.Bytes, &fields) != nil {
		fields = nil // no object: how it is refused depends on what applying it makes
	}
	if fields != nil {
		p.touches = make(map[string]bool, len(fields))
	}
	for name := range fields {
		p.touches[name] = true
	}
	p.apply = func(document []byte) ([]byte, error) {
		patched, err := jsonpatch.MergePatch(document, p.r.Body.Bytes)
		if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return patched, err
	}
	return nil
}

func (p *patch) parseStrategic() (err error) {
	p.merge = make(map[string]any)
	if p.strict() {
		p.dubious, err = kjson.UnmarshalStrict(p.r.Body.Bytes, &p.merge)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.r.Body.Bytes, &p.merge)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if p.merge == nil { // "null" changes nothing
		p.merge = make(map[string]any)
	}
	return nil
}

// to returns the patched form of old, which is in the version of the URL.
func (p *patch) to(old api.Object) (api.Object, error) {
	if p.merge != nil {
		return p.mergeInto(old)
	}
	if p.touches != nil && p.r.Resource.Custom == nil {
		part, err := p.applied(only(old, p.touches))
		if err == nil {
			return with(old, part, p.touches), nil
		}
		// The error shows the whole object.
	}
	return p.applied(old)
}

// applied applies a JSON or merge patch to what there is of an object.
func (p *patch) applied(old api.Object) (api.Object, error) {
	document, err := json.Marshal(withKind(old, p.kind))
	if err != nil {
		return nil, fmt.Errorf("patch %s %s: %w", p.r.Resource, p.r.Name, err)
	}
	patched, err := p.apply(document)
	if err != nil {
		return nil, err
	}
	obj := p.empty()
	_, dubious, err := unmarshalJSON(patched, p.kind, obj, p.strict())
	if err != nil {
		return nil, badPatch(string(patched), err)
	}
	unknown, err := coerce(p.r.Resource, obj, p.strict())
	if err != nil {
		return nil, badPatch(string(patched), err)
	}
	if err := p.report(append(dubious, unknown...), string(patched)); err != nil {
		return nil, err
	}
	clearKind(obj)
	return obj, nil
}

// only returns an object that has those of obj's top-level fields that a patch
// touches, so that the others need not be encoded and decoded. It shares them.
func only(obj api.Object, touched map[string]bool) api.Object {
	from := reflect.ValueOf(obj).Elem()
	part := reflect.New(from.Type())
	for i := range from.NumField() {
		if touched[topLevel(from.Type().Field(i))] {
			part.Elem().Field(i).Set(from.Field(i))
		}
	}
	return part.Interface().(api.Object)
}

// with returns a copy of obj that has the touched fields of part instead of its own.
func with(obj, part api.Object, touched map[string]bool) api.Object {
	whole := obj.DeepCopyObject().(api.Object)
	to, from := reflect.ValueOf(whole).Elem(), reflect.ValueOf(part).Elem()
	for i := range to.NumField() {
		if touched[topLevel(to.Type().Field(i))] {
			to.Field(i).Set(from.Field(i))
		}
	}
	return whole
}

// topLevel is the JSON name of a field of an object.
func topLevel(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func (p *patch) mergeInto(old api.Object) (api.Object, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(withKind(old, p.kind))
	if err != nil {
		return nil, fmt.Errorf("patch %s %s: %w", p.r.Resource, p.r.Name, err)
	}
	// Merging consumes both of its arguments.
	patched, err := strategicpatch.StrategicMergeMapPatch(fields, runtime.DeepCopyJSON(p.merge), p.empty())
	if err != nil {
		return nil, strategicError(err)
	}
	obj := p.empty()
	var dubious []error
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patched, obj, p.strict()); err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return nil, badPatch(fmt.Sprintf("%+v", p.merge), err)
		}
		dubious = strict.Errors()
	}
	if err := p.report(dubious, fmt.Sprintf("%+v", p.merge)); err != nil {
		return nil, err
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	if found, err := foundKind(apiVersion, kind, p.kind); err != nil { // what it takes away is as it was
		return nil, badPatch(fmt.Sprintf("%+v", p.merge), fmt.Errorf("the patch changes the kind to %s", found))
	}
	clearKind(obj)
	return obj, nil
}

// report warns about, or refuses, fields that are unknown or given twice.
func (p *patch) report(unknown []error, value string) error {
	all := append(p.dubious[:len(p.dubious):len(p.dubious)], unknown...)
	if len(all) == 0 {
		return nil
	}
	if err := p.r.dubious(all); err != nil {
		return badPatch(value, err)
	}
	return nil
}

// badPatch says that what a patch makes of an object is no object of the kind.
func badPatch(value string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, err.Error())})
}

func strategicError(err error) error {
	switch err {
	case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
		return apierrors.NewBadRequest(err.Error())
	case mergepatch.ErrNoListOfLists, mergepatch.ErrPatchContentNotMatchRetainKeys:
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	// Kubernetes has no code for the rest ("unknown patch type", a missing merge key), and
	// answers 500; but it is what the client sent that is wrong.
	return apierrors.NewBadRequest(err.Error())
}
