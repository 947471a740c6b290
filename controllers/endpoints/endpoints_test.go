package endpoints

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func world(t *testing.T) *rehearsal.World {
	w := rehearsal.New(t, start, Slices(), Legacy(), Mirror())
	w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z"}}})
	return w
}

func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.7", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func pod(name, ip string, ready bool, change ...func(*corev1.Pod)) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, Labels: map[string]string{"app": "web", "pod": name}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(start.Add(time.Minute))}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// inSlices writes endpoints as "10.0.0.1:8080 ready serving terminating".
func inSlices(w *rehearsal.World) []string {
	var out []string
	for s := range client.All[*discoveryv1.EndpointSlice](w.View, "x") {
		for _, e := range s.Endpoints {
			text := e.Addresses[0]
			for _, p := range s.Ports {
				text += fmt.Sprint(":", *p.Port)
			}
			for name, is := range map[string]*bool{" ready": e.Conditions.Ready} {
				if is != nil && *is {
					text += name
				}
			}
			if is := e.Conditions.Serving; is != nil && *is {
				text += " serving"
			}
			if is := e.Conditions.Terminating; is != nil && *is {
				text += " terminating"
			}
			if e.Hostname != nil {
				text += " as " + *e.Hostname
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func inEndpoints(w *rehearsal.World) []string {
	var out []string
	e, ok := client.Find[*corev1.Endpoints](w.View, "x", "web")
	if !ok {
		return []string{"none"}
	}
	for _, s := range e.Subsets {
		for i, a := range append(slices.Clone(s.Addresses), s.NotReadyAddresses...) {
			text := a.IP
			for _, p := range s.Ports {
				text += fmt.Sprint(":", p.Port)
			}
			if i < len(s.Addresses) {
				text += " ready"
			}
			out = append(out, text)
		}
	}
	return out
}

func ending(p *corev1.Pod) {
	at := metav1.NewTime(start)
	p.DeletionTimestamp, p.Finalizers = &at, []string{"x/y"}
}
func finished(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func lost(p *corev1.Pod)     { p.Spec.NodeName = "gone" }
func headlessService(s *corev1.Service) {
	s.Spec.ClusterIP, s.Spec.Ports = corev1.ClusterIPNone, nil
}

func TestEndpointsOfPods(t *testing.T) {
	for _, c := range []struct {
		name              string
		service           *corev1.Service
		pods              []*corev1.Pod
		slices, endpoints []string
	}{
		{"none", service(), nil, nil, nil},
		{"ready and not", service(), []*corev1.Pod{pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)},
			[]string{"10.0.0.1:8080 ready serving", "10.0.0.2:8080"}, []string{"10.0.0.1:8080 ready", "10.0.0.2:8080"}},
		{"ending", service(), []*corev1.Pod{pod("a", "10.0.0.1", true, ending)}, []string{"10.0.0.1:8080 serving terminating"}, nil},
		{"finished", service(), []*corev1.Pod{pod("a", "10.0.0.1", false, finished)}, nil, nil},
		{"on a node that is gone", service(), []*corev1.Pod{pod("a", "10.0.0.1", true, lost)}, nil, []string{"10.0.0.1:8080 ready"}},
		{"wanted in any state", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), []*corev1.Pod{pod("a", "10.0.0.1", false)},
			[]string{"10.0.0.1:8080 ready"}, []string{"10.0.0.1:8080 ready"}},
		{"of another app", service(), []*corev1.Pod{pod("a", "10.0.0.1", true, func(p *corev1.Pod) { p.Labels["app"] = "db" })}, nil, nil},
		{"of another family", service(), []*corev1.Pod{pod("a", "fd00::1", true)}, nil, nil},
		{"headless without ports", service(headlessService), []*corev1.Pod{pod("a", "10.0.0.1", true, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "a-0", "web" })},
			[]string{"10.0.0.1 ready serving as a-0"}, []string{"10.0.0.1 ready"}},
		{"the named port differs by pod", service(), []*corev1.Pod{pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 })},
			[]string{"10.0.0.1:8080 ready serving", "10.0.0.2:9090 ready serving"}, []string{"10.0.0.1:8080 ready", "10.0.0.2:9090 ready"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := world(t)
			for _, p := range c.pods {
				w.Put(p)
			}
			w.Put(c.service)
			w.Settle()
			if got := inSlices(w); !slices.Equal(got, c.slices) {
				t.Errorf("slices %q, want %q", got, c.slices)
			}
			if got := inEndpoints(w); !slices.Equal(got, c.endpoints) {
				t.Errorf("endpoints %q, want %q", got, c.endpoints)
			}
			for s := range client.All[*discoveryv1.EndpointSlice](w.View, "x") {
				_, said := s.Labels[corev1.IsHeadlessService]
				if s.Labels["team"] != "a" || s.Labels[discoveryv1.LabelServiceName] != "web" || s.Labels[discoveryv1.LabelManagedBy] != slicesManager || said != headless(c.service) || !strings.HasPrefix(s.Name, "web-") {
					t.Errorf("metadata %+v", s.ObjectMeta)
				}
				for _, e := range s.Endpoints {
					if *e.NodeName != "n" || e.Zone == nil || *e.Zone != "z" {
						t.Errorf("endpoint %+v", e)
					}
				}
			}
		})
	}
}

func TestChangesReachEndpoints(t *testing.T) {
	w := world(t)
	w.Put(service())
	w.Settle()
	w.Put(pod("a", "10.0.0.1", true))
	w.Settle()
	if got := inSlices(w); len(got) != 1 {
		t.Fatalf("slices %q", got)
	}
	for s := range client.All[*discoveryv1.EndpointSlice](w.View, "x") {
		if got, want := s.Annotations[corev1.EndpointsLastChangeTriggerTime], start.Add(time.Minute).Format(time.RFC3339Nano); got != want {
			t.Errorf("trigger time %s, want %s", got, want)
		}
	}
	moved := pod("a", "10.0.0.1", true)
	moved.Labels["app"] = "other"
	w.Put(moved)
	w.Settle()
	if got := inSlices(w); len(got) != 0 {
		t.Errorf("after its labels changed: %q", got)
	}
	w.Remove(service())
	w.Settle()
	if got := inEndpoints(w); got[0] != "none" {
		t.Errorf("after the service is gone: %q", got)
	}
}

func TestHandWrittenEndpointsAreMirrored(t *testing.T) {
	w := world(t)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2"}},
		Ports: []corev1.EndpointPort{{Name: "db", Port: 5432, Protocol: corev1.ProtocolTCP}}}}}
	w.Put(e)
	w.Settle()
	if got := inSlices(w); len(got) != 0 {
		t.Fatalf("without a service: %q", got)
	}
	w.Put(service(func(s *corev1.Service) { s.Spec.Selector = nil }))
	w.Settle()
	if got, want := inSlices(w), []string{"192.0.2.1:5432 ready", "192.0.2.2:5432", "2001:db8::1:5432 ready"}; !slices.Equal(got, want) {
		t.Errorf("mirrored %q, want %q", got, want)
	}
	e.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	w.Put(e)
	w.Settle()
	if got := inSlices(w); len(got) != 0 {
		t.Errorf("after it was asked not to: %q", got)
	}
}

func TestPreferredZones(t *testing.T) {
	w := world(t)
	near := corev1.ServiceTrafficDistributionPreferSameNode
	w.Put(pod("a", "10.0.0.1", true))
	w.Put(service(func(s *corev1.Service) { s.Spec.TrafficDistribution = &near }))
	w.Settle()
	for s := range client.All[*discoveryv1.EndpointSlice](w.View, "x") {
		h := s.Endpoints[0].Hints
		if h == nil || h.ForZones[0].Name != "z" || h.ForNodes[0].Name != "n" {
			t.Errorf("hints %+v", h)
		}
	}
}
