package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"skiff/cache"
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
	status := w.refused("create", cronTabRow, "default", "", cronTab("b", `{"cronSpec":"never","replicas":11}`))
	if !strings.Contains(status.Message, `CronTab.stable.example.com "b" is invalid: [spec.cronSpec: Invalid value: "never": spec.cronSpec in body should match '^\S+( \S+){4}$', <nil>: Invalid value: null: some validation rules`) && !strings.Contains(status.Message, "at most ten") {
		t.Errorf("refused: %s", status.Message)
	}
	patched := must[*unstructured.Unstructured](w, "patch:merge", cronTabRow, "default", "a", `{"spec":{"replicas":3,"more":true}}`)
	if patched.GetGeneration() != 2 || strings.Contains(text(t, patched), "more") {
		t.Errorf("patched: %s", text(t, patched))
	}
	w.must("delete", cronTabRow, "default", "a", "")
	w.refused("get", cronTabRow, "default", "a", "")
}
