package controllers_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/skifftest"
)

func TestADeletedNamespaceIsEmptiedAndGoes(t *testing.T) {
	s := tell(t, skifftest.Config{})
	s.ok(s.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}))
	labels, two := map[string]string{"app": "web"}, int32(2)
	s.ok(s.AppsV1().Deployments("shop").Create(s.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("", nil).Spec}},
	}, metav1.CreateOptions{}))
	s.ok(s.CoreV1().ConfigMaps("shop").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/held"}}}, metav1.CreateOptions{}))
	until(s, "shop", "web", "available", func(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 2 })

	s.ok(nil, s.CoreV1().Namespaces().Delete(s.ctx, "shop", metav1.DeleteOptions{}))
	until(s, "", "shop", "held up by the finalizer alone", func(ns *corev1.Namespace) bool {
		said := map[corev1.NamespaceConditionType]string{}
		for _, c := range ns.Status.Conditions {
			said[c.Type] = string(c.Status) + " " + c.Message
		}
		return said[corev1.NamespaceFinalizersRemaining] == "True Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances" &&
			said[corev1.NamespaceContentRemaining] == "True Some resources are remaining: configmaps. has 1 resource instances" &&
			said[corev1.NamespaceDeletionContentFailure] == "False All content successfully deleted, may be waiting on finalization"
	})
	if _, err := s.CoreV1().ConfigMaps("shop").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err == nil {
		t.Error("a namespace that ends takes new objects")
	}
	s.ok(s.CoreV1().ConfigMaps("shop").Patch(s.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	gone[*corev1.Namespace](s, "", "shop")
	pods, err := s.CoreV1().Pods("shop").List(s.ctx, metav1.ListOptions{})
	s.ok(nil, err)
	if len(pods.Items) != 0 {
		t.Errorf("%d pods are left", len(pods.Items))
	}
}
