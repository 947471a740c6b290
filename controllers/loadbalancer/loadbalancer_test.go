package loadbalancer

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func node(name, ip string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}, {Type: corev1.NodeHostName, Address: name}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func TestBalancedServicesHaveTheNodesAddresses(t *testing.T) {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Controller())
	service := func() *corev1.Service {
		s, _ := client.Find[*corev1.Service](w.View, "a", "web")
		return s
	}
	expect := func(when string, want ...string) {
		t.Helper()
		w.Settle()
		var got []string
		for _, i := range service().Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %q, want %q", when, got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%s: %q, want %q", when, got, want)
			}
		}
	}
	w.Put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}})
	expect("without nodes")
	w.Put(node("n1", "10.0.0.1", corev1.ConditionTrue))
	w.Put(node("n2", "10.0.0.2", corev1.ConditionFalse))
	expect("with one ready node", "10.0.0.1")
	w.Put(node("n2", "10.0.0.2", corev1.ConditionTrue))
	expect("with two", "10.0.0.1", "10.0.0.2")
	w.Remove(node("n1", "", corev1.ConditionTrue))
	expect("after one is gone", "10.0.0.2")
	s := service().DeepCopy()
	s.Spec.Type = corev1.ServiceTypeClusterIP
	w.Put(s)
	expect("no longer balanced")
}
