// Package apiextensions says what Kubernetes documents about
// CustomResourceDefinition of apiextensions.k8s.io/v1. The rules for schemas are
// those of k8s.io/apiextensions-apiserver. It never does I/O, and never looks at
// other objects; whether names collide is apiserver's to find out.
package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/api/kind"
)

// CustomResourceDefinition is apiextensions.k8s.io/v1 CustomResourceDefinition.
var CustomResourceDefinition = kind.Of(kind.Spec[*apiextensionsv1.CustomResourceDefinition]{
	AnyFinalizer: true,
	New:          func() *apiextensionsv1.CustomResourceDefinition { return &apiextensionsv1.CustomResourceDefinition{} },
	NewList:      func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
	Default:      defaultDefinition,
	Create: func(d *apiextensionsv1.CustomResourceDefinition) {
		d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
		addStored(d)
	},
	Update: func(d, old *apiextensionsv1.CustomResourceDefinition) {
		d.Status = old.Status
		addStored(d)
	},
	Intent: func(d *apiextensionsv1.CustomResourceDefinition) any { return &d.Spec },
	NameFor: func(d *apiextensionsv1.CustomResourceDefinition) func(string, bool) []string {
		return func(name string, prefix bool) []string {
			messages := apivalidation.NameIsDNSSubdomain(name, prefix)
			if name != d.Spec.Names.Plural+"."+d.Spec.Group {
				messages = append(messages, `must be spec.names.plural+"."+spec.group`)
			}
			return messages
		}
	},
	Validate: func(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
		return check(d, nil, func(ctx context.Context, d, _ *apiextensions.CustomResourceDefinition) field.ErrorList {
			return validation.ValidateCustomResourceDefinition(ctx, d)
		})
	},
	ValidateUpdate: func(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
		return check(d, old, validation.ValidateCustomResourceDefinitionUpdate)
	},
	Subs: map[string]kind.Sub[*apiextensionsv1.CustomResourceDefinition]{"status": {AnyFinalizer: true,
		Update: func(d, old *apiextensionsv1.CustomResourceDefinition) { d.Spec = old.Spec },
		Validate: func(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
			return check(d, old, validation.ValidateUpdateCustomResourceDefinitionStatus)
		},
	}},
	Warn: func(d, old *apiextensionsv1.CustomResourceDefinition) (texts []string) {
		var known []string
		if old != nil {
			known = schemaWarnings(old)
		}
		for _, text := range schemaWarnings(d) {
			if !slices.Contains(known, text) {
				texts = append(texts, text)
			}
		}
		return texts
	},
	UnconditionalUpdateForbidden: true,
})

func defaultDefinition(d *apiextensionsv1.CustomResourceDefinition) {
	names := &d.Spec.Names
	if names.Singular == "" {
		names.Singular = strings.ToLower(names.Kind)
	}
	if names.ListKind == "" && names.Kind != "" {
		names.ListKind = names.Kind + "List"
	}
	if d.Spec.Conversion == nil {
		d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
	}
	if w := d.Spec.Conversion.Webhook; w != nil && w.ClientConfig == nil && w.ConversionReviewVersions == nil {
		d.Spec.Conversion.Webhook = nil // an empty one is none
	}
	if w := d.Spec.Conversion.Webhook; w != nil && w.ClientConfig != nil && w.ClientConfig.Service != nil && w.ClientConfig.Service.Port == nil {
		w.ClientConfig.Service.Port = new(int32(443))
	}
	if len(d.Status.StoredVersions) == 0 {
		addStored(d)
	}
}

// addStored notes that objects are now stored in the storage version.
func addStored(d *apiextensionsv1.CustomResourceDefinition) {
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if !v.Storage {
			continue
		}
		if !slices.Contains(d.Status.StoredVersions, v.Name) {
			d.Status.StoredVersions = append(slices.Clip(d.Status.StoredVersions), v.Name) // never into a shared array
		}
		return
	}
}

// check runs the library's rules, which are on its internal type. Errors about
// metadata are the row's, which finds them itself, but for the approval of a
// protected group.
func check(d, old *apiextensionsv1.CustomResourceDefinition,
	rules func(ctx context.Context, d, old *apiextensions.CustomResourceDefinition) field.ErrorList) (errs field.ErrorList) {
	internal, err := toInternal(d)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	var was *apiextensions.CustomResourceDefinition
	if old != nil {
		if was, err = toInternal(old); err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
	}
	for _, e := range rules(context.Background(), internal, was) {
		mine := strings.HasPrefix(e.Field, "metadata.annotations[")
		if mine || e.Field != "metadata" && !strings.HasPrefix(e.Field, "metadata.") {
			errs = append(errs, e)
		}
	}
	return errs
}

func toInternal(d *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, error) {
	internal := &apiextensions.CustomResourceDefinition{}
	// The conversion moves what is the same in all versions, in place.
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d.DeepCopy(), internal, nil); err != nil {
		return nil, fmt.Errorf("convert %s: %w", d.Name, err)
	}
	return internal, nil
}

// schemaWarnings are about parts of schemas that are taken but do nothing.
func schemaWarnings(d *apiextensionsv1.CustomResourceDefinition) (texts []string) {
	internal, err := toInternal(d)
	if err != nil {
		return nil
	}
	formats, sets := map[string]bool{}, map[string]bool{}
	visit := func(s *apiextensions.JSONSchemaProps) bool {
		if s.Format != "" {
			schema := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
			for _, f := range schemavalidation.GetUnrecognizedFormats(schema, environment.DefaultCompatibilityVersion()) {
				formats[fmt.Sprintf("unrecognized format %q", f)] = true
			}
		}
		if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
			if t := s.Items.Schema.Type; t == "object" || t == "array" {
				sets[fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t)] = true
			}
		}
		return false // go on
	}
	if v := internal.Spec.Validation; v != nil && v.OpenAPIV3Schema != nil {
		validation.SchemaHas(v.OpenAPIV3Schema, visit)
	}
	for i := range internal.Spec.Versions {
		if s := internal.Spec.Versions[i].Schema; s != nil && s.OpenAPIV3Schema != nil {
			validation.SchemaHas(s.OpenAPIV3Schema, visit)
		}
	}
	return append(sorted(formats), sorted(sets)...)
}

func sorted(set map[string]bool) (list []string) {
	for s := range set {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}
