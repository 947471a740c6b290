package crd

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/api"
	"skiff/api/kind"
)

// compiled is a definition as it is used. It is made when an object is first read
// or written.
type compiled struct {
	versions map[string]*compiledVersion // all: objects may be stored in any of them
	kind     schema.GroupKind
	stored   string // the version in which objects are stored
	preserve bool   // nothing is pruned, as before apiextensions.k8s.io/v1
	convert  runtime.ObjectConvertor
}

// compiledVersion is the schema of one version. structural is nil where it has none.
type compiledVersion struct {
	structural      *structural.Structural
	validator       schemavalidation.SchemaValidator
	statusValidator schemavalidation.SchemaValidator // nil: the status has no schema
	cel             func() *structuralcel.Validator  // nil: there are no rules
}

func (def *Definition) compileNow() (*compiled, error) {
	d := def.object()
	c := &compiled{versions: map[string]*compiledVersion{}, kind: schema.GroupKind{Group: d.Spec.Group, Kind: def.identity.names.Kind},
		preserve: d.Spec.PreserveUnknownFields}
	var err error
	if c.stored, err = apihelpers.GetCRDStorageVersion(d); err != nil {
		return nil, err
	}
	for _, v := range d.Spec.Versions {
		if c.versions[v.Name], err = compileVersion(d, v.Name); err != nil {
			return nil, fmt.Errorf("the schema of %s in %s: %w", v.Name, def.Name, err)
		}
	}
	if c.convert, err = def.config.Converter(d); err != nil {
		return nil, fmt.Errorf("the conversion of %s: %w", def.Name, err)
	}
	return c, nil
}

func compileVersion(d *apiextensionsv1.CustomResourceDefinition, name string) (*compiledVersion, error) {
	props, err := internalSchema(d, name)
	if err != nil {
		return nil, err
	}
	v := &compiledVersion{}
	if props != nil {
		s, err := structural.NewStructural(props)
		if err != nil && !d.Spec.PreserveUnknownFields {
			return nil, err
		}
		if err == nil {
			v.structural = s.DeepCopy() // defaults are shared with props otherwise
			if !d.Spec.PreserveUnknownFields {
				if err := defaulting.PruneDefaults(v.structural); err != nil {
					return nil, err
				}
			}
		}
		if status, ok := props.Properties["status"]; ok {
			if v.statusValidator, _, err = schemavalidation.NewSchemaValidator(&status); err != nil {
				return nil, err
			}
		}
	}
	if v.validator, _, err = schemavalidation.NewSchemaValidator(props); err != nil {
		return nil, err
	}
	v.cel = sync.OnceValue(func() *structuralcel.Validator {
		return structuralcel.NewValidator(v.structural, true, celconfig.PerCallLimit)
	})
	return v, nil
}

// internalSchema returns a version's schema as the libraries take it; nil: there is none.
func internalSchema(d *apiextensionsv1.CustomResourceDefinition, version string) (*apiextensions.JSONSchemaProps, error) {
	declared, err := apihelpers.GetSchemaForVersion(d, version)
	if err != nil || declared == nil || declared.OpenAPIV3Schema == nil {
		return nil, err
	}
	internal := &apiextensions.CustomResourceValidation{}
	// The conversion moves parts that are the same in all versions, in place.
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(declared.DeepCopy(), internal, nil); err != nil {
		return nil, err
	}
	return internal.OpenAPIV3Schema, nil
}

func (k *customKind) compiled() (*compiledVersion, error) {
	c, err := k.def.compile()
	if err != nil {
		return nil, err
	}
	return c.versions[k.version], nil
}

// fill gives an object the defaults of its schema.
func (k *customKind) fill(obj kind.Object) {
	if c, err := k.def.compile(); err == nil { // else nothing is read or written
		c.fill(obj.(*unstructured.Unstructured))
	}
}

func (c *compiled) fill(u *unstructured.Unstructured) {
	if v := c.versions[u.GroupVersionKind().Version]; v != nil && v.structural != nil {
		defaulting.Default(u.Object, v.structural)
	}
}

// coerce is api.Custom's Coerce.
func (k *customKind) coerce(obj api.Object, report bool) ([]string, error) {
	c, err := k.def.compile()
	if err != nil {
		return nil, err
	}
	return c.coerce(obj.(*unstructured.Unstructured), coercion{report: report})
}

// coercion says how much is forgiven.
type coercion struct {
	report bool // name what is dropped
	mend   bool // objects may have been stored before today's rules: what is malformed is dropped
}

// coerce does to an object what decoding does to those of Go types: metadata gets
// its form, and what the schema does not know goes away, as do nulls where none
// may be. kind, apiVersion and metadata need not be in the schema.
func (c *compiled) coerce(u *unstructured.Unstructured, how coercion) (unknown []string, err error) {
	kindName, apiVersion := u.GetKind(), u.GetAPIVersion()
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: how.mend, ReturnUnknownFieldPaths: how.report})
	if err != nil {
		return nil, err
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	var s *structural.Structural
	if v := c.versions[gv.Version]; v != nil {
		s = v.structural
	}
	if !c.preserve {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, s, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.report})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s)
	}
	wrong, paths := objectmeta.CoerceWithOptions(nil, u.Object, s, false, objectmeta.CoerceOptions{
		DropInvalidFields: how.mend, ReturnUnknownFieldPaths: how.report})
	if wrong != nil {
		return nil, wrong
	}
	if how.mend && meta != nil && meta.Generation == 0 {
		meta.Generation = 1
	}
	u.SetKind(kindName)
	u.SetAPIVersion(apiVersion)
	if hasMeta {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return append(unknown, paths...), nil
}

// show is api.Custom's Show: each object under the schema of its own version, and
// then, all at once, in this one.
func (k *customKind) show(stored []api.Object) ([]api.Object, error) {
	c, err := k.def.compile()
	if err != nil {
		return nil, err
	}
	want := apiVersion(k.gvk)
	list := emptyList(k.gvk, k.listKind)
	convert := false
	for _, obj := range stored {
		u := obj.(*unstructured.Unstructured).DeepCopy()
		if _, err := c.coerce(u, coercion{mend: true}); err != nil {
			return nil, err
		}
		c.fill(u)
		convert = convert || u.GetAPIVersion() != want
		list.Items = append(list.Items, *u)
	}
	if convert {
		if list, err = c.converted(list, k.gvk.GroupVersion()); err != nil {
			return nil, err
		}
	}
	out := make([]api.Object, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// converted returns a list in another version.
func (c *compiled) converted(list *unstructured.UnstructuredList, to schema.GroupVersion) (*unstructured.UnstructuredList, error) {
	// The converter takes one object for one, so that its errors name it.
	var in runtime.Object = list
	if len(list.Items) == 1 {
		in = &list.Items[0]
	}
	out, err := c.convert.ConvertToVersion(in, to)
	if err != nil {
		return nil, err
	}
	if one, ok := out.(*unstructured.Unstructured); ok {
		list.Items[0] = *one
	} else {
		list = out.(*unstructured.UnstructuredList)
	}
	for i := range list.Items {
		if _, err := c.coerce(&list.Items[i], coercion{}); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// store is api.Custom's Store.
func (k *customKind) store(obj api.Object) (api.Object, error) {
	c, err := k.def.compile()
	if err != nil {
		return nil, err
	}
	if c.stored == k.version {
		return obj, nil
	}
	list := emptyList(k.gvk, k.listKind)
	list.Items = append(list.Items, *obj.(*unstructured.Unstructured))
	if list, err = c.converted(list, schema.GroupVersion{Group: k.gvk.Group, Version: c.stored}); err != nil {
		return nil, err
	}
	return &list.Items[0], nil
}
