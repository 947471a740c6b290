package apiextensions

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"skiff/api/kind/kindtest"
)

const valid = `
metadata: {name: crontabs.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {count: {type: integer}}, x-kubernetes-validations: [{rule: "self.count > 0"}]}}}}
`

func TestDefinition(t *testing.T) {
	kindtest.Holds(t, CustomResourceDefinition, valid)
	type D = *apiextensionsv1.CustomResourceDefinition
	d := kindtest.From[D](t, CustomResourceDefinition, valid)
	if d.Spec.Names.Singular != "crontab" || d.Spec.Names.ListKind != "CronTabList" || d.Spec.Conversion.Strategy != "None" || d.Status.StoredVersions[0] != "v1" {
		t.Errorf("defaults %+v %+v", d.Spec, d.Status)
	}
	schema := func(d D) *apiextensionsv1.JSONSchemaProps { return d.Spec.Versions[0].Schema.OpenAPIV3Schema }
	kindtest.Refuses(t, CustomResourceDefinition, valid, []kindtest.Case[D]{
		kindtest.When("name", func(d D) { d.Name = "x.y" }, "Invalid metadata.name: must be spec.names.plural+\".\"+spec.group"),
		kindtest.When("group", func(d D) { d.Spec.Group, d.Name = "example", "crontabs.example" }, "Invalid spec.group"),
		kindtest.When("protected group", func(d D) { d.Spec.Group, d.Name = "x.k8s.io", "crontabs.x.k8s.io" },
			"Required metadata.annotations[api-approved.kubernetes.io]"),
		kindtest.When("scope", func(d D) { d.Spec.Scope = "x" }, "NotSupported spec.scope"),
		kindtest.When("no storage", func(d D) { d.Spec.Versions[0].Storage = false }, "Invalid spec.versions: must have exactly one version marked as storage version"),
		kindtest.When("no schema", func(d D) { d.Spec.Versions[0].Schema = nil }, "Required spec.versions[0].schema.openAPIV3Schema"),
		kindtest.When("not structural", func(d D) { schema(d).Type = "" }, "Required spec.validation.openAPIV3Schema.type: must not be empty at the root"),
		kindtest.When("rule", func(d D) {
			s := schema(d).Properties["spec"]
			s.XValidations[0].Rule = "self.m > 0"
			schema(d).Properties["spec"] = s
		}, "Invalid spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule"),
	})
	kindtest.RefusesUpdate(t, CustomResourceDefinition, valid, []kindtest.Case[D]{
		kindtest.When("another version", func(d D) {
			v := d.Spec.Versions[0]
			v.Name, v.Storage = "v2", false
			d.Spec.Versions = append(d.Spec.Versions, v)
		}),
		kindtest.When("stored version gone", func(d D) { d.Spec.Versions[0].Name = "v2" }, "Invalid status.storedVersions[0]: missing from spec.versions", "Invalid status.storedVersions: must have the storage version v2"),
	})
	old := kindtest.From[D](t, CustomResourceDefinition, valid)
	now := old.DeepCopy()
	now.Spec.Versions = append(now.Spec.Versions, *now.Spec.Versions[0].DeepCopy())
	now.Spec.Versions[0].Storage, now.Spec.Versions[1].Name = false, "v2"
	CustomResourceDefinition.Update(now, old)
	if s := now.Status.StoredVersions; len(s) != 2 || s[1] != "v2" {
		t.Errorf("stored versions %v", s)
	}
	if len(old.Status.StoredVersions) != 1 {
		t.Error("the stored object was changed")
	}
	format := schema(now).Properties["spec"]
	format.Properties["count"] = apiextensionsv1.JSONSchemaProps{Type: "string", Format: "nonsense"}
	schema(now).Properties["spec"] = format
	if got := CustomResourceDefinition.Warn(now, old); len(got) != 1 || got[0] != `unrecognized format "nonsense"` {
		t.Errorf("warnings %q", got)
	}
	if got := CustomResourceDefinition.Warn(now, now); len(got) != 0 {
		t.Errorf("warnings again %q", got)
	}
}
