package crd

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/builder3/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// documents is what is made of a definition's schemas beyond judging by them.
type documents struct {
	once  sync.Once
	made  managedfields.TypeConverter
	error error
}

func (x *documents) types(def *Definition) (managedfields.TypeConverter, error) {
	x.once.Do(func() { x.made, x.error = def.typeConverter() })
	return x.made, x.error
}

// form is a form of schemas.
type form struct{ v2 bool }

func (f form) ref(name string) string {
	if f.v2 {
		return "#/definitions/" + name
	}
	return "#/components/schemas/" + name
}

// The types that documents of custom resources refer to.
const (
	metaTypes      = "io.k8s.apimachinery.pkg.apis.meta.v1."
	objectMetaType = metaTypes + "ObjectMeta"
	listMetaType   = metaTypes + "ListMeta"
)

// modelName is the name of a kind's schema: com.example.stable.v1.CronTab.
func modelName(group, version, kind string) string {
	parts := strings.Split(group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + version + "." + kind
}

// schema returns the name and the schema of a version's objects as clients see
// them: with apiVersion, kind and metadata.
func (def *Definition) schema(d *apiextensionsv1.CustomResourceDefinition, version string, f form) (string, *spec.Schema, error) {
	props, err := internalSchema(d, version)
	if err != nil {
		return "", nil, err
	}
	var s *structural.Structural
	if props != nil && !validation.SchemaHasInvalidTypes(props) {
		if made, err := structural.NewStructural(props); err == nil && len(structural.ValidateStructural(nil, made)) == 0 {
			s = made.Unfold()
		}
	}
	var out *spec.Schema
	switch {
	case s == nil, f.v2 && (s.XPreserveUnknownFields || d.Spec.PreserveUnknownFields):
		// Old clients take properties for all that there are.
		out = &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	default:
		if f.v2 {
			s = openapiv2.ToStructuralOpenAPIV2(s)
		}
		out = s.ToKubeOpenAPI()
		out.SetProperty("metadata", f.refTo(objectMetaType, "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"))
		addTypeMeta(out)
		addEmbedded(out, f)
	}
	names := &def.identity.names
	out.AddExtension("x-kubernetes-group-version-kind", []any{gvkOf(d.Spec.Group, version, names.Kind)})
	if selectable := selectableOf(d, version); selectable != nil {
		out.AddExtension("x-kubernetes-selectable-fields", selectable)
	}
	return modelName(d.Spec.Group, version, names.Kind), out, nil
}

func gvkOf(group, version, kind string) map[string]any {
	return map[string]any{"group": group, "version": version, "kind": kind}
}

func selectableOf(d *apiextensionsv1.CustomResourceDefinition, version string) []any {
	var out []any
	for _, v := range d.Spec.Versions {
		if v.Name != version {
			continue
		}
		for _, f := range v.SelectableFields {
			out = append(out, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
		}
	}
	return out
}

// refTo is a reference that says something of its own. In v3 nothing may stand beside a reference: readers would not look at it.
func (f form) refTo(name, description string) spec.Schema {
	s := spec.RefSchema(f.ref(name)).WithDescription(description)
	if !f.v2 {
		s = util.WrapRefs(s)
	}
	return *s
}

// addTypeMeta adds what every object has beside its metadata.
func addTypeMeta(s *spec.Schema) {
	about := metav1.TypeMeta{}.SwaggerDoc()
	for _, name := range []string{"apiVersion", "kind"} {
		s.SetProperty(name, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}, Description: about[name]}})
	}
}

// addEmbedded adds to objects within objects what every object has.
func addEmbedded(s *spec.Schema, f form) {
	if s == nil {
		return
	}
	for name, property := range s.Properties {
		addEmbedded(&property, f)
		s.Properties[name] = property
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, f)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, f)
	}
	if keep, _ := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); keep && f.v2 {
		return
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !embedded {
		return
	}
	addTypeMeta(s)
	s.SetProperty("metadata", f.refTo(objectMetaType, "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"))
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// listSchema returns the name and the schema of a version's lists.
func (def *Definition) listSchema(d *apiextensionsv1.CustomResourceDefinition, version string, f form) (string, *spec.Schema) {
	names := &def.identity.names
	item := spec.RefSchema(f.ref(modelName(d.Spec.Group, version, names.Kind)))
	s := new(spec.Schema).Typed("object", "").WithDescription(fmt.Sprintf("%s is a list of %s", names.ListKind, names.Kind)).WithRequired("items")
	s.SetProperty("items", *spec.ArrayProperty(item).WithDescription(fmt.Sprintf(
		"List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", names.Plural)))
	s.SetProperty("metadata", f.refTo(listMetaType, "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"))
	addTypeMeta(s)
	s.AddExtension("x-kubernetes-group-version-kind", []any{gvkOf(d.Spec.Group, version, names.ListKind)})
	if selectable := selectableOf(d, version); selectable != nil {
		s.AddExtension("x-kubernetes-selectable-fields", selectable)
	}
	return modelName(d.Spec.Group, version, names.ListKind), s
}

// Published is what documents say of some definitions' versions: everything of one
// group and version (v3), or all there is (v2).
type Published struct {
	Paths   map[string]any
	Schemas map[string]*spec.Schema
}

// PublishV3 returns what the document of a group and version has of the definitions.
func PublishV3(definitions []*Definition, group, version string) (Published, error) {
	out := Published{map[string]any{}, map[string]*spec.Schema{}}
	for _, def := range definitions {
		if def.Group() != group || def.Row(version) == nil {
			continue
		}
		if err := def.publish(&out, version, form{}); err != nil {
			return out, err
		}
	}
	if len(definitions) == 0 {
		return out, nil
	}
	meta, err := definitions[0].config.Meta()
	if err != nil {
		return out, err
	}
	for name, s := range meta {
		out.Schemas[name] = s
	}
	return out, nil
}

// PublishV2 returns what the one document of OpenAPI v2 has of the definitions. The
// types to which it refers are there already.
func PublishV2(definitions []*Definition) (Published, error) {
	out := Published{map[string]any{}, map[string]*spec.Schema{}}
	for _, def := range definitions {
		for _, r := range def.Rows {
			if err := def.publish(&out, r.Version, form{v2: true}); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (def *Definition) publish(out *Published, version string, f form) error {
	d := def.object()
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if v.Name != version {
			continue
		}
		name, s, err := def.schema(d, version, f)
		if err != nil {
			return fmt.Errorf("publish %s in %s: %w", version, def.Name, err)
		}
		out.Schemas[name] = s
		name, s = def.listSchema(d, version, f)
		out.Schemas[name] = s
		for path, item := range pathsOf(def.operations(d, v), f) {
			out.Paths[path] = item
		}
	}
	return nil
}

// Identity changes with everything that a document says of the definition.
func (def *Definition) Identity() string {
	return fmt.Sprintf("%s %s %d %v", def.Name, def.identity.uid, def.identity.generation, def.identity.names)
}
