package pod

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// "Variable references $(VAR_NAME) are expanded using the previously defined
// environment variables … Double $$ are reduced to a single $, which allows for
// escaping the $(VAR_NAME) syntax" (EnvVar.value)
func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "1",
		"x$(A)y":        "x1y",
		"$(A)$(A)":      "11",
		"$(B)":          "$(A)", // once, not again
		"$(EMPTY)":      "",
		"$(MISSING)":    "$(MISSING)",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$1",
		"$$$$(A)":       "$$(A)",
		"$A":            "$A",
		"$":             "$",
		"a$":            "a$",
		"$$":            "$",
		"$(A":           "$(A",
		"$(":            "$(",
		"$()":           "$()",
		"cost $5 $(A)":  "cost $5 1",
		"$(A)$(":        "1$(",
		"$$(A)-$(A)-$$": "$(A)-1-$",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

type fakeRefs struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
}

func (f fakeRefs) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if d, ok := f.maps[name]; ok {
		return &corev1.ConfigMap{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (f fakeRefs) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if d, ok := f.secrets[name]; ok {
		return &corev1.Secret{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (fakeRefs) Hold(*corev1.Pod)    {}
func (fakeRefs) Release(*corev1.Pod) {}

func TestEnv(t *testing.T) {
	refs := fakeRefs{maps: map[string]map[string]string{"cm": {"k": "v", "over": "cm", "bad=key": "x"}}, secrets: map[string]map[string][]byte{"s": {"pw": []byte("p")}}}
	p := testPod(func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "x"}
		p.Annotations = map[string]string{"a/b": "c"}
		p.Spec.ServiceAccountName = "sa"
	})
	yes := true
	named := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	field := func(p string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: p}}
	}
	c := &corev1.Container{Name: "main",
		EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("cm")}},
			{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named("s")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named("none"), Optional: &yes}},
		},
		Env: []corev1.EnvVar{
			{Name: "over", Value: "own"}, {Name: "ref", Value: "$(over)/$(k)/$(SVC_SERVICE_HOST)"}, {Name: "SVC_SERVICE_PORT", Value: "mine"},
			{Name: "opt", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("cm"), Key: "no", Optional: &yes}}},
			{Name: "label", ValueFrom: field("metadata.labels['app']")}, {Name: "anno", ValueFrom: field("metadata.annotations['a/b']")},
			{Name: "node", ValueFrom: field("spec.nodeName")}, {Name: "sa", ValueFrom: field("spec.serviceAccountName")},
			{Name: "ips", ValueFrom: field("status.podIPs")}, {Name: "host", ValueFrom: field("status.hostIP")},
		}}
	f := Facts{Pod: p, NodeName: "n1", PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.0.2.1"}}
	e, invalid, err := Env(t.Context(), f, c, map[string]string{"SVC_SERVICE_HOST": "1.2.3.4", "SVC_SERVICE_PORT": "80"}, refs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"k": "v", "over": "own", "S_pw": "p", "ref": "own/v/1.2.3.4", "SVC_SERVICE_HOST": "1.2.3.4", "SVC_SERVICE_PORT": "mine",
		"label": "x", "anno": "c", "node": "n1", "sa": "sa", "ips": "10.0.0.1,fd00::1", "host": "192.0.2.1"}
	if !maps.Equal(e.values, want) || !slices.Equal(invalid, []string{"bad=key"}) {
		t.Errorf("%v, invalid %v", e.values, invalid)
	}
	for _, tc := range []struct {
		src  corev1.EnvVarSource
		want string
	}{
		{corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("cm"), Key: "no"}}, "couldn't find key no in ConfigMap default/cm"},
		{corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: named("none"), Key: "no"}}, `secrets "none" not found`},
		{*field("status.nonsense"), "unsupported fieldPath: status.nonsense"},
	} {
		c := &corev1.Container{Env: []corev1.EnvVar{{Name: "x", ValueFrom: &tc.src}}}
		if _, _, err := Env(t.Context(), f, c, nil, refs); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %s", err, tc.want)
		}
	}
}

func TestResourceField(t *testing.T) {
	q := resource.MustParse
	p := testPod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": q("250m"), "memory": q("64Mi")}, Limits: corev1.ResourceList{"cpu": q("1500m")}}
	})
	f := Facts{Pod: p, Allocatable: corev1.ResourceList{"memory": q("1Gi")}}
	for _, tc := range []struct{ resource, divisor, want string }{
		{"requests.cpu", "", "1"}, {"requests.cpu", "1m", "250"}, {"limits.cpu", "", "2"}, {"limits.cpu", "1m", "1500"},
		{"requests.memory", "", "67108864"}, {"requests.memory", "1Mi", "64"}, {"requests.memory", "1G", "1"}, {"limits.memory", "1Mi", "1024"},
	} {
		r := &corev1.ResourceFieldSelector{Resource: tc.resource}
		if tc.divisor != "" {
			r.Divisor = q(tc.divisor)
		}
		if got, err := f.ResourceField("main", r); err != nil || got != tc.want {
			t.Errorf("%s/%s: %q, %v, want %s", tc.resource, tc.divisor, got, err, tc.want)
		}
	}
}

func TestServiceEnv(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	all := []*corev1.Service{
		svc("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		svc("shop", "my-db", "10.96.0.2", corev1.ServicePort{Port: 53, Protocol: "UDP"}),
		svc("shop", "headless", "None", corev1.ServicePort{Port: 1}),
		svc("other", "far", "10.96.0.3", corev1.ServicePort{Port: 1}),
	}
	got := ServiceEnv("shop", true, all)
	for k, v := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
		"MY_DB_SERVICE_HOST": "10.96.0.2", "MY_DB_PORT_53_UDP": "udp://10.96.0.2:53", "MY_DB_PORT_53_UDP_ADDR": "10.96.0.2", "MY_DB_PORT_53_UDP_PROTO": "udp",
	} {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	for k := range got {
		if strings.HasPrefix(k, "FAR") || strings.HasPrefix(k, "HEADLESS") {
			t.Errorf("%s should not be there", k)
		}
	}
	if got := ServiceEnv("shop", false, all); got["MY_DB_SERVICE_HOST"] != "" || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without links: %v", got)
	}
}
