package endpoints

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

// flat writes every endpoint with all that is said of it, and its ports, so that
// packings of the same endpoints are equal.
func flat(t *testing.T, all []discoveryv1.EndpointSlice) (out []string) {
	for _, s := range all {
		ports, labels := portsKey(s.AddressType, s.Ports), fmt.Sprint(s.Labels)
		if len(s.Endpoints) == 0 {
			out = append(out, ports+" "+labels)
		}
		for _, e := range s.Endpoints {
			data, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, ports+" "+labels+" "+string(data))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// The reconciler that Kubernetes itself uses makes the same endpoints of the same
// pods, though not the same packing.
func TestEndpointsAreThoseOfKubernetes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	for range 100 {
		near := pick(corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode)
		s := service(func(s *corev1.Service) {
			s.UID = "service"
			s.Spec.PublishNotReadyAddresses = r.IntN(4) == 0
			if r.IntN(3) == 0 {
				s.Spec.TrafficDistribution = &near
			}
			switch r.IntN(3) {
			case 0:
				s.Spec.ClusterIP = corev1.ClusterIPNone
			case 1:
				s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol)
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5353)})
			}
		})
		w := rehearsal.New(t, start, Slices())
		nodes := map[string]string{"n": "z", "m": ""}
		kube := fake.NewClientset()
		made := 0
		kube.PrependReactor("create", "endpointslices", func(a clienttesting.Action) (bool, runtime.Object, error) {
			made++ // the fake does not name what asks for a name
			a.(clienttesting.CreateAction).GetObject().(*discoveryv1.EndpointSlice).Name = fmt.Sprint("slice", made)
			return false, nil, nil
		})
		factory := informers.NewSharedInformerFactory(kube, 0)
		lister := factory.Core().V1().Nodes()
		for _, name := range slices.Sorted(maps.Keys(nodes)) {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: nodes[name]}}}
			w.Put(n)
			if err := lister.Informer().GetIndexer().Add(n); err != nil {
				t.Fatal(err)
			}
		}
		var pods []*corev1.Pod
		for i := range r.IntN(30) {
			p := pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.0.%d", i+1), r.IntN(2) == 0, func(p *corev1.Pod) {
				p.UID = p.GetUID() + "u"
				p.Spec.NodeName = pick("n", "m", "gone")
				p.Status.Phase = corev1.PodPhase(pick("Running", "Running", "Running", "Succeeded"))
				p.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + r.IntN(2))
				if r.IntN(4) == 0 {
					p.Spec.Hostname, p.Spec.Subdomain = p.Name, pick("web", "other")
				}
				if r.IntN(3) == 0 {
					p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00::%x", i+1)})
				}
				if r.IntN(5) == 0 {
					ending(p)
				}
			})
			pods = append(pods, p)
			w.Put(p)
		}
		w.Put(s)
		w.Settle()
		var ours []discoveryv1.EndpointSlice
		for slice := range client.All[*discoveryv1.EndpointSlice](w.View, "x") {
			ours = append(ours, *slice)
		}
		oracle := endpointslice.NewReconciler(kube, lister.Lister(), mostInSlice, endpointsliceutil.NewEndpointSliceTracker(), nil, record.NewFakeRecorder(1000), slicesManager,
			endpointslice.WithPreferSameTrafficDistributionEnabled(true))
		// It complains of pods on nodes that are gone, and goes on without them.
		if err := oracle.Reconcile(klog.Background(), s, pods, nil, time.Time{}); err != nil && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Spec.NodeName == "gone" }) {
			t.Fatal(err)
		}
		theirs, err := kube.DiscoveryV1().EndpointSlices("x").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := flat(t, ours), flat(t, theirs.Items); !slices.Equal(got, want) {
			t.Fatalf("service %+v\nours   %q\ntheirs %q", s.Spec, got, want)
		}
	}
}
