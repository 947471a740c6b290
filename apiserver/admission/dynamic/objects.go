package dynamic

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/api"
)

// Kinds knows what is served.
type Kinds interface {
	// Rows returns all rows that are served, each version of a resource one, and a
	// channel that is closed when they may have changed.
	Rows() ([]*api.Resource, <-chan struct{})
}

// objects makes, fills and converts objects of the kinds that are served, and
// knows which resources show the same ones.
type objects struct {
	rows  map[schema.GroupVersionKind]*api.Resource
	same  runtime.EquivalentResourceRegistry
	until <-chan struct{} // closed when it is to be made anew
}

// objects returns what is served now.
func (a *Admission) objects() k8sadmission.ObjectInterfaces {
	a.kindsMu.Lock()
	defer a.kindsMu.Unlock()
	if a.kinds != nil {
		select {
		case <-a.kinds.until:
		default:
			return a.kinds
		}
	}
	rows, changed := a.c.Kinds.Rows()
	o := &objects{rows: make(map[schema.GroupVersionKind]*api.Resource, len(rows)), same: runtime.NewEquivalentResourceRegistry(), until: changed}
	for _, row := range rows {
		o.rows[row.GVK()] = row
		o.register(row)
	}
	a.kinds = o
	return o
}

// register notes the kinds of a row and its subresources.
func (o *objects) register(row *api.Resource) {
	o.same.RegisterKindFor(row.GVR(), "", row.GVK())
	for sub := range row.Kind.Subs {
		o.same.RegisterKindFor(row.GVR(), sub, row.GVK())
	}
	if row.Kind.Scale != nil {
		o.same.RegisterKindFor(row.GVR(), "scale", scaleKind)
	}
	for _, action := range row.Actions {
		o.same.RegisterKindFor(row.GVR(), action.Name, action.Kind)
	}
}

// GetObjectCreater implements admission.ObjectInterfaces; so do the other Get….
func (o *objects) GetObjectCreater() runtime.ObjectCreater                       { return o }
func (o *objects) GetObjectTyper() runtime.ObjectTyper                           { return o }
func (o *objects) GetObjectDefaulter() runtime.ObjectDefaulter                   { return o }
func (o *objects) GetObjectConvertor() runtime.ObjectConvertor                   { return o }
func (o *objects) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper { return o.same }

// New makes an empty object of a kind.
func (o *objects) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	row := o.rows[kind]
	if row == nil {
		return scheme.Scheme.New(kind) // of a subresource
	}
	obj := row.Kind.New()
	if row.Custom != nil {
		obj.GetObjectKind().SetGroupVersionKind(kind)
	}
	return obj, nil
}

// ObjectKinds tells which kind an object is of.
func (o *objects) ObjectKinds(obj runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	kind, err := o.kindOf(obj)
	return []schema.GroupVersionKind{kind}, false, err
}

// Recognizes tells whether the kind is served.
func (o *objects) Recognizes(kind schema.GroupVersionKind) bool {
	return o.rows[kind] != nil || scheme.Scheme.Recognizes(kind)
}

func (o *objects) kindOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return u.GroupVersionKind(), nil
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if row := api.Known(obj); err != nil && row != nil {
		return row.GVK(), nil // definitions and the like: their types are not client-go's
	}
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return kinds[0], nil
}

// Default fills in an object's defaults. It is asked when somebody has changed the object: what a custom resource's schema does not
// know goes first. What is wrong beyond that, validation finds.
func (o *objects) Default(obj runtime.Object) {
	kind, err := o.kindOf(obj)
	row := o.rows[kind]
	if err != nil || row == nil {
		return
	}
	object := obj.(api.Object)
	if row.Custom != nil {
		_, _ = row.Custom.Coerce(object, false)
	}
	row.Kind.Default(object)
}

// Convert makes out what in is, in out's version.
func (o *objects) Convert(in, out, _ any) error {
	from, to := in.(runtime.Object), out.(runtime.Object)
	from, err := o.typed(from)
	if err != nil {
		return err
	}
	if reflect.TypeOf(from) == reflect.TypeOf(to) {
		custom, ok := to.(*unstructured.Unstructured)
		if !ok || from.(*unstructured.Unstructured).GroupVersionKind() == custom.GroupVersionKind() {
			assign(to, from.DeepCopyObject())
			return nil
		}
	}
	kind, err := o.kindOf(to)
	if err != nil {
		return err
	}
	converted, err := o.in(from, kind)
	if err != nil {
		return err
	}
	assign(to, converted)
	return nil
}

// typed turns a built-in object that a policy has patched as plain fields into one
// of its kind's type.
func (o *objects) typed(obj runtime.Object) (runtime.Object, error) {
	fields, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	row := o.rows[fields.GroupVersionKind()]
	if row == nil || row.Custom != nil {
		return obj, nil
	}
	typed := row.Kind.New()
	return typed, runtime.DefaultUnstructuredConverter.FromUnstructured(fields.Object, typed)
}

// in returns a copy of an object in another version of its kind.
func (o *objects) in(obj runtime.Object, kind schema.GroupVersionKind) (runtime.Object, error) {
	of, err := o.kindOf(obj)
	if err != nil {
		return nil, err
	}
	from, to := o.rows[of], o.rows[kind]
	object, ok := obj.DeepCopyObject().(api.Object)
	switch {
	case !ok || from == nil || to == nil || from.GroupResource() != to.GroupResource():
		return nil, fmt.Errorf("no way from %s to %s", of, kind)
	case to.Custom != nil:
		shown, err := to.Custom.Show([]api.Object{object})
		if err != nil {
			return nil, err
		}
		return shown[0], nil
	}
	return show(to, store(from, object)), nil
}

// show and store lead from what is stored to what a row shows, and back.
func show(row *api.Resource, obj api.Object) api.Object {
	if row.View != nil {
		return row.View.FromStored(obj)
	}
	return obj
}

func store(row *api.Resource, obj api.Object) api.Object {
	if row.View != nil {
		return row.View.ToStored(obj)
	}
	return obj
}

// assign makes to what from is; they have one type. A typed object keeps saying,
// or not saying, its kind.
func assign(to, from runtime.Object) {
	if u, ok := to.(*unstructured.Unstructured); ok {
		u.Object = from.(*unstructured.Unstructured).Object
		return
	}
	kind := to.GetObjectKind().GroupVersionKind()
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
	to.GetObjectKind().SetGroupVersionKind(kind)
}

// ConvertToVersion returns a copy of an object in a version.
func (o *objects) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	of, err := o.kindOf(in)
	if err != nil {
		return nil, err
	}
	kind, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{of})
	if !ok {
		return nil, fmt.Errorf("%s has no version among %s", of, target.Identifier())
	}
	out, err := o.New(kind)
	if err != nil {
		return nil, err
	}
	return out, o.Convert(in, out, nil)
}

// ConvertFieldLabel is not asked in admission.
func (o *objects) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// mapper finds the resource of a kind: the parameters of a policy are named by kind.
type mapper struct{ kinds Kinds }

// RESTMapping implements meta.RESTMapper; nothing else of it is asked.
func (m mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	rows, _ := m.kinds.Rows()
	for _, row := range rows {
		gvk := row.GVK()
		if gvk.GroupKind() != kind || len(versions) > 0 && versions[0] != "" && versions[0] != gvk.Version {
			continue
		}
		scope := meta.RESTScopeRoot
		if row.Namespaced {
			scope = meta.RESTScopeNamespace
		}
		return &meta.RESTMapping{Resource: row.GVR(), GroupVersionKind: gvk, Scope: scope}, nil
	}
	return nil, &meta.NoKindMatchError{GroupKind: kind, SearchedVersions: versions}
}

// RESTMappings implements meta.RESTMapper.
func (m mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	one, err := m.RESTMapping(kind, versions...)
	return []*meta.RESTMapping{one}, err
}

// row finds the first row that resource describes; empty fields describe all.
func (m mapper) row(resource schema.GroupVersionResource) (*api.Resource, error) {
	rows, _ := m.kinds.Rows()
	for _, row := range rows {
		if row.Name == resource.Resource && (resource.Group == "" || resource.Group == row.Group) && (resource.Version == "" || resource.Version == row.Version) {
			return row, nil
		}
	}
	return nil, &meta.NoResourceMatchError{PartialResource: resource}
}

// KindFor implements meta.RESTMapper.
func (m mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	row, err := m.row(resource)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return row.GVK(), nil
}

// KindsFor implements meta.RESTMapper.
func (m mapper) KindsFor(resource schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	kind, err := m.KindFor(resource)
	return []schema.GroupVersionKind{kind}, err
}

// ResourceFor implements meta.RESTMapper.
func (m mapper) ResourceFor(resource schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	row, err := m.row(resource)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	return row.GVR(), nil
}

// ResourcesFor implements meta.RESTMapper.
func (m mapper) ResourcesFor(resource schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	one, err := m.ResourceFor(resource)
	return []schema.GroupVersionResource{one}, err
}

// ResourceSingularizer implements meta.RESTMapper.
func (m mapper) ResourceSingularizer(resource string) (string, error) {
	row, err := m.row(schema.GroupVersionResource{Resource: resource})
	if err != nil {
		return resource, err
	}
	return row.Singular, nil
}
