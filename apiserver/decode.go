package apiserver

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"skiff/api"
)

// protobufMagic begins a Kubernetes protobuf message; runtime.Unknown follows.
var protobufMagic = []byte("k8s\x00")

// foreignScheme is what upstream calls its table of types in messages about
// kinds that it does not know. Clients have been seen to match on it.
const foreignScheme = "pkg/api/legacyscheme/scheme.go:30"

// decodeObject returns what the client sent for the request's own resource,
// with its defaults.
func (r *Request) decodeObject() (api.Object, error) {
	if obj, ok := r.Body.Object.(*unstructured.Unstructured); ok && obj.GroupVersionKind() == r.Resource.GVK() {
		if _, err := coerce(r.Resource, obj, false); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		r.Resource.Kind.Default(obj)
		return obj, nil
	}
	if obj, ok := r.Body.Object.(api.Object); ok {
		if api.Of(obj) != r.Resource {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the object sent is a %T, not a %s", obj, r.Resource.KindName))
		}
		clearKind(obj)
		r.Resource.Kind.Default(obj)
		return obj, nil
	}
	obj := r.Resource.Kind.New()
	if err := r.decodeInto(r.Resource.GVK(), obj); err != nil {
		return nil, err
	}
	r.Resource.Kind.Default(obj)
	return obj, nil
}

// decodeInto fills into, an object of the given kind, from what the client sent:
// the request's own object, or that of a subresource (Scale, Binding, Eviction,
// TokenRequest). Its TypeMeta is empty afterwards. Unknown and duplicate fields
// are errors, warnings or nothing, as the request's FieldValidation says.
func (r *Request) decodeInto(kind schema.GroupVersionKind, into runtime.Object) error {
	strict := r.Write.FieldValidation != metav1.FieldValidationIgnore
	var found schema.GroupVersionKind
	var dubious []error
	var err error
	switch r.Body.ContentType {
	case runtime.ContentTypeProtobuf:
		found, err = unmarshalProtobuf(r.Body.Bytes, kind, into)
	case runtime.ContentTypeYAML:
		found, dubious, err = unmarshalYAML(r.Body.Bytes, kind, into, strict)
	default:
		found, dubious, err = unmarshalJSON(r.Body.Bytes, kind, into, strict)
	}
	if err == nil {
		var unknown []error
		unknown, err = coerce(r.Resource, into, strict)
		dubious = append(dubious, unknown...)
	}
	if err == nil && len(dubious) > 0 {
		err = r.dubious(dubious)
	}
	if err != nil {
		return undecodable(err, kind, found, r.Body.Bytes)
	}
	clearKind(into)
	return nil
}

// dubious reports fields that are unknown or given twice: as warnings, or under
// strict validation as the error that it returns.
func (r *Request) dubious(errs []error) error {
	if r.Write.FieldValidation == metav1.FieldValidationStrict {
		return runtime.NewStrictDecodingError(errs)
	}
	for _, err := range errs {
		for _, text := range yamlWarnings(err.Error()) {
			r.Warn(text)
		}
	}
	return nil
}

// yamlWarnings takes apart the one error that the YAML parser makes of many.
func yamlWarnings(text string) []string {
	for _, prefix := range []string{"yaml: unmarshal errors:\n", "error converting YAML to JSON: yaml: unmarshal errors:\n"} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			lines := strings.Split(rest, "\n")
			for i := range lines {
				lines[i] = strings.TrimSpace(lines[i])
			}
			return lines
		}
	}
	return []string{text}
}

// unmarshalJSON reads the body into the Go type first and looks at kind and
// apiVersion afterwards, so that the usual body is parsed once.
func unmarshalJSON(data []byte, kind schema.GroupVersionKind, into runtime.Object, strict bool) (found schema.GroupVersionKind, dubious []error, err error) {
	if u, ok := into.(*unstructured.Unstructured); ok {
		return unmarshalCustom(data, kind, u, strict)
	}
	if strict {
		dubious, err = kjson.UnmarshalStrict(data, into)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, into)
	}
	if err != nil {
		var head metav1.TypeMeta
		if headErr := kjson.UnmarshalCaseSensitivePreserveInts(data, &head); headErr != nil {
			return found, nil, fmt.Errorf("couldn't get version/kind; json parse error: %v", headErr)
		}
		found, kindErr := foundKind(head.APIVersion, head.Kind, kind)
		if kindErr != nil {
			return found, nil, kindErr
		}
		return found, nil, err
	}
	apiVersion, kindName := into.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	found, err = foundKind(apiVersion, kindName, kind)
	return found, dubious, err
}

func unmarshalYAML(data []byte, kind schema.GroupVersionKind, into runtime.Object, strict bool) (found schema.GroupVersionKind, dubious []error, err error) {
	converted, err := yaml.YAMLToJSON(data)
	if err != nil {
		return found, nil, err
	}
	found, dubious, err = unmarshalJSON(converted, kind, into, strict)
	if err == nil && strict {
		if _, twice := yaml.YAMLToJSONStrict(data); twice != nil {
			dubious = append([]error{twice}, dubious...)
		}
	}
	return found, dubious, err
}

func unmarshalProtobuf(data []byte, kind schema.GroupVersionKind, into runtime.Object) (found schema.GroupVersionKind, err error) {
	rest, ok := bytes.CutPrefix(data, protobufMagic)
	switch {
	case len(data) == 0:
		return found, errors.New("empty data")
	case !ok:
		return found, fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufMagic)
	case len(rest) == 0:
		return found, errors.New("empty body")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(rest); err != nil {
		return found, err
	}
	if found, err = foundKind(envelope.APIVersion, envelope.Kind, kind); err != nil {
		return found, err
	}
	message, ok := into.(interface{ Unmarshal([]byte) error })
	if !ok {
		return found, fmt.Errorf("object %T does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message", into)
	}
	return found, message.Unmarshal(envelope.Raw)
}

// foundKind completes the kind that a body names with the one that is expected,
// and refuses another.
func foundKind(apiVersion, kindName string, want schema.GroupVersionKind) (schema.GroupVersionKind, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	found := gv.WithKind(kindName)
	if found.Kind == "" {
		found.Kind = want.Kind
	}
	if gv.Empty() {
		found.Group, found.Version = want.Group, want.Version
	}
	if found == want {
		return found, nil
	}
	other := api.FindKind(found)
	switch {
	case other == nil:
		return found, runtime.NewNotRegisteredErrForKind(foreignScheme, found)
	case found.GroupKind() == want.GroupKind():
		return found, errOtherVersion{found.GroupVersion(), want.GroupVersion()}
	}
	return found, fmt.Errorf("converting (%s) to (%s): unknown conversion", goName(other.GVK(), found.Version), goName(want, ""))
}

// errOtherVersion is a body in a version of the kind that the URL does not name.
type errOtherVersion struct{ found, want schema.GroupVersion }

func (e errOtherVersion) Error() string {
	return fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", e.found, e.want)
}

// goName names a type as upstream's messages do: v1.Pod for what was sent,
// core.Pod for what was expected.
func goName(kind schema.GroupVersionKind, pkg string) string {
	if pkg == "" {
		pkg, _, _ = strings.Cut(kind.Group, ".")
		if pkg == "" {
			pkg = "core"
		}
	}
	return pkg + "." + kind.Kind
}

// undecodable is the Status for a body that cannot be read.
func undecodable(err error, want, found schema.GroupVersionKind, data []byte) error {
	var other errOtherVersion
	switch {
	case errors.As(err, &other):
		return apierrors.NewBadRequest(err.Error())
	case found.Kind != "":
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", found.Kind, found.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(data)))
}

// summary shows the beginning of a body that cannot be read.
func summary(data []byte) string {
	const shown = 30
	text := "<empty>"
	switch {
	case len(data) == 0:
		return text
	case data[0] == '{':
		text = string(data[:min(shown, len(data))])
	default:
		text = hex.EncodeToString(data[:min(shown, len(data))])
	}
	if len(data) > shown {
		text += " ..."
	}
	return text
}

// clearKind empties TypeMeta: stored and cached objects have none, since their
// row says what they are. Custom ones keep it.
func clearKind(obj runtime.Object) {
	if _, custom := obj.(*unstructured.Unstructured); custom {
		return
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
}
