package quota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var now = time.Unix(1_800_000_000, 0)

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func podWith(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	change(pod)
	return pod
}

func of(resource string) *Measure { return Of(schema.ParseGroupResource(resource)) }

func TestUse(t *testing.T) {
	class, no := "gold", false
	for what, test := range map[string]struct {
		resource string
		obj      runtime.Object
		want     corev1.ResourceList
	}{
		"a pod with requests, limits, huge pages and a device": {"pods", podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: amounts("cpu", "1", "memory", "1Gi", "hugepages-2Mi", "4Mi", "example.com/gpu", "2"), Limits: amounts("cpu", "2", "ephemeral-storage", "3Gi", "example.com/gpu", "2")}
		}), amounts("pods", "1", "count/pods", "1", "cpu", "1", "requests.cpu", "1", "limits.cpu", "2", "memory", "1Gi", "requests.memory", "1Gi", "limits.ephemeral-storage", "3Gi",
			"hugepages-2Mi", "4Mi", "requests.hugepages-2Mi", "4Mi", "requests.example.com/gpu", "2")},
		"a pod that has ended": {"pods", podWith(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
			p.Spec.Containers[0].Resources.Requests = amounts("cpu", "1")
		}), amounts("count/pods", "1")},
		"a pod that should have ended": {"pods", podWith(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(-time.Hour)}, new(int64)
		}), amounts("count/pods", "1")},
		"a load balancer": {"services", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 2)}},
			amounts("services", "1", "count/services", "1", "services.loadbalancers", "1", "services.nodeports", "2")},
		"a load balancer that names one of its ports": {"services", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no,
			Ports: []corev1.ServicePort{{NodePort: 30001}, {}}}}, amounts("services", "1", "count/services", "1", "services.loadbalancers", "1", "services.nodeports", "1")},
		"a claim of a class": {"persistentvolumeclaims", &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1500m")}}},
			amounts("persistentvolumeclaims", "1", "count/persistentvolumeclaims", "1", "requests.storage", "2",
				"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "gold.storageclass.storage.k8s.io/requests.storage", "2")},
		"a claim that was given more than it asks for now": {"persistentvolumeclaims", &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")}},
			Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: amounts("storage", "2Gi")}},
			amounts("persistentvolumeclaims", "1", "count/persistentvolumeclaims", "1", "requests.storage", "2Gi")},
		"a claim for devices": {"resourceclaims.resource.k8s.io", &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}, {DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll}}},
		}}}}, amounts("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "5", "nic.deviceclass.resource.k8s.io/devices", "32")},
		"a secret":     {"secrets", &corev1.Secret{}, amounts("secrets", "1", "count/secrets", "1")},
		"a deployment": {"deployments.apps", &corev1.Secret{}, amounts("count/deployments.apps", "1")},
	} {
		if got := of(test.resource).Use(test.obj, now); !Equal(got, test.want) {
			t.Errorf("%s uses %v, want %v", what, got, test.want)
		}
	}
	if of("events") != nil || of("events.events.k8s.io") != nil {
		t.Error("events count")
	}
}

func TestScopes(t *testing.T) {
	calm := podWith(func(*corev1.Pod) {})
	asking := podWith(func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = amounts("cpu", "1") })
	ending := podWith(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64) })
	important := podWith(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	curious := podWith(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}}}}}
	})
	class := func(operator corev1.ScopeSelectorOperator, values ...string) corev1.ResourceQuotaSpec {
		return corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: operator, Values: values}}}}
	}
	scoped := func(scopes ...corev1.ResourceQuotaScope) corev1.ResourceQuotaSpec {
		return corev1.ResourceQuotaSpec{Scopes: scopes}
	}
	for what, test := range map[string]struct {
		spec corev1.ResourceQuotaSpec
		in   []*corev1.Pod
	}{
		"no scope":         {scoped(), []*corev1.Pod{calm, asking, ending, important, curious}},
		"best effort":      {scoped("BestEffort"), []*corev1.Pod{calm, ending, important, curious}},
		"not best effort":  {scoped("NotBestEffort"), []*corev1.Pod{asking}},
		"terminating":      {scoped("Terminating"), []*corev1.Pod{ending}},
		"two scopes":       {scoped("NotTerminating", "NotBestEffort"), []*corev1.Pod{asking}},
		"other namespaces": {scoped("CrossNamespacePodAffinity"), []*corev1.Pod{curious}},
		"any class":        {class(corev1.ScopeSelectorOpExists), []*corev1.Pod{important}},
		"no class":         {class(corev1.ScopeSelectorOpDoesNotExist), []*corev1.Pod{calm, asking, ending, curious}},
		"a class":          {class(corev1.ScopeSelectorOpIn, "high", "higher"), []*corev1.Pod{important}},
		"another class":    {class(corev1.ScopeSelectorOpNotIn, "low"), []*corev1.Pod{calm, asking, ending, important, curious}},
	} {
		want := map[*corev1.Pod]bool{}
		for _, pod := range test.in {
			want[pod] = true
		}
		for name, pod := range map[string]*corev1.Pod{"calm": calm, "asking": asking, "ending": ending, "important": important, "curious": curious} {
			if got := of("pods").Holds(&test.spec, pod); got != want[pod] {
				t.Errorf("%s: the %s pod is in: %v", what, name, got)
			}
		}
		if len(test.spec.Scopes) > 0 && of("secrets").Holds(&test.spec, &corev1.Secret{}) {
			t.Errorf("%s: a secret is in", what)
		}
	}
}

// A quota that counts one thing says nothing about another; what an update does not
// raise is free, also beyond the limit.
func TestCharge(t *testing.T) {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Status: corev1.ResourceQuotaStatus{
		Hard: amounts("services.nodeports", "2"), Used: amounts("services.nodeports", "3")}}
	service := func(ports int) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, ports)}}
	}
	if more, err := of("secrets").Charge(q, Write{Verb: "create", Object: &corev1.Secret{}, Now: now}); more != nil || err != nil {
		t.Errorf("a secret: %v %v", more, err)
	}
	if more, err := of("services").Charge(q, Write{Verb: "update", Object: service(2), Old: service(3), Now: now}); more != nil || err != nil {
		t.Errorf("a service that gives a port up: %v %v", more, err)
	}
	want := "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=3, limited: services.nodeports=2"
	if _, err := of("services").Charge(q, Write{Verb: "update", Object: service(4), Old: service(3), Now: now}); err == nil || err.Error() != want {
		t.Errorf("a service with one port more: %v, want %s", err, want)
	}
}
