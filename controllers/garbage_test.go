package controllers_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

// deployed makes a Deployment of one pod and returns its ReplicaSet.
func deployed(s *story, name string) *appsv1.ReplicaSet {
	labels, one := map[string]string{"app": name}, int32(1)
	s.ok(s.AppsV1().Deployments("default").Create(s.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("", nil).Spec}},
	}, metav1.CreateOptions{}))
	until(s, "default", name, "available", func(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 1 })
	sets, err := s.AppsV1().ReplicaSets("default").List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	s.ok(nil, err)
	return &sets.Items[0]
}

func (s *story) podNames(app string) (names []string) {
	pods, err := s.CoreV1().Pods("default").List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	s.ok(nil, err)
	for _, p := range pods.Items {
		names = append(names, p.Name)
	}
	return names
}

func TestWhatIsOwnedGoesWithItsOwner(t *testing.T) {
	s := tell(t, skifftest.Config{})
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		rs := deployed(s, "web")
		pods := s.podNames("web")
		s.ok(nil, s.AppsV1().Deployments("default").Delete(s.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}))
		gone[*appsv1.Deployment](s, "default", "web")
		if policy == metav1.DeletePropagationForeground && len(s.podNames("web")) != 0 {
			t.Error("the owner went before its dependents")
		}
		gone[*appsv1.ReplicaSet](s, "default", rs.Name)
		for _, pod := range pods {
			gone[*corev1.Pod](s, "default", pod)
		}
	}
}

func TestOrphansStay(t *testing.T) {
	s := tell(t, skifftest.Config{})
	rs := deployed(s, "web")
	orphan := metav1.DeletePropagationOrphan
	s.ok(nil, s.AppsV1().Deployments("default").Delete(s.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &orphan}))
	gone[*appsv1.Deployment](s, "default", "web")
	until(s, "default", rs.Name, "free", func(rs *appsv1.ReplicaSet) bool { return len(rs.OwnerReferences) == 0 && rs.DeletionTimestamp == nil })
	if n := len(s.podNames("web")); n != 1 {
		t.Errorf("%d pods", n)
	}
}
