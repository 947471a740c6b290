package controllers_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

func TestStatefulSets(t *testing.T) {
	s := tell(t, skifftest.Config{Nodes: 3})
	labels := map[string]string{"app": "db"}
	began := time.Now()
	set, err := s.AppsV1().StatefulSets("default").Create(s.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("", nil).Spec},
	}}, metav1.CreateOptions{})
	s.ok(set, err)
	up := func(set *appsv1.StatefulSet) bool {
		st := set.Status
		return st.ObservedGeneration == set.Generation && st.AvailableReplicas == 3 && st.UpdatedReplicas == 3 && st.CurrentRevision == st.UpdateRevision
	}
	set = until(s, "default", "db", "up", up)
	t.Logf("three pods in order: %s", time.Since(began))
	set.Spec.Template.Spec.Containers[0].Image = "web:2"
	began = time.Now()
	s.ok(s.AppsV1().StatefulSets("default").Update(s.ctx, set, metav1.UpdateOptions{}))
	until(s, "default", "db", "rolled out", up)
	t.Logf("rolled out: %s", time.Since(began))
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		pod, err := s.CoreV1().Pods("default").Get(s.ctx, name, metav1.GetOptions{})
		s.ok(pod, err)
		if pod.Spec.Containers[0].Image != "web:2" {
			t.Errorf("%s runs %s", name, pod.Spec.Containers[0].Image)
		}
	}
}
