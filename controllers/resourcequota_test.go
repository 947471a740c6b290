package controllers_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

// usedIs tells whether a quota's status says that a resource is used so far.
func usedIs(name, amount string) func(*corev1.ResourceQuota) bool {
	return func(q *corev1.ResourceQuota) bool {
		have, ok := q.Status.Used[corev1.ResourceName(name)]
		return ok && have.Cmp(resource.MustParse(amount)) == 0
	}
}

func TestAQuotaFollowsWhatIsUsed(t *testing.T) {
	s := tell(t, skifftest.Config{Nodes: 1})
	s.ok(s.CoreV1().ConfigMaps("default").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "before"}}, metav1.CreateOptions{}))
	hard := func(pairs ...string) corev1.ResourceList {
		list := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return list
	}
	s.ok(s.CoreV1().ResourceQuotas("default").Create(s.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.ResourceQuotaSpec{
		Hard: hard("pods", "2", "count/replicasets.apps", "5", "resourcequotas", "3", "configmaps", "9", "count/widgets.example.com", "1")}}, metav1.CreateOptions{}))
	// kube-root-ca.crt is the other one.
	until(s, "default", "all", "config maps counted", usedIs("configmaps", "2"))
	until(s, "default", "all", "itself counted", usedIs("resourcequotas", "1"))

	three, labels := int32(3), map[string]string{"app": "web"}
	s.ok(s.AppsV1().ReplicaSets("default").Create(s.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("", nil).Spec}}}, metav1.CreateOptions{}))
	until(s, "default", "all", "two pods counted", usedIs("pods", "2"))
	until(s, "default", "all", "the replica set counted", usedIs("count/replicasets.apps", "1"))
	until(s, "default", "web", "told that the third pod is refused", func(rs *appsv1.ReplicaSet) bool {
		return rs != nil && len(rs.Status.Conditions) > 0 && strings.Contains(rs.Status.Conditions[0].Message,
			"exceeded quota: all, requested: pods=1, used: pods=2, limited: pods=2")
	})

	s.ok(nil, s.AppsV1().ReplicaSets("default").Delete(s.ctx, "web", metav1.DeleteOptions{}))
	until(s, "default", "all", "pods given back", usedIs("pods", "0"))
	s.ok(nil, s.CoreV1().ConfigMaps("default").Delete(s.ctx, "before", metav1.DeleteOptions{}))
	until(s, "default", "all", "config map given back", usedIs("configmaps", "1"))

	// Another spec counts something else.
	q, err := s.CoreV1().ResourceQuotas("default").Get(s.ctx, "all", metav1.GetOptions{})
	s.ok(nil, err)
	q.Spec.Hard = hard("count/serviceaccounts", "4")
	s.ok(s.CoreV1().ResourceQuotas("default").Update(s.ctx, q, metav1.UpdateOptions{}))
	until(s, "default", "all", "service accounts counted alone", func(q *corev1.ResourceQuota) bool {
		return usedIs("count/serviceaccounts", "1")(q) && len(q.Status.Used) == 1 && len(q.Status.Hard) == 1
	})
}
