package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"skiff/cache"
	"skiff/store"
)

// cronTabs is the definition that Kubernetes' documentation has, with a bit of everything.
const cronTabs = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    selectableFields: [{jsonPath: .spec.cronSpec}]
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec, description: when it runs}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 10", message: "at most ten"}
            properties:
              cronSpec: {type: string, pattern: '^\S+( \S+){4}$'}
              image: {type: string, default: cron:latest}
              replicas: {type: integer, minimum: 0, default: 1}
              port: {x-kubernetes-int-or-string: true}
              anything: {type: object, x-kubernetes-preserve-unknown-fields: true}
              note: {type: string, nullable: true}
              steps:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, run: {type: string}}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
`

// define creates a definition and waits until it is established.
func (w *writing) define(text string) {
	w.t.Helper()
	body, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	made := must[*apiextensionsv1.CustomResourceDefinition](w, "create", "apiextensions.k8s.io/v1/customresourcedefinitions", "", "", string(body))
	w.definition(made.Name, func(d *apiextensionsv1.CustomResourceDefinition) bool {
		return d != nil && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established)
	})
}

// definition waits until a definition (nil: it is gone) is as it should be.
func (w *writing) definition(name string, is func(*apiextensionsv1.CustomResourceDefinition) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch, states := w.cache.WatchFromNow(cache.Interest{Table: w.customs.table})
	defer watch.Stop()
	entry, _ := states[0].Get("", name)
	for {
		var d *apiextensionsv1.CustomResourceDefinition
		if entry != nil {
			d = entry.Object().(*apiextensionsv1.CustomResourceDefinition)
		}
		if is(d) {
			return
		}
		select {
		case <-watch.Wake():
			if _, err := watch.Take(); err != nil {
				w.t.Fatal(err)
			}
		case <-ctx.Done():
			w.t.Fatalf("the definition %s stays as it is: %+v", name, d)
		}
		entry, _ = w.customs.table.Get("", name)
	}
}

const cronTabRow = "stable.example.com/v1/crontabs"

func cronTab(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":%q},"spec":%s}`, name, spec)
}

func text(t testing.TB, v any) string {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestCustomObjects(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	made := must[*unstructured.Unstructured](w, "create", cronTabRow, "default", "",
		cronTab("a", `{"cronSpec":"* * * * */5","unknown":1,"anything":{"goes":[1]},"port":"http","note":null}`))
	if got, want := text(t, made.Object["spec"]), `{"anything":{"goes":[1]},"cronSpec":"* * * * */5","image":"cron:latest","note":null,"port":"http","replicas":1}`; got != want {
		t.Errorf("created %s, want %s", got, want)
	}
	if made.GetGeneration() != 1 || made.GetUID() == "" || made.GetResourceVersion() == "" || len(made.GetManagedFields()) != 1 {
		t.Errorf("metadata %v", made.Object["metadata"])
	}
	read := must[*unstructured.Unstructured](w, "get", cronTabRow, "default", "a", "")
	if text(t, read) != text(t, made) {
		t.Errorf("read %s, created %s", text(t, read), text(t, made))
	}
	patched := must[*unstructured.Unstructured](w, "patch:merge", cronTabRow, "default", "a", `{"spec":{"replicas":3,"more":true}}`)
	if patched.GetGeneration() != 2 || strings.Contains(text(t, patched), "more") {
		t.Errorf("patched: %s", text(t, patched))
	}
	status := must[*unstructured.Unstructured](w, "patch:merge", cronTabRow, "default", "a/status", `{"spec":{"replicas":7},"status":{"replicas":3}}`)
	if replicas, _, _ := unstructured.NestedInt64(status.Object, "spec", "replicas"); replicas != 3 || status.GetGeneration() != 2 {
		t.Errorf("the status subresource changed more than the status: %s", text(t, status))
	}
	again := must[*unstructured.Unstructured](w, "patch:merge", cronTabRow, "default", "a", `{"spec":{"replicas":3},"status":{"replicas":9}}`)
	if again.GetResourceVersion() != status.GetResourceVersion() {
		t.Errorf("a write that changes nothing made the version %s of %s", again.GetResourceVersion(), status.GetResourceVersion())
	}
	dry := must[*unstructured.Unstructured](w, "create", cronTabRow+"?dryRun", "default", "", cronTab("dry", `{"cronSpec":"* * * * */5"}`))
	if image, _, _ := unstructured.NestedString(dry.Object, "spec", "image"); image != "cron:latest" {
		t.Errorf("a dry run: %s", text(t, dry))
	}
	w.refused("get", cronTabRow, "default", "dry", "")
	named := must[*unstructured.Unstructured](w, "create", cronTabRow, "default", "",
		`{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"generateName":"g-"},"spec":{"cronSpec":"* * * * */5"}}`)
	if !strings.HasPrefix(named.GetName(), "g-") || len(named.GetName()) != 7 {
		t.Errorf("generated the name %q", named.GetName())
	}
	w.must("delete", cronTabRow, "default", "a", "")
	w.refused("get", cronTabRow, "default", "a", "")
	w.must("deletecollection", cronTabRow, "default", "", "")
	w.refused("get", cronTabRow, "default", named.GetName(), "")
}

// What is wrong with custom objects is said in Kubernetes' words.
func TestCustomRefused(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	w.must("create", cronTabRow, "default", "", cronTab("there", `{"cronSpec":"* * * * */5"}`))
	for name, c := range map[string]struct {
		verb, resource, name, body string
		code                       int32
		message                    string // a part of it
	}{
		"pattern": {"create", cronTabRow, "", cronTab("b", `{"cronSpec":"never"}`), 422,
			`CronTab.stable.example.com "b" is invalid: spec.cronSpec: Invalid value: "never": spec.cronSpec in body should match '^\S+( \S+){4}$'`},
		"required": {"create", cronTabRow, "", cronTab("b", `{}`), 422, `spec.cronSpec: Required value`},
		"rule":     {"create", cronTabRow, "", cronTab("b", `{"cronSpec":"* * * * */5","replicas":11}`), 422, `spec: Invalid value: at most ten`},
		"type": {"create", cronTabRow, "", cronTab("b", `{"cronSpec":"* * * * */5","replicas":"x"}`), 422,
			`spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"`},
		"list map": {"create", cronTabRow, "", cronTab("b", `{"cronSpec":"* * * * */5","steps":[{"name":"x"},{"name":"x"}]}`), 422,
			`spec.steps[1]: Duplicate value: {"name":"x"}`},
		"unknown, strict": {"create", cronTabRow + "?strict", "", cronTab("b", `{"cronSpec":"* * * * */5","a":1,"image":"x","image":"y"}`), 400,
			`CronTab in version "v1" cannot be handled as a CronTab: strict decoding error: duplicate field "spec.image", unknown field "spec.a"`},
		"unknown, patched": {"patch:merge", cronTabRow + "?strict", "there", `{"spec":{"a":1}}`, 422, `strict decoding error: unknown field "spec.a"`},
		"another version": {"create", cronTabRow, "", strings.Replace(cronTab("b", `{}`), "com/v1", "com/v2", 1), 400,
			`the API version in the data (stable.example.com/v2) does not match the expected API version (stable.example.com/v1)`},
		"another kind": {"create", cronTabRow, "", strings.Replace(cronTab("b", `{"cronSpec":"* * * * */5"}`), "CronTab", "Tab", 1), 422,
			`kind: Invalid value: "Tab": must be CronTab`},
		"no kind":         {"create", cronTabRow, "", `{"apiVersion":"stable.example.com/v1","metadata":{"name":"b"}}`, 400, `Object 'Kind' is missing in`},
		"metadata":        {"create", cronTabRow, "", `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"b","labels":1}}`, 400, `labels`},
		"name":            {"create", cronTabRow, "", cronTab("B_", `{"cronSpec":"* * * * */5"}`), 422, `metadata.name: Invalid value: "B_": a lowercase RFC 1123 subdomain`},
		"it is there":     {"create", cronTabRow, "", cronTab("there", `{"cronSpec":"* * * * */5"}`), 409, `crontabs.stable.example.com "there" already exists`},
		"strategic":       {"patch:strategic", cronTabRow, "there", `{}`, 415, `application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml`},
		"no version":      {"update", cronTabRow, "there", cronTab("there", `{"cronSpec":"* * * * */5"}`), 422, `metadata.resourceVersion: Invalid value: 0: must be specified for an update`},
		"scale, negative": {"patch:merge", cronTabRow, "there/scale", `{"spec":{"replicas":-1}}`, 422, `spec.replicas: Invalid value: -1`},
		"apply, unknown":  {"patch:apply", cronTabRow + "?manager=me", "there", cronTab("there", `{"a":1}`), 500, `.spec.a: field not declared in schema`},
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t = t
			status := w.refused(c.verb, c.resource, "default", c.name, c.body)
			if status.Code != c.code || !strings.Contains(status.Message, c.message) {
				t.Errorf("%d %s\nwant %d %s", status.Code, status.Message, c.code, c.message)
			}
		})
	}
}

// Two managers own different items of one list, and scale is a field as others are.
func TestCustomApply(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	w.must("patch:apply", cronTabRow+"?manager=a", "default", "x", cronTab("x", `{"cronSpec":"* * * * */5","replicas":2,"steps":[{"name":"a","run":"1"}]}`))
	both := must[*unstructured.Unstructured](w, "patch:apply", cronTabRow+"?manager=b", "default", "x", cronTab("x", `{"steps":[{"name":"b","run":"2"}]}`))
	if got := text(t, both.Object["spec"].(map[string]any)["steps"]); got != `[{"name":"a","run":"1"},{"name":"b","run":"2"}]` {
		t.Errorf("steps %s", got)
	}
	status := w.refused("patch:apply", cronTabRow+"?manager=b", "default", "x", cronTab("x", `{"replicas":3}`))
	if status.Code != 409 || !strings.Contains(status.Message, `conflict with "a": .spec.replicas`) {
		t.Errorf("%d %s", status.Code, status.Message)
	}
	w.must("patch:merge", cronTabRow+"?manager=s", "default", "x/scale", `{"spec":{"replicas":4}}`)
	status = w.refused("patch:apply", cronTabRow+"?manager=a", "default", "x", cronTab("x", `{"cronSpec":"* * * * */5","replicas":2}`))
	if status.Code != 409 || !strings.Contains(status.Message, `conflict with "s" with subresource "scale" using stable.example.com/v1: .spec.replicas`) {
		t.Errorf("%d %s", status.Code, status.Message)
	}
}

// An object that was written before a rule stays writable, as long as what breaks
// the rule does not change; and rules may look at what was before.
func TestCustomRatcheting(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	w.must("create", cronTabRow, "default", "", cronTab("x", `{"cronSpec":"* * * * */5","replicas":7}`))
	w.redefine("crontabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) {
		spec := d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		replicas := spec.Properties["replicas"]
		replicas.Maximum = new(5.0)
		replicas.XValidations = apiextensionsv1.ValidationRules{{Rule: "self >= oldSelf", Message: "never fewer"}}
		spec.Properties["replicas"] = replicas
		spec.Properties["added"] = apiextensionsv1.JSONSchemaProps{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"later"`)}}
		d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
	})
	read := must[*unstructured.Unstructured](w, "get", cronTabRow, "default", "x", "")
	if added, _, _ := unstructured.NestedString(read.Object, "spec", "added"); added != "later" {
		t.Errorf("an object that was written before a default: %s", text(t, read))
	}
	w.must("patch:merge", cronTabRow, "default", "x", `{"spec":{"image":"another"}}`)
	status := w.refused("patch:merge", cronTabRow, "default", "x", `{"spec":{"replicas":8}}`)
	if !strings.Contains(status.Message, "spec.replicas in body should be less than or equal to 5") {
		t.Error(status.Message)
	}
	w.must("patch:merge", cronTabRow, "default", "x", `{"spec":{"image":"x"}}`)
	w.must("create", cronTabRow, "default", "", cronTab("y", `{"cronSpec":"* * * * */5","replicas":3}`))
	status = w.refused("patch:merge", cronTabRow, "default", "y", `{"spec":{"replicas":2}}`)
	if !strings.Contains(status.Message, "spec.replicas: Invalid value: 2: never fewer") {
		t.Error(status.Message)
	}
}

// redefine changes a definition.
func (w *writing) redefine(name string, change func(*apiextensionsv1.CustomResourceDefinition)) *apiextensionsv1.CustomResourceDefinition {
	w.t.Helper()
	d := must[*apiextensionsv1.CustomResourceDefinition](w, "get", definitions, "", name, "").DeepCopy()
	change(d)
	return must[*apiextensionsv1.CustomResourceDefinition](w, "update", definitions, "", name, text(w.t, d))
}

const definitions = "apiextensions.k8s.io/v1/customresourcedefinitions"

// A watch ends when the schema changes, so that its client comes back and sees
// objects as they are now.
func TestCustomWatchEnds(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	result, err := w.serve(t.Context(), w.request("watch", cronTabRow, "default", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer result.Watch.Close()
	w.must("create", cronTabRow, "default", "", cronTab("x", `{"cronSpec":"* * * * */5"}`))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events, err := result.Watch.Next(ctx)
	if err != nil || len(events) != 1 || events[0].Entry.Name() != "x" {
		t.Fatalf("events %v, %v", events, err)
	}
	w.redefine("crontabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) { d.Spec.Versions[0].AdditionalPrinterColumns = nil })
	if events, err := result.Watch.Next(ctx); err != io.EOF || ctx.Err() != nil {
		t.Errorf("after the change: %v, %v", events, err)
	}
}

// A definition waits for names that another one has, and gets them when that goes.
func TestDefinitionNames(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	second := strings.NewReplacer("crontabs", "tabs", "singular: crontab", "singular: tab", "kind: CronTab", "kind: Tab").Replace(cronTabs)
	body, err := yaml.YAMLToJSON([]byte(second))
	if err != nil {
		t.Fatal(err)
	}
	w.must("create", definitions, "", "", string(body))
	w.definition("tabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) bool {
		if d == nil {
			return false
		}
		c := apihelpers.FindCRDCondition(d, apiextensionsv1.NamesAccepted)
		return c != nil && c.Status == apiextensionsv1.ConditionFalse && c.Reason == "ShortNamesConflict" && c.Message == `"ct" is already in use` &&
			apihelpers.IsCRDConditionFalse(d, apiextensionsv1.Established)
	})
	if w.rowFor(schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "tabs"}) != nil {
		t.Error("it is served without its names")
	}
	w.must("delete", definitions, "", "crontabs.stable.example.com", "")
	w.definition("tabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) bool {
		return d != nil && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) && slices.Equal(d.Status.AcceptedNames.ShortNames, []string{"ct"})
	})
}

// A definition goes after its objects, and these after their finalizers.
func TestDefinitionDeleted(t *testing.T) {
	w := newWriting(t)
	w.define(cronTabs)
	w.must("create", cronTabRow, "default", "", cronTab("a", `{"cronSpec":"* * * * */5"}`))
	w.must("create", cronTabRow, "default", "", strings.Replace(cronTab("kept", `{"cronSpec":"* * * * */5"}`), `"kept"`, `"kept","finalizers":["example.com/wait"]`, 1))
	w.must("delete", definitions, "", "crontabs.stable.example.com", "")
	w.definition("crontabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) bool {
		c := apihelpers.FindCRDCondition(d, apiextensionsv1.Terminating)
		return c != nil && c.Reason == "InstanceDeletionInProgress"
	})
	status := w.refused("create", cronTabRow, "default", "", cronTab("b", `{"cronSpec":"* * * * */5"}`))
	if status.Code != 403 || !strings.Contains(status.Message, "create not allowed while custom resource definition is terminating") {
		t.Errorf("%d %s", status.Code, status.Message)
	}
	w.must("patch:merge", cronTabRow, "default", "kept", `{"metadata":{"finalizers":null}}`)
	w.definition("crontabs.stable.example.com", func(d *apiextensionsv1.CustomResourceDefinition) bool { return d == nil })
	if w.rowFor(schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "crontabs"}) != nil {
		t.Error("what has no definition is served")
	}
	page, err := w.memory.List(t.Context(), "/registry/stable.example.com/", "", 0, 0)
	if err != nil || len(page.Entries) > 0 {
		t.Errorf("left in the store: %v, %v", page.Entries, err)
	}
}

// A server that starts finds custom objects where Kubernetes has them, as it stored them.
func TestCustomObjectsAfterRestart(t *testing.T) {
	memory := store.OpenMemory(store.MemoryConfig{})
	defer memory.Close()
	first := startWriting(t, memory)
	first.must("create", "v1/serviceaccounts", "default", "", `{"metadata":{"name":"default"}}`)
	first.define(cronTabs)
	was := must[*unstructured.Unstructured](first, "create", cronTabRow, "default", "", cronTab("a", `{"cronSpec":"* * * * */5"}`))
	first.stop()
	stored, err := memory.Get(t.Context(), "/registry/stable.example.com/crontabs/default/a")
	if err != nil || !strings.HasPrefix(string(stored.Value), `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{`) {
		t.Fatalf("stored %q, %v", stored.Value, err)
	}
	second := startWriting(t, memory)
	defer second.stop()
	if is := must[*unstructured.Unstructured](second, "get", cronTabRow, "default", "a", ""); text(t, is) != text(t, was) {
		t.Errorf("after the restart %s, before %s", text(t, is), text(t, was))
	}
}
