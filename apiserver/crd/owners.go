package crd

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// owners is api.Custom's Owners: one field manager for the object and one for its
// status, made when first asked for.
func (k *customKind) owners() func(string) (*managedfields.FieldManager, error) {
	object := sync.OnceValues(func() (*managedfields.FieldManager, error) { return k.fieldManager("") })
	status := sync.OnceValues(func() (*managedfields.FieldManager, error) { return k.fieldManager("status") })
	return func(subresource string) (*managedfields.FieldManager, error) {
		switch subresource {
		case "":
			return object()
		case "status":
			return status()
		}
		return nil, fmt.Errorf("nobody owns fields of %s through %s", k.gvk, subresource)
	}
}

func (k *customKind) fieldManager(subresource string) (*managedfields.FieldManager, error) {
	c, err := k.def.compile()
	if err != nil {
		return nil, err
	}
	types, err := k.def.docs.types(k.def)
	if err != nil {
		return nil, err
	}
	reset := map[fieldpath.APIVersion]*fieldpath.Set{}
	at := fieldpath.APIVersion(apiVersion(k.gvk))
	switch {
	case subresource == "status":
		reset[at] = fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
	case k.status:
		reset[at] = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	}
	return managedfields.NewDefaultCRDFieldManager(types, c.convert, filler{c}, creator{}, k.gvk, k.gvk.GroupVersion(),
		subresource, fieldpath.NewExcludeFilterSetMap(reset))
}

// filler gives defaults in whichever version an object is.
type filler struct{ c *compiled }

// Default implements runtime.ObjectDefaulter.
func (f filler) Default(obj runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		f.c.fill(u)
	}
}

type creator struct{}

// New implements runtime.ObjectCreater.
func (creator) New(kind schema.GroupVersionKind) (runtime.Object, error) { return empty(kind), nil }

// typeConverter knows how the lists and maps of all versions merge.
func (def *Definition) typeConverter() (managedfields.TypeConverter, error) {
	d := def.object()
	models := map[string]*spec.Schema{}
	meta, err := def.config.Meta()
	if err != nil {
		return nil, err
	}
	for name, s := range meta {
		models[name] = s
	}
	for _, v := range d.Spec.Versions {
		name, s, err := def.schema(d, v.Name, form{})
		if err != nil {
			return nil, err
		}
		models[name] = s
	}
	return managedfields.NewTypeConverter(models, d.Spec.PreserveUnknownFields)
}
