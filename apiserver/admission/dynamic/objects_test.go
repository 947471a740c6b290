package dynamic

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
	"skiff/api/kind"
)

func TestKindsOfDefinitionsAreKnown(t *testing.T) {
	o := &objects{}
	got, _, err := o.ObjectKinds(&apiextensionsv1.CustomResourceDefinition{})
	if want := apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"); err != nil || got[0] != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// What a webhook adds to a custom resource and its schema does not know is dropped before defaults are filled in.
func TestCustomResourcesArePrunedAgain(t *testing.T) {
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Boat"}
	var did []string
	row := &api.Resource{Group: gvk.Group, Version: gvk.Version, KindName: gvk.Kind,
		Kind:   kind.Kind{Default: func(api.Object) { did = append(did, "defaults") }},
		Custom: &api.Custom{Coerce: func(api.Object, bool) ([]string, error) { did = append(did, "pruned"); return nil, nil }},
	}
	o := &objects{rows: map[schema.GroupVersionKind]*api.Resource{gvk: row}}
	boat := &unstructured.Unstructured{}
	boat.SetGroupVersionKind(gvk)
	o.Default(boat)
	if len(did) != 2 || did[0] != "pruned" || did[1] != "defaults" {
		t.Errorf("done: %q", did)
	}
}
