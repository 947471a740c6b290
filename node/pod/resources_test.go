package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(kv ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		out[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return out
}

func TestQOS(t *testing.T) {
	r := func(requests, limits corev1.ResourceList) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
	full := r(list("cpu", "1", "memory", "1Gi"), list("cpu", "1000m", "memory", "1024Mi"))
	for _, tc := range []struct {
		name string
		all  []corev1.ResourceRequirements
		want corev1.PodQOSClass
	}{
		{"nothing", []corev1.ResourceRequirements{{}, {}}, corev1.PodQOSBestEffort},
		{"only zero", []corev1.ResourceRequirements{r(list("cpu", "0"), nil)}, corev1.PodQOSBestEffort},
		{"other resources", []corev1.ResourceRequirements{r(list("example.com/gpu", "1"), list("example.com/gpu", "1"))}, corev1.PodQOSBestEffort},
		{"all equal", []corev1.ResourceRequirements{full, full}, corev1.PodQOSGuaranteed},
		{"limits only", []corev1.ResourceRequirements{r(nil, full.Limits)}, corev1.PodQOSGuaranteed},
		{"one without", []corev1.ResourceRequirements{full, {}}, corev1.PodQOSBurstable},
		{"no memory", []corev1.ResourceRequirements{r(list("cpu", "1"), list("cpu", "1"))}, corev1.PodQOSBurstable},
		{"less asked", []corev1.ResourceRequirements{r(list("cpu", "500m", "memory", "1Gi"), full.Limits)}, corev1.PodQOSBurstable},
	} {
		p := testPod(nil)
		p.Spec.Containers = nil
		for _, res := range tc.all {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: res})
		}
		if got := QOS(p); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestCPU(t *testing.T) {
	for milli, want := range map[int64]int64{0: 2, 1: 2, 100: 102, 500: 512, 1000: 1024, 2500: 2560, 1_000_000: 262144} {
		if got := milliCPUToShares(milli); got != want {
			t.Errorf("%dm: %d shares, want %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 0, 1: 1000, 5: 1000, 100: 10_000, 1500: 150_000} {
		if got := milliCPUToQuota(milli); got != want {
			t.Errorf("%dm: quota %d, want %d", milli, got, want)
		}
	}
}

func TestOOMScore(t *testing.T) {
	const node = 16 << 30
	adj := func(priority int32, class corev1.PodQOSClass, memory string) int64 {
		p := testPod(nil)
		p.Spec.Priority, p.Status.QOSClass = &priority, class
		c := &p.Spec.Containers[0]
		if memory != "" {
			c.Resources.Requests = list("memory", memory)
		}
		return oomScoreAdj(p, c, node)
	}
	for _, tc := range []struct{ got, want int64 }{
		{adj(0, corev1.PodQOSGuaranteed, "1Gi"), -997}, {adj(0, corev1.PodQOSBestEffort, ""), 1000},
		{adj(2_000_000_000, corev1.PodQOSBestEffort, ""), -997}, {adj(0, corev1.PodQOSBurstable, "4Gi"), 750},
		{adj(0, corev1.PodQOSBurstable, ""), 999}, {adj(0, corev1.PodQOSBurstable, "16Gi"), 3},
	} {
		if tc.got != tc.want {
			t.Errorf("%d, want %d", tc.got, tc.want)
		}
	}
}

// "The Pod's effective request/limit for a resource is the higher of: the sum of
// all app containers request/limit for a resource; the effective init
// request/limit for a resource", sidecars counting on both sides.
func TestTotal(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	c := func(cpu string, sidecar bool) corev1.Container {
		out := corev1.Container{Resources: corev1.ResourceRequirements{Requests: list("cpu", cpu)}}
		if sidecar {
			out.RestartPolicy = &always
		}
		return out
	}
	for _, tc := range []struct {
		init, app []corev1.Container
		want      string
	}{
		{nil, []corev1.Container{c("1", false), c("2", false)}, "3"},
		{[]corev1.Container{c("5", false)}, []corev1.Container{c("1", false)}, "5"},
		{[]corev1.Container{c("1", true)}, []corev1.Container{c("1", false)}, "2"},
		{[]corev1.Container{c("1", true), c("5", false)}, []corev1.Container{c("1", false)}, "6"},
		{[]corev1.Container{c("5", false), c("1", true)}, []corev1.Container{c("1", false)}, "5"},
	} {
		p := testPod(nil)
		p.Spec.InitContainers, p.Spec.Containers = tc.init, tc.app
		q := Total(p).Requests[corev1.ResourceCPU]
		if q.String() != tc.want {
			t.Errorf("%s, want %s", q.String(), tc.want)
		}
	}
}

func TestHugepageSize(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{"hugepages-2Mi": "2MB", "hugepages-1Gi": "1GB", "hugepages-64Ki": "64KB"} {
		if got, ok := hugepageSize(name); !ok || got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, ok := hugepageSize(corev1.ResourceMemory); ok {
		t.Error("memory is no huge page")
	}
}
