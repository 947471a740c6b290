package controllers_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/skifftest"
)

func TestACordonedNodeIsTaintedAndANoExecuteTaintEvicts(t *testing.T) {
	s := tell(t, skifftest.Config{})
	nodes, err := s.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	s.ok(nil, err)
	name := nodes.Items[0].Name
	s.ok(s.CoreV1().Pods("default").Create(s.ctx, podOf("p", nil), metav1.CreateOptions{}))
	until(s, "default", "p", "runs", running)
	patch := func(p string) {
		s.ok(s.CoreV1().Nodes().Patch(s.ctx, name, types.StrategicMergePatchType, []byte(p), metav1.PatchOptions{}))
	}
	has := func(want bool) func(*corev1.Node) bool {
		return func(n *corev1.Node) bool {
			return want == slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
				return t.Key == corev1.TaintNodeUnschedulable && t.Effect == corev1.TaintEffectNoSchedule
			})
		}
	}
	patch(`{"spec":{"unschedulable":true}}`)
	until(s, "", name, "tainted", has(true))
	patch(`{"spec":{"unschedulable":false}}`)
	until(s, "", name, "free", has(false))
	patch(`{"spec":{"taints":[{"key":"example.com/leave","effect":"NoExecute"}]}}`)
	gone[*corev1.Pod](s, "default", "p")
}
