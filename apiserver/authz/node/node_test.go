package node

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func pod(node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"},
		Spec: corev1.PodSpec{
			NodeName:           node,
			ServiceAccountName: "robot",
			Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			}}},
			Volumes: []corev1.Volume{
				{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
				{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			},
		},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func TestAnAgentReadsOnlyWhatItsPodsName(t *testing.T) {
	a := New(func(authorizer.Attributes) bool { return false })
	a.Apply(pod("n1", corev1.PodRunning), false)
	a.Apply(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv1"},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "a", Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "login"},
			}},
		},
	}, false)

	ask := func(node, verb, group, resource, sub, namespace, name string) bool {
		d, _, _ := a.Authorize(context.Background(), authorizer.AttributesRecord{
			User: &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{"system:nodes"}},
			Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name, ResourceRequest: true,
		})
		return d == authorizer.DecisionAllow
	}
	for _, c := range []struct {
		node, verb, group, resource, sub, namespace, name string
		want                                              bool
	}{
		{"n1", "create", "certificates.k8s.io", "podcertificaterequests", "", "a", "", true},
		{"n1", "list", "certificates.k8s.io", "podcertificaterequests", "", "a", "", false},
		{"n1", "get", "certificates.k8s.io", "podcertificaterequests", "", "a", "req-1", false},
		{"n1", "update", "certificates.k8s.io", "podcertificaterequests", "status", "a", "req-1", false},
		{"n1", "get", "", "secrets", "", "a", "key", true},
		{"n1", "watch", "", "secrets", "", "a", "key", true},
		{"n1", "list", "", "secrets", "", "a", "", false},
		{"n1", "update", "", "secrets", "", "a", "key", false},
		{"n1", "get", "", "secrets", "", "b", "key", false},
		{"n2", "get", "", "secrets", "", "a", "key", false},
		{"n1", "get", "", "secrets", "", "storage", "login", true},
		{"n2", "get", "", "secrets", "", "storage", "login", false},
		{"n1", "get", "", "configmaps", "", "a", "settings", true},
		{"n1", "get", "", "persistentvolumeclaims", "", "a", "data", true},
		{"n1", "get", "", "persistentvolumes", "", "", "pv1", true},
		{"n2", "get", "", "persistentvolumes", "", "", "pv1", false},
		{"n1", "create", "", "serviceaccounts", "token", "a", "robot", true},
		{"n1", "create", "", "serviceaccounts", "token", "a", "admin", false},
		{"n2", "create", "", "serviceaccounts", "token", "a", "robot", false},
		{"n1", "get", "", "nodes", "", "", "n1", true},
		{"n1", "get", "", "nodes", "", "", "n2", false},
		{"n1", "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", true},
		{"n1", "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", false},
		{"n1", "update", "coordination.k8s.io", "leases", "", "kube-system", "n1", false},
		{"n1", "get", "", "pods", "", "a", "web", true},
		{"n2", "get", "", "pods", "", "a", "web", false},
		{"n1", "list", "", "pods", "", "", "", false},
	} {
		if got := ask(c.node, c.verb, c.group, c.resource, c.sub, c.namespace, c.name); got != c.want {
			t.Errorf("%+v: allowed=%v", c, got)
		}
	}

	a.Apply(pod("n1", corev1.PodSucceeded), false)
	if ask("n1", "get", "", "secrets", "", "a", "key") {
		t.Error("the secret of a finished pod can be read")
	}
	a.Apply(pod("n2", corev1.PodRunning), false)
	if !ask("n2", "get", "", "secrets", "", "a", "key") || ask("n1", "get", "", "secrets", "", "a", "key") {
		t.Error("rights did not move with the pod")
	}
	a.Apply(pod("n2", corev1.PodRunning), true)
	if ask("n2", "get", "", "secrets", "", "a", "key") || len(a.uses) != 0 || len(a.pods) != 0 {
		t.Error("a deleted pod leaves rights behind")
	}
}

func TestPodsOfItsOwnNodeOnly(t *testing.T) {
	a := New(func(authorizer.Attributes) bool { return false })
	list := func(node string) authorizer.Decision {
		d, _, _ := a.Authorize(context.Background(), authorizer.AttributesRecord{
			User: &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}},
			Verb: "watch", Resource: "pods", ResourceRequest: true,
			FieldSelectorRequirements: fields.Requirements{{Operator: selection.Equals, Field: "spec.nodeName", Value: node}},
		})
		return d
	}
	if list("n1") != authorizer.DecisionAllow || list("n2") != authorizer.DecisionNoOpinion {
		t.Error("an agent watches the pods of its node, and no others")
	}
}

func TestOnlyAgentsAreAnswered(t *testing.T) {
	for _, u := range []*user.DefaultInfo{
		{Name: "system:node:n1"},
		{Name: "system:node:", Groups: []string{"system:nodes"}},
		{Name: "eve", Groups: []string{"system:nodes"}},
	} {
		if got := Name(u); got != "" {
			t.Errorf("%v is taken for node %q", u, got)
		}
	}
}
