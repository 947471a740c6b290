package controllers_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

func TestDaemonSets(t *testing.T) {
	s := tell(t, skifftest.Config{Nodes: 3})
	labels := map[string]string{"app": "agent"}
	began := time.Now()
	ds, err := s.AppsV1().DaemonSets("default").Create(s.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("", nil).Spec},
	}}, metav1.CreateOptions{})
	s.ok(ds, err)
	up := func(n int32) func(ds *appsv1.DaemonSet) bool {
		return func(ds *appsv1.DaemonSet) bool {
			return ds.Status.ObservedGeneration == ds.Generation && ds.Status.UpdatedNumberScheduled == n && ds.Status.NumberAvailable == n
		}
	}
	ds = until(s, "default", "agent", "on all nodes", up(3))
	t.Logf("on three nodes: %s", time.Since(began))

	began = time.Now()
	ds.Spec.Template.Spec.Containers[0].Image = "web:2"
	s.ok(s.AppsV1().DaemonSets("default").Update(s.ctx, ds, metav1.UpdateOptions{}))
	until(s, "default", "agent", "rolled out", up(3))
	t.Logf("rolled out: %s", time.Since(began))
	pods, err := s.CoreV1().Pods("default").List(s.ctx, metav1.ListOptions{LabelSelector: "app=agent"})
	s.ok(pods, err)
	nodes := map[string]bool{}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && pod.Spec.Containers[0].Image == "web:2" {
			nodes[pod.Spec.NodeName] = true
		}
	}
	if len(nodes) != 3 {
		t.Errorf("new pods are on %v", nodes)
	}
	revisions, err := s.AppsV1().ControllerRevisions("default").List(s.ctx, metav1.ListOptions{})
	s.ok(revisions, err)
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions, want 2", len(revisions.Items))
	}
}
