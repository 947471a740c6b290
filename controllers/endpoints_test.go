package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/skifftest"
)

func TestAServiceHasItsPodsAsEndpoints(t *testing.T) {
	s := tell(t, skifftest.Config{})
	labels := map[string]string{"app": "web"}
	s.ok(s.CoreV1().Pods("default").Create(s.ctx, podOf("p", labels), metav1.CreateOptions{}))
	s.ok(s.CoreV1().Services("default").Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{}))
	e := until(s, "default", "web", "has an address", func(e *corev1.Endpoints) bool {
		return e != nil && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 1
	})
	w, err := s.DiscoveryV1().EndpointSlices("default").Watch(s.ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
	s.ok(nil, err)
	defer w.Stop()
	for event := range w.ResultChan() {
		slice, ok := event.Object.(*discoveryv1.EndpointSlice)
		if ok && len(slice.Endpoints) == 1 && *slice.Endpoints[0].Conditions.Ready {
			if got := slice.Endpoints[0].Addresses[0]; got != e.Subsets[0].Addresses[0].IP || *slice.Ports[0].Port != 8080 {
				t.Errorf("slice %+v, endpoints %+v", slice, e.Subsets)
			}
			break
		}
	}
	s.ok(nil, s.CoreV1().Services("default").Delete(s.ctx, "web", metav1.DeleteOptions{}))
	gone[*corev1.Endpoints](s, "default", "web")
}
