package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapply "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationapply "k8s.io/kube-aggregator/pkg/client/applyconfiguration"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"skiff/api"
)

// owners keeps metadata.managedFields: who last set which field. Every create,
// update and patch passes through it; apply patches are decided by it.
type owners struct {
	log *slog.Logger
	// types knows how each kind's lists merge. Building it takes some 60 ms, so
	// it is begun in the background when the server starts (prepare).
	types func() managedfields.TypeConverter

	mu       sync.RWMutex
	managers map[ownersKey]*managedfields.FieldManager
}

// ownersKey names what a write goes to; each has fields of its own that it
// cannot set.
type ownersKey struct {
	row         *api.Resource // nil for Scale, which is the same for all
	subresource string
}

func newOwners(log *slog.Logger) *owners {
	return &owners{
		log:      log,
		types:    sync.OnceValue(typeConverter),
		managers: make(map[ownersKey]*managedfields.FieldManager),
	}
}

// prepare builds what the first write would wait for.
func (o *owners) prepare(context.Context) { o.types() }

// typeConverter knows the types of all built-in groups; the tables of two of
// them come with their own libraries.
func typeConverter() managedfields.TypeConverter {
	own := runtime.NewScheme()
	utilruntime.Must(apiextensionsv1.AddToScheme(own))
	utilruntime.Must(apiregistrationv1.AddToScheme(own))
	tables := groupTypes{
		TypeConverter:      applyconfigurations.NewTypeConverter(scheme.Scheme),
		customDefinitions:  apiextensionsapply.NewTypeConverter(own),
		apiServiceRegistry: apiregistrationapply.NewTypeConverter(own),
		kinds:              new(sync.Map),
	}
	// The first use of each parses its table.
	for _, obj := range []api.Object{&corev1.Pod{}, &apiextensionsv1.CustomResourceDefinition{}, &apiregistrationv1.APIService{}} {
		_, err := tables.ObjectToTyped(withKind(obj, api.Of(obj).GVK()))
		utilruntime.Must(err)
	}
	return tables
}

// groupTypes chooses the table that has an object's group.
type groupTypes struct {
	managedfields.TypeConverter
	customDefinitions, apiServiceRegistry managedfields.TypeConverter

	kinds *sync.Map // schema.GroupVersionKind → *smd.TypedValue, of which only the schema is used
}

// ObjectToTyped returns obj with the schema of its kind. What is one of our Go
// types was made by a decoder and needs no second look; what a client applied
// is compared with the schema, field by field.
func (t groupTypes) ObjectToTyped(obj runtime.Object, opts ...smd.ValidationOptions) (*smd.TypedValue, error) {
	kind := obj.GetObjectKind().GroupVersionKind()
	if _, sent := obj.(*unstructured.Unstructured); sent {
		return t.table(kind).ObjectToTyped(obj, opts...)
	}
	known, ok := t.kinds.Load(kind)
	if !ok {
		typed, err := t.table(kind).ObjectToTyped(obj, opts...)
		if err == nil {
			t.kinds.Store(kind, smd.AsTypedUnvalidated(nil, typed.Schema(), typed.TypeRef()))
		}
		return typed, err
	}
	fields, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, fmt.Errorf("read the fields of a %s: %w", kind.Kind, err)
	}
	is := known.(*smd.TypedValue)
	return smd.AsTypedUnvalidated(fields, is.Schema(), is.TypeRef()), nil
}

func (t groupTypes) table(kind schema.GroupVersionKind) managedfields.TypeConverter {
	if kind == scaleKind {
		// No table has it; all that counts in it is one number.
		return managedfields.NewDeducedTypeConverter()
	}
	switch kind.Group {
	case apiextensionsv1.GroupName:
		return t.customDefinitions
	case apiregistrationv1.GroupName:
		return t.apiServiceRegistry
	}
	return t.TypeConverter
}

// update notes in obj's managedFields what manager changed since old (on create:
// an empty object). It never fails: what cannot be tracked keeps old's entries.
func (o *owners) update(r *Request, old, obj api.Object) error {
	if _, custom := obj.(*unstructured.Unstructured); custom && r.Resource.Custom == nil {
		return nil // the object as it is stored, of which only metadata is written
	}
	m, err := o.manager(ownersKey{r.Resource, r.Subresource})
	if err != nil {
		return err
	}
	tracked, err := m.Update(old, obj, r.manager())
	if err != nil {
		o.log.Error("managed fields not updated", "resource", r.Resource.String(), "namespace", r.Namespace, "name", r.Name, "err", err)
		obj.SetManagedFields(old.GetManagedFields())
		return nil
	}
	if u, ok := tracked.(*unstructured.Unstructured); ok && r.Resource.Custom != nil {
		obj.(*unstructured.Unstructured).Object = u.Object
		return nil
	}
	if tracked != runtime.Object(obj) {
		return fmt.Errorf("managed fields of %s: the object was replaced", r.Resource)
	}
	return nil
}

// apply merges an apply configuration into old and returns the result, in the
// storage's version. Its errors are Status errors (a conflict names the owners).
func (o *owners) apply(r *Request, old api.Object, applied *unstructured.Unstructured) (api.Object, error) {
	m, err := o.manager(ownersKey{r.Resource, r.Subresource})
	if err != nil {
		return nil, err
	}
	merged, err := m.Apply(old, applied, r.Write.FieldManager, r.Write.Force)
	if err != nil {
		return nil, err
	}
	obj, ok := merged.(api.Object)
	if !ok {
		return nil, fmt.Errorf("apply to %s: the result is a %T", r.Resource, merged)
	}
	clearKind(obj)
	return obj, nil
}

// updateScale is update for the scale subresource.
func (o *owners) updateScale(r *Request, old, scale *autoscalingv1.Scale) error {
	m, err := o.manager(ownersKey{subresource: "scale"})
	if err != nil {
		return err
	}
	_, err = m.Update(old, scale, r.manager())
	return err
}

// applyScale is apply for the scale subresource.
func (o *owners) applyScale(r *Request, old *autoscalingv1.Scale, applied *unstructured.Unstructured) (*autoscalingv1.Scale, error) {
	m, err := o.manager(ownersKey{subresource: "scale"})
	if err != nil {
		return nil, err
	}
	merged, err := m.Apply(old, applied, r.Write.FieldManager, r.Write.Force)
	if err != nil {
		return nil, err
	}
	scale, ok := merged.(*autoscalingv1.Scale)
	if !ok {
		return nil, fmt.Errorf("apply to a Scale: the result is a %T", merged)
	}
	return scale, nil
}

func (o *owners) manager(key ownersKey) (*managedfields.FieldManager, error) {
	if key.row != nil && key.row.Custom != nil {
		return key.row.Custom.Owners(key.subresource) // they go when the row goes
	}
	o.mu.RLock()
	m := o.managers[key]
	o.mu.RUnlock()
	if m != nil {
		return m, nil
	}
	kind, hub, reset := scaleKind, scaleKind.GroupVersion(), map[fieldpath.APIVersion]fieldpath.Filter(nil)
	if row := key.row; row != nil {
		kind, hub, reset = row.GVK(), stored(row).GVK().GroupVersion(), resetFields(row, key.subresource)
	}
	m, err := managedfields.NewDefaultFieldManager(o.types(), converter{}, defaulter{}, creater{}, kind, hub, key.subresource, reset)
	if err != nil {
		return nil, fmt.Errorf("managed fields of %s: %w", kind, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.managers[key] = m
	return m, nil
}

// manager is who the request's writes are attributed to: the field manager that
// it names, else what stands before the slash of its user agent.
func (r *Request) manager() string {
	if r.Write.FieldManager != "" {
		return r.Write.FieldManager
	}
	name, _, _ := strings.Cut(r.UserAgent, "/")
	var b strings.Builder
	for _, c := range name {
		if !unicode.IsPrint(c) {
			continue
		}
		if b.Len()+utf8.RuneLen(c) > metav1validation.FieldManagerMaxLength {
			break
		}
		b.WriteRune(c)
	}
	return b.String()
}

// resetFields are the fields that a write to a subresource ("": the object)
// cannot set, so that nobody comes to own them by trying. They follow upstream's
// strategies.
func resetFields(row *api.Resource, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	var paths []fieldpath.Path
	add := func(parts ...any) { paths = append(paths, fieldpath.MakePathOrDie(parts...)) }
	_, hasStatus := row.Kind.Subs["status"]
	switch {
	case row.Name == "certificatesigningrequests":
		add("spec")
		switch subresource {
		case "":
			add("status")
		case "status":
			add("status", "conditions")
		case "approval":
			add("status", "certificate")
		}
	case subresource == "finalize", subresource == "" && hasStatus:
		add("status")
	case subresource == "status":
		add("spec")
		switch row.Name {
		case "pods":
			add("metadata", "deletionTimestamp")
			add("metadata", "ownerReferences")
		case "deployments":
			add("metadata", "labels")
		case "servicecidrs", "resourceclaims", "volumeattachments", "flowschemas", "prioritylevelconfigurations",
			"validatingadmissionpolicies", "storageversionmigrations":
			add("metadata")
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{
		fieldpath.APIVersion(row.GVK().GroupVersion().String()): fieldpath.NewExcludeSetFilter(fieldpath.NewSet(paths...)),
	}
}

// revertTimes makes a write that changes nothing a write that changes nothing:
// where only the times of managedFields differ, it takes old's.
func revertTimes(obj, old api.Object) {
	now, before := obj.GetManagedFields(), old.GetManagedFields()
	if len(now) == 0 || !sameOwners(now, before) {
		return
	}
	timed := false
	for i := range now {
		timed = timed || !now[i].Time.Equal(before[i].Time)
	}
	if !timed {
		return
	}
	obj.SetManagedFields(before)
	if !equality.Semantic.DeepEqual(obj, old) {
		obj.SetManagedFields(now)
	}
}

// sameOwners tells whether two lists differ in nothing but times.
func sameOwners(a, b []metav1.ManagedFieldsEntry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Manager != y.Manager || x.Operation != y.Operation || x.APIVersion != y.APIVersion ||
			x.FieldsType != y.FieldsType || x.Subresource != y.Subresource || (x.FieldsV1 == nil) != (y.FieldsV1 == nil) {
			return false
		}
		if x.FieldsV1 != nil && !x.FieldsV1.Equal(*y.FieldsV1) {
			return false
		}
	}
	return true
}

// converter is the versions of a kind as field managers see them: a row, and
// the rows that are views of it. It writes kind and apiVersion into what it
// returns, which is therefore never the argument itself.
type converter struct{}

// ConvertToVersion returns in as target has it.
func (converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if u, ok := in.(*unstructured.Unstructured); ok {
		typed, err := fromUnstructured(u)
		if err != nil {
			return nil, err
		}
		in = typed
	}
	if scale, ok := in.(*autoscalingv1.Scale); ok {
		return withKind(scale, scaleKind), nil
	}
	obj := in.(api.Object)
	row := api.Of(obj)
	want, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{row.GVK()})
	if !ok {
		// A view's group may differ from that of the row that it shows.
		gv, isGV := target.(schema.GroupVersion)
		if !isGV {
			return nil, runtime.NewNotRegisteredGVKErrForTarget(foreignScheme, row.GVK(), target)
		}
		want = gv.WithKind(row.KindName)
	}
	shown, err := convert(obj, row, want)
	if err != nil {
		return nil, err
	}
	return withKind(shown, want), nil
}

// convert returns obj, of a row, in another version, through the row that stores it.
func convert(obj api.Object, row *api.Resource, want schema.GroupVersionKind) (api.Object, error) {
	if row.GVK() == want {
		return obj, nil
	}
	to := api.FindKind(want)
	if to == nil || stored(to) != stored(row) {
		return nil, runtime.NewNotRegisteredErrForKind(foreignScheme, want)
	}
	return fromStored(to, toStored(row, obj)), nil
}

// withKind returns a shallow copy of obj that says what it is.
func withKind(obj api.Object, kind schema.GroupVersionKind) api.Object {
	if obj.GetObjectKind().GroupVersionKind() == kind {
		return obj
	}
	v := reflect.ValueOf(obj).Elem()
	shallow := reflect.New(v.Type())
	shallow.Elem().Set(v)
	obj = shallow.Interface().(api.Object)
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj
}

func fromUnstructured(u *unstructured.Unstructured) (api.Object, error) {
	made, err := creater{}.New(u.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	obj := made.(api.Object)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

// Convert and ConvertFieldLabel are parts of runtime.ObjectConvertor that field
// managers do not use.
func (converter) Convert(in, out, context any) error {
	return fmt.Errorf("cannot convert %T to %T", in, out)
}

// ConvertFieldLabel: see Convert.
func (converter) ConvertFieldLabel(kind schema.GroupVersionKind, label, value string) (string, string, error) {
	return "", "", fmt.Errorf("no field labels of %s here", kind)
}

// defaulter fills defaults by an object's row.
type defaulter struct{}

// Default fills obj's defaults.
func (defaulter) Default(obj runtime.Object) {
	if _, ok := obj.(*autoscalingv1.Scale); ok {
		return
	}
	if o, ok := obj.(api.Object); ok {
		api.Of(o).Kind.Default(o)
	}
}

// creater makes empty objects by kind.
type creater struct{}

// New returns an empty object of the kind.
func (creater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	if kind == scaleKind {
		return new(autoscalingv1.Scale), nil
	}
	row := api.FindKind(kind)
	if row == nil {
		return nil, runtime.NewNotRegisteredErrForKind(foreignScheme, kind)
	}
	return row.Kind.New(), nil
}

// stored is the row that holds a row's objects: itself, unless it is a view.
func stored(row *api.Resource) *api.Resource {
	if row.View != nil {
		return api.Find(row.View.Of)
	}
	return row
}

// fromStored shows a stored object as row does.
func fromStored(row *api.Resource, obj api.Object) api.Object {
	if row.View != nil {
		return row.View.FromStored(obj)
	}
	return obj
}

// toStored makes of what row shows the object that is stored.
func toStored(row *api.Resource, obj api.Object) api.Object {
	if row.View != nil {
		return row.View.ToStored(obj)
	}
	return obj
}
