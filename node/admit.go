package node

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff/node/pod"
)

// admit tells why a pod cannot run on the node beside the others; an empty reason:
// it can. The scheduler has decided the same before, but the node may have changed
// since, or the pod may have been put here by hand.
func admit(node *corev1.Node, allocatable corev1.ResourceList, p *corev1.Pod, others []*corev1.Pod) (reason, message string) {
	if p.Spec.OS != nil && string(p.Spec.OS.Name) != runtime.GOOS {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if name := forbiddenSysctl(p); name != "" {
		return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)
	}
	if reason := strictGroups(node, p); reason != "" {
		return reason, "SupplementalGroupsPolicy=Strict is not supported in this node"
	}
	if reason, message := fits(allocatable, p, others); reason != "" {
		return reason, message
	}
	if node != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node); err != nil || !ok {
			return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
		}
		_, untolerated := v1helper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.Spec.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoExecute
		}, false)
		if untolerated {
			return "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
		}
	}
	if portsCollide(p, others) {
		return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
	}
	return "", ""
}

// safeSysctls are those that belong to the pod's own namespaces and touch no other pod.
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
	"net.ipv4.tcp_slow_start_after_idle",
	"net.ipv4.tcp_notsent_lowat",
}

// forbiddenSysctl is the first sysctl of the pod that it may not set; empty: none.
func forbiddenSysctl(p *corev1.Pod) string {
	if p.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		ownNet := strings.HasPrefix(name, "net.") && !p.Spec.HostNetwork
		ownIPC := strings.HasPrefix(name, "kernel.") && !p.Spec.HostIPC
		if !slices.Contains(safeSysctls, name) || !(ownNet || ownIPC) {
			return s.Name
		}
	}
	return ""
}

// strictGroups refuses a pod that asks for what an older runtime would silently ignore.
func strictGroups(node *corev1.Node, p *corev1.Pod) string {
	s := p.Spec.SecurityContext
	if s == nil || s.SupplementalGroupsPolicy == nil || *s.SupplementalGroupsPolicy != corev1.SupplementalGroupsPolicyStrict || node == nil {
		return ""
	}
	if f := node.Status.Features; f != nil && f.SupplementalGroupsPolicy != nil && *f.SupplementalGroupsPolicy {
		return ""
	}
	return "SupplementalGroupsPolicyNotSupported"
}

// fits holds the pod's requests against what the others leave.
func fits(allocatable corev1.ResourceList, p *corev1.Pod, others []*corev1.Pod) (reason, message string) {
	if len(allocatable) == 0 {
		return "", ""
	}
	out := func(name corev1.ResourceName, requested, used, capacity int64) (string, string) {
		return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)
	}
	if most, ok := allocatable[corev1.ResourcePods]; ok && int64(len(others))+1 > most.Value() {
		return out(corev1.ResourcePods, 1, int64(len(others)), most.Value())
	}
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range pod.Total(o).Requests {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	requests := pod.Total(p).Requests
	for _, name := range ordered(requests) {
		q := requests[name]
		have, known := allocatable[name]
		// A resource that the node does not know is the cluster's affair.
		if q.IsZero() || (!known && strings.Contains(string(name), "/")) {
			continue
		}
		sum := used[name]
		total := sum.DeepCopy()
		total.Add(q)
		if total.Cmp(have) <= 0 {
			continue
		}
		if name == corev1.ResourceCPU {
			return out(name, q.MilliValue(), sum.MilliValue(), have.MilliValue())
		}
		return out(name, q.Value(), sum.Value(), have.Value())
	}
	return "", ""
}

// ordered lists CPU, memory and storage before all else, so that the same pod is
// always refused for the same reason.
func ordered(list corev1.ResourceList) []corev1.ResourceName {
	usual := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	out := usual
	for _, name := range sortedNames(list) {
		if name != usual[0] && name != usual[1] && name != usual[2] {
			out = append(out, name)
		}
	}
	return out
}

type hostPort struct {
	ip       string
	port     int32
	protocol corev1.Protocol
}

func hostPorts(p *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(cs []corev1.Container, sidecarsOnly bool) {
		for _, c := range cs {
			if sidecarsOnly && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue
			}
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					out = append(out, hostPort{port.HostIP, port.HostPort, port.Protocol})
				}
			}
		}
	}
	add(p.Spec.Containers, false)
	add(p.Spec.InitContainers, true)
	return out
}

func portsCollide(p *corev1.Pod, others []*corev1.Pod) bool {
	mine := hostPorts(p)
	if len(mine) == 0 {
		return false
	}
	any := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	for _, o := range others {
		for _, theirs := range hostPorts(o) {
			for _, m := range mine {
				if m.port == theirs.port && m.protocol == theirs.protocol && (m.ip == theirs.ip || any(m.ip) || any(theirs.ip)) {
					return true
				}
			}
		}
	}
	return false
}
