package crd

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"skiff/api"
	"skiff/api/kind"
)

// customKind is one served version.
type customKind struct {
	def      *Definition
	version  string
	gvk      schema.GroupVersionKind
	listKind string

	status  bool                                            // there is a status subresource
	scale   *apiextensionsv1.CustomResourceSubresourceScale // nil: there is none
	columns *columns
	fields  []selectable
}

// erased is the version as the verbs see it.
func (k *customKind) erased() kind.Kind {
	out := kind.Kind{
		New:            func() kind.Object { return empty(k.gvk) },
		NewList:        func() runtime.Object { return emptyList(k.gvk, k.listKind) },
		Default:        k.fill,
		Create:         k.create,
		Update:         k.update,
		Intent:         k.intent,
		NameFor:        dnsSubdomain,
		AnyFinalizer:   true,
		Validate:       k.validate,
		ValidateUpdate: k.validateUpdate,
		Warn:           warn,
		Fields:         k.selectableFields,
		Columns:        k.columns.headers,
		Row:            func(obj kind.Object) []any { return k.columns.row(content(obj)) },

		UnconditionalUpdateForbidden: true,
	}
	if k.status {
		out.Subs = map[string]kind.ErasedSub{"status": {Update: updateStatus, Validate: k.validateStatus}}
	}
	if k.scale != nil {
		out.Scale = &kind.ErasedScale{Get: k.getScale, Set: k.setScale, Check: k.checkScale}
	}
	return out
}

// bareKind is the kind of objects of which only metadata is looked at.
func bareKind(gvk schema.GroupVersionKind, listKind string) kind.Kind {
	none := func(kind.Object) field.ErrorList { return nil }
	return kind.Kind{
		New:            func() kind.Object { return empty(gvk) },
		NewList:        func() runtime.Object { return emptyList(gvk, listKind) },
		Default:        func(kind.Object) {},
		Create:         func(kind.Object) {},
		Update:         func(kind.Object, kind.Object) {},
		NameFor:        dnsSubdomain,
		AnyFinalizer:   true,
		Validate:       none,
		ValidateUpdate: func(obj, _ kind.Object) field.ErrorList { return nil },
		Warn:           func(kind.Object, kind.Object) []string { return nil },
	}
}

func dnsSubdomain(kind.Object) func(string, bool) []string { return validation.NameIsDNSSubdomain }

func empty(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(gvk)
	return u
}

func emptyList(gvk schema.GroupVersionKind, listKind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{Object: map[string]any{}}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(listKind))
	return list
}

// content is the fields of a custom object.
func content(obj api.Object) map[string]any { return obj.(*unstructured.Unstructured).Object }

// create: what has a status subresource is created without a status.
func (k *customKind) create(obj kind.Object) {
	if k.status {
		delete(content(obj), "status")
	}
}

// update keeps the status where it has a subresource of its own.
func (k *customKind) update(obj, old kind.Object) {
	if !k.status {
		return
	}
	if status, ok := content(old)["status"]; ok {
		content(obj)["status"] = runtime.DeepCopyJSONValue(status)
	} else {
		delete(content(obj), "status")
	}
}

// updateStatus keeps all but the status and who owns its fields.
func updateStatus(obj, old kind.Object) {
	status, given := content(obj)["status"]
	owners := obj.GetManagedFields()
	kept := old.DeepCopyObject().(*unstructured.Unstructured)
	kept.SetManagedFields(owners)
	if given {
		kept.Object["status"] = status
	} else {
		delete(kept.Object, "status")
	}
	obj.(*unstructured.Unstructured).Object = kept.Object
}

// intent is all but metadata, and but the status where that is written apart.
func (k *customKind) intent(obj kind.Object) any {
	out := make(map[string]any, len(content(obj)))
	for name, value := range content(obj) {
		if name != "metadata" && (name != "status" || !k.status) {
			out[name] = value
		}
	}
	return out
}

var plainFinalizers = sets.New(metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes))

// warn is about names of finalizers that may collide with others'.
func warn(obj, old kind.Object) (texts []string) {
	added := sets.New(obj.GetFinalizers()...)
	if old != nil {
		added.Delete(old.GetFinalizers()...)
	}
	for _, name := range sets.List(added) {
		for _, message := range utilvalidation.IsQualifiedName(name) {
			texts = append(texts, fmt.Sprintf("metadata.finalizers: %q: %s", name, message))
		}
		switch {
		case strings.Contains(name, "/") || plainFinalizers.Has(name):
		case strings.Contains(name, "."):
			texts = append(texts, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", name))
		default:
			texts = append(texts, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", name))
		}
	}
	return texts
}

// selectable is a field by which objects can be selected.
type selectable struct{ name, path string }

func newFields(declared []apiextensionsv1.SelectableField) (out []selectable) {
	for _, f := range declared {
		out = append(out, selectable{strings.TrimPrefix(f.JSONPath, "."), f.JSONPath})
	}
	return out
}

// selectableFields are the values of the declared fields; "" where there is none.
func (k *customKind) selectableFields(obj kind.Object) fields.Set {
	set := make(fields.Set, len(k.fields))
	for _, f := range k.fields {
		set[f.name] = ""
		path, err := parsePath(f.name, f.path)
		if err != nil {
			continue // validation does not let it come to this
		}
		found, err := path.FindResults(content(obj))
		if err == nil && len(found) == 1 && len(found[0]) == 1 && found[0][0].Interface() != nil {
			set[f.name] = fmt.Sprint(found[0][0].Interface())
		}
	}
	return set
}

func parsePath(name, path string) (*jsonpath.JSONPath, error) {
	p := jsonpath.New(name).AllowMissingKeys(true)
	return p, p.Parse("{" + path + "}")
}
