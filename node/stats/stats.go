// Package stats tells what the node and its pods use, when somebody asks: it
// keeps nothing and samples nothing by itself. Containers' figures are the
// runtime's (CRI), the node's are the kernel's. Package server serves them as
// /stats/summary and /metrics/resource.
package stats

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff/node/pod"
	"skiff/node/runtime"
)

// Config is what a Source reads.
type Config struct {
	NodeName string
	Runtime  runtime.Runtime
	Pods     func() []pod.View
	Cgroup   string // the node's own group; empty: the machine's figures
	Root     string // a path on the node's disk
	// Simulated: there is no machine; node figures are the sum of the pods'.
	Simulated bool
}

// Source answers questions about usage.
type Source struct{ c Config }

// New makes a Source.
func New(c Config) *Source { return &Source{c: c} }

// Summary is what /stats/summary shows.
func (s *Source) Summary(ctx context.Context) (*statsv1.Summary, error) {
	containers, err := s.c.Runtime.Stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the containers' usage: %w", err)
	}
	byID := map[string]*cri.ContainerStats{}
	for _, c := range containers {
		byID[c.GetAttributes().GetId()] = c
	}
	now := metav1.NewTime(time.Now())
	out := &statsv1.Summary{Node: statsv1.NodeStats{NodeName: s.c.NodeName}}
	for _, v := range s.c.Pods() {
		if p, ok := podStats(v, byID, now); ok {
			out.Pods = append(out.Pods, p)
		}
	}
	s.node(&out.Node, out.Pods, now)
	return out, nil
}

func podStats(v pod.View, byID map[string]*cri.ContainerStats, now metav1.Time) (statsv1.PodStats, bool) {
	p := statsv1.PodStats{PodRef: statsv1.PodReference{Name: v.Pod.Name, Namespace: v.Pod.Namespace, UID: string(v.Pod.UID)}}
	if v.Status.StartTime != nil {
		p.StartTime = *v.Status.StartTime
	}
	var cpu, memory, rss, nanoCores uint64
	for _, c := range allContainers(v.Pod) {
		view := v.Containers[c]
		if view.Run == nil || byID[view.Run.ID] == nil {
			continue
		}
		cs := containerStats(c, view.Run, byID[view.Run.ID], now)
		cpu += value(cs.CPU.UsageCoreNanoSeconds)
		nanoCores += value(cs.CPU.UsageNanoCores)
		memory += value(cs.Memory.WorkingSetBytes)
		rss += value(cs.Memory.RSSBytes)
		p.Containers = append(p.Containers, cs)
	}
	if len(p.Containers) == 0 {
		return p, false
	}
	p.CPU = &statsv1.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu, UsageNanoCores: &nanoCores}
	p.Memory = &statsv1.MemoryStats{Time: now, WorkingSetBytes: &memory, UsageBytes: &memory, RSSBytes: &rss}
	return p, true
}

func allContainers(p *corev1.Pod) []string {
	var out []string
	for _, c := range p.Spec.InitContainers {
		out = append(out, c.Name)
	}
	for _, c := range p.Spec.Containers {
		out = append(out, c.Name)
	}
	for _, c := range p.Spec.EphemeralContainers {
		out = append(out, c.Name)
	}
	return out
}

func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

func number(v *cri.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func containerStats(name string, run *pod.Run, s *cri.ContainerStats, now metav1.Time) statsv1.ContainerStats {
	out := statsv1.ContainerStats{Name: name, StartTime: metav1.NewTime(run.Started), CPU: &statsv1.CPUStats{Time: now}, Memory: &statsv1.MemoryStats{Time: now}}
	if c := s.Cpu; c != nil {
		out.CPU.Time = metav1.NewTime(time.Unix(0, c.Timestamp))
		out.CPU.UsageCoreNanoSeconds, out.CPU.UsageNanoCores = number(c.UsageCoreNanoSeconds), number(c.UsageNanoCores)
	}
	if m := s.Memory; m != nil {
		out.Memory.Time = metav1.NewTime(time.Unix(0, m.Timestamp))
		out.Memory.WorkingSetBytes, out.Memory.UsageBytes = number(m.WorkingSetBytes), number(m.UsageBytes)
		out.Memory.RSSBytes, out.Memory.AvailableBytes = number(m.RssBytes), number(m.AvailableBytes)
		out.Memory.PageFaults, out.Memory.MajorPageFaults = number(m.PageFaults), number(m.MajorPageFaults)
	}
	if w := s.WritableLayer; w != nil {
		out.Rootfs = &statsv1.FsStats{Time: now, UsedBytes: number(w.UsedBytes), InodesUsed: number(w.InodesUsed)}
	}
	return out
}

// node fills in the node's own figures.
func (s *Source) node(n *statsv1.NodeStats, pods []statsv1.PodStats, now metav1.Time) {
	var cpu, memory uint64
	for _, p := range pods {
		cpu += value(p.CPU.UsageCoreNanoSeconds)
		memory += value(p.Memory.WorkingSetBytes)
	}
	if !s.c.Simulated {
		if c, m, ok := s.measured(); ok {
			cpu, memory = c, m
		}
		n.Fs = disk(s.c.Root, now)
	}
	n.CPU = &statsv1.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu}
	n.Memory = &statsv1.MemoryStats{Time: now, WorkingSetBytes: &memory, UsageBytes: &memory}
}

// measured is the use of the node's own group (v1 or v2), or of the machine.
func (s *Source) measured() (cpu, memory uint64, ok bool) {
	if s.c.Cgroup != "" {
		if cpu, memory, ok = groupUsage(s.c.Cgroup); ok {
			return cpu, memory, true
		}
	}
	return machineUsage()
}

func groupUsage(group string) (cpu, memory uint64, ok bool) {
	if stat := keyed(filepath.Join("/sys/fs/cgroup", group, "cpu.stat")); stat != nil {
		current, err := number1(filepath.Join("/sys/fs/cgroup", group, "memory.current"))
		if err == nil {
			inactive := keyed(filepath.Join("/sys/fs/cgroup", group, "memory.stat"))["inactive_file"]
			return stat["usage_usec"] * 1000, current - min(inactive, current), true
		}
	}
	cpu, err := number1(filepath.Join("/sys/fs/cgroup/cpuacct", group, "cpuacct.usage"))
	if err != nil {
		return 0, 0, false
	}
	memory, err = number1(filepath.Join("/sys/fs/cgroup/memory", group, "memory.usage_in_bytes"))
	if err != nil {
		return 0, 0, false
	}
	inactive := keyed(filepath.Join("/sys/fs/cgroup/memory", group, "memory.stat"))["total_inactive_file"]
	return cpu, memory - min(inactive, memory), true
}

func number1(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}

// keyed reads a file of "name value" lines; nil if it is not there.
func keyed(path string) map[string]uint64 {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	out := map[string]uint64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			out[strings.TrimSuffix(fields[0], ":")] = n
		}
	}
	return out
}

// userHz is the kernel's unit in /proc/stat, the same on all Linux platforms.
const userHz = 100

func machineUsage() (cpu, memory uint64, ok bool) {
	mem := keyed("/proc/meminfo")
	data, err := os.ReadFile("/proc/stat")
	if err != nil || mem == nil {
		return 0, 0, false
	}
	first, _, _ := strings.Cut(string(data), "\n")
	for i, f := range strings.Fields(first) {
		// Fields: cpu user nice system idle iowait irq softirq steal …
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		cpu += n * (1_000_000_000 / userHz)
	}
	return cpu, (mem["MemTotal"] - mem["MemAvailable"]) * 1024, true
}

func disk(path string, now metav1.Time) *statsv1.FsStats {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return nil
	}
	unit := uint64(fs.Bsize)
	capacity, available := fs.Blocks*unit, fs.Bavail*unit
	used := (fs.Blocks - fs.Bfree) * unit
	inodes, free := fs.Files, fs.Ffree
	inodesUsed := inodes - free
	return &statsv1.FsStats{Time: now, CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &used, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}
}
