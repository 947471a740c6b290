package pod

import (
	"k8s.io/apimachinery/pkg/api/equality"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CPU bandwidth as the kernel counts it.
const (
	minShares   = 2
	maxShares   = 262144
	cpuPeriod   = 100_000 // µs
	minCPUQuota = 1_000   // µs
)

// milliCPUToShares turns a CPU request into a cgroup v1 weight: 1024 per CPU.
func milliCPUToShares(milli int64) int64 {
	return min(max(milli*1024/1000, minShares), maxShares)
}

// milliCPUToQuota turns a CPU limit into µs per period; 0: no limit.
func milliCPUToQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minCPUQuota)
}

// QOS is the pod's quality of service class: Guaranteed when every container (or
// the pod as a whole) has limits for CPU and memory that equal its requests,
// BestEffort when none has any of them, Burstable else.
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	var all []corev1.ResourceRequirements
	if r := p.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		all = append(all, *r)
	} else {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				all = append(all, list[i].Resources)
			}
		}
	}
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// oomScoreAdj says how willingly the kernel kills a container's processes.
func oomScoreAdj(p *corev1.Pod, c *corev1.Container, nodeMemory int64) int64 {
	if p.Spec.Priority != nil && *p.Spec.Priority >= 2_000_000_000 {
		return -997
	}
	switch QOS(p) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if nodeMemory == 0 {
		return 999
	}
	adj := 1000 - 1000*c.Resources.Requests.Memory().Value()/nodeMemory
	// Above Guaranteed and below BestEffort, whatever it asks for.
	return min(max(adj, 3), 999)
}

// linuxResources are the container's limits as CRI wants them.
func linuxResources(p *corev1.Pod, c *corev1.Container, r corev1.ResourceRequirements, nodeMemory int64, hugepages bool) *cri.LinuxContainerResources {
	request, ok := r.Requests[corev1.ResourceCPU]
	if !ok {
		request = r.Limits[corev1.ResourceCPU]
	}
	out := &cri.LinuxContainerResources{
		CpuShares:          milliCPUToShares(request.MilliValue()),
		CpuPeriod:          cpuPeriod,
		CpuQuota:           milliCPUToQuota(r.Limits.Cpu().MilliValue()),
		MemoryLimitInBytes: r.Limits.Memory().Value(),
		OomScoreAdj:        oomScoreAdj(p, c, nodeMemory),
	}
	if hugepages {
		out.HugepageLimits = hugepageLimits(r)
	}
	return out
}

func hugepageLimits(r corev1.ResourceRequirements) []*cri.HugepageLimit {
	var out []*cri.HugepageLimit
	for name, q := range r.Limits {
		if size, ok := hugepageSize(name); ok {
			out = append(out, &cri.HugepageLimit{PageSize: size, Limit: uint64(q.Value())})
		}
	}
	return out
}

// hugepageSize is "2MB" for hugepages-2Mi: as the kernel's cgroup files name it.
func hugepageSize(name corev1.ResourceName) (string, bool) {
	const prefix = corev1.ResourceHugePagesPrefix
	if len(name) <= len(prefix) || string(name[:len(prefix)]) != prefix {
		return "", false
	}
	q, err := resource.ParseQuantity(string(name[len(prefix):]))
	if err != nil {
		return "", false
	}
	n, units := q.Value(), []string{"B", "KB", "MB", "GB", "TB"}
	i := 0
	for n >= 1024 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return resource.NewQuantity(n, resource.DecimalSI).String() + units[i], true
}

// resourcesDiffer tells whether a container's CPU or memory changed from a to b.
func resourcesDiffer(a, b *corev1.Pod) bool {
	if len(a.Spec.Containers) != len(b.Spec.Containers) {
		return false
	}
	for i := range a.Spec.Containers {
		if !equality.Semantic.DeepEqual(a.Spec.Containers[i].Resources, b.Spec.Containers[i].Resources) {
			return true
		}
	}
	for i := range min(len(a.Spec.InitContainers), len(b.Spec.InitContainers)) {
		if !equality.Semantic.DeepEqual(a.Spec.InitContainers[i].Resources, b.Spec.InitContainers[i].Resources) {
			return true
		}
	}
	return false
}

// PodResources are a pod's requests and limits as a whole: containers and
// sidecars together, or the largest init container beside the sidecars before it;
// plus the overhead.
type PodResources struct {
	Requests, Limits corev1.ResourceList
	// LimitsAll: every container has a limit for it.
	CPULimited, MemoryLimited bool
}

// Total adds a pod's resources up.
func Total(p *corev1.Pod) PodResources {
	out := PodResources{CPULimited: true, MemoryLimited: true}
	for i := range p.Spec.Containers {
		out.note(p.Spec.Containers[i].Resources)
	}
	out.Requests = total(p, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests })
	out.Limits = total(p, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits })
	for i := range p.Spec.InitContainers {
		out.note(p.Spec.InitContainers[i].Resources)
	}
	if r := p.Spec.Resources; r != nil {
		for k, v := range r.Requests {
			out.Requests[k] = v
		}
		for k, v := range r.Limits {
			out.Limits[k] = v
			out.CPULimited = out.CPULimited || k == corev1.ResourceCPU
			out.MemoryLimited = out.MemoryLimited || k == corev1.ResourceMemory
		}
	}
	addTo(out.Requests, p.Spec.Overhead)
	for k, v := range p.Spec.Overhead {
		if q, ok := out.Limits[k]; ok {
			q.Add(v)
			out.Limits[k] = q
		}
	}
	return out
}

func (r *PodResources) note(c corev1.ResourceRequirements) {
	r.CPULimited = r.CPULimited && !c.Limits.Cpu().IsZero()
	r.MemoryLimited = r.MemoryLimited && !c.Limits.Memory().IsZero()
}

func total(p *corev1.Pod, of func(*corev1.Container) corev1.ResourceList) corev1.ResourceList {
	sum, sidecars, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range p.Spec.Containers {
		addTo(sum, of(&p.Spec.Containers[i]))
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			addTo(sum, of(c))
			addTo(sidecars, of(c))
			mostOf(peak, sidecars)
			continue
		}
		with := sidecars.DeepCopy()
		if with == nil {
			with = corev1.ResourceList{}
		}
		addTo(with, of(c))
		mostOf(peak, with)
	}
	mostOf(sum, peak)
	return sum
}

func addTo(sum, more corev1.ResourceList) {
	for k, v := range more {
		q := sum[k]
		q.Add(v)
		sum[k] = q
	}
}

func mostOf(most, other corev1.ResourceList) {
	for k, v := range other {
		if q, ok := most[k]; !ok || q.Cmp(v) < 0 {
			most[k] = v.DeepCopy()
		}
	}
}

// PodLimits are a pod's limits as its cgroup has them; 0 means none.
type PodLimits struct {
	Shares, Period uint64
	Quota, Memory  int64
}

// Limits follow from the pod's resources: a limit holds for the pod only when
// each container has one.
func Limits(p *corev1.Pod) PodLimits {
	t := Total(p)
	request := t.Requests[corev1.ResourceCPU]
	if request.IsZero() {
		request = t.Limits[corev1.ResourceCPU]
	}
	out := PodLimits{Shares: uint64(milliCPUToShares(request.MilliValue())), Period: cpuPeriod}
	if t.CPULimited {
		out.Quota = milliCPUToQuota(t.Limits.Cpu().MilliValue())
	}
	if t.MemoryLimited {
		out.Memory = t.Limits.Memory().Value()
	}
	return out
}
