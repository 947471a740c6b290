package main

import (
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// A slip in a field's name would be dropped without a word by a client that does not check.
func TestManifestHasNoUnknownField(t *testing.T) {
	b, err := os.ReadFile("../web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]any{"ConfigMap": &corev1.ConfigMap{}, "Deployment": &appsv1.Deployment{}, "Service": &corev1.Service{},
		"PodDisruptionBudget": &policyv1.PodDisruptionBudget{}}
	for _, doc := range strings.Split(string(b), "\n---\n")[1:] {
		var head struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatal(err)
		}
		into, ok := kinds[head.Kind]
		if !ok {
			t.Fatalf("%s: unexpected or twice", head.Kind)
		}
		delete(kinds, head.Kind)
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Errorf("%s: %v", head.Kind, err)
		}
	}
	if len(kinds) > 0 {
		t.Errorf("missing: %v", kinds)
	}
}
