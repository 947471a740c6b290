package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

func quantity(n int64, thousandths bool) *resource.Quantity {
	if thousandths {
		return resource.NewMilliQuantity(n, resource.DecimalSI)
	}
	return resource.NewQuantity(n, resource.BinarySI)
}

// unschedulable keeps pods from cordoned nodes, unless they tolerate that.
func unschedulable(c *class) func(*nodeState) string {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(klog.Background(), c.pod.Spec.Tolerations, &taint, true) {
		return nil
	}
	return func(n *nodeState) string {
		if n.node.Spec.Unschedulable {
			return "node(s) were unschedulable"
		}
		return ""
	}
}

// named: a pod may ask for its node by name.
func named(c *class) func(*nodeState) string {
	name := c.pod.Spec.NodeName
	if name == "" {
		return nil
	}
	return func(n *nodeState) string {
		if n.name != name {
			return "node(s) didn't match the requested node name"
		}
		return ""
	}
}

// tainted keeps pods from nodes whose taints they do not tolerate.
func tainted(c *class) func(*nodeState) string {
	return func(n *nodeState) string {
		for i := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[i]
			if t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
				continue
			}
			if !corev1helpers.TolerationsTolerateTaint(klog.Background(), c.pod.Spec.Tolerations, t, true) {
				return "node(s) had untolerated taint(s)"
			}
		}
		return ""
	}
}

// byName: where every term of the node affinity names nodes, the others are not
// looked at further.
func byName(c *class) func(*nodeState) string {
	a := c.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	names := map[string]bool{}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		some, ok := namesOf(term)
		if !ok {
			return nil
		}
		for name := range some {
			names[name] = true
		}
	}
	if len(names) == 0 {
		return nil
	}
	return func(n *nodeState) string {
		if names[n.name] {
			return ""
		}
		return "node(s) didn't satisfy plugin(s) [NodeAffinity]"
	}
}

// namesOf are the nodes that a term names; ok is false where it names none.
func namesOf(term corev1.NodeSelectorTerm) (names map[string]bool, ok bool) {
	for _, r := range term.MatchFields {
		if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
			continue
		}
		both := map[string]bool{}
		for _, name := range r.Values {
			if !ok || names[name] {
				both[name] = true
			}
		}
		names, ok = both, true
	}
	return names, ok
}

// nodeAffinity: the node selector and the required node affinity.
func nodeAffinity(c *class) func(*nodeState) string {
	pod := c.pod
	if len(pod.Spec.NodeSelector) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil) {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(n *nodeState) string {
		if ok, err := required.Match(n.node); !ok || err != nil {
			return "node(s) didn't match Pod's node affinity/selector"
		}
		return ""
	}
}

// portsFree: two pods cannot have one port of a node.
func portsFree(c *class) func(*nodeState) string {
	if len(c.r.ports) == 0 {
		return nil
	}
	return func(n *nodeState) string {
		for taken := range n.ports {
			if slices.ContainsFunc(c.r.ports, taken.clashes) {
				return "node(s) didn't have free ports for the requested pod ports"
			}
		}
		return ""
	}
}

func (p hostPort) clashes(q hostPort) bool {
	const all = "0.0.0.0"
	return p.port == q.port && p.protocol == q.protocol && (p.ip == q.ip || p.ip == all || q.ip == all)
}

// fits: what a pod asks for must be free; all that lacks is told.
func fits(c *class) func(*nodeState) string {
	r := &c.r
	return func(n *nodeState) string {
		var lacks []string
		if len(n.here)+1 > n.most {
			lacks = append(lacks, "Too many pods")
		}
		lack := func(name corev1.ResourceName, want, free int64) {
			if want > 0 && want > free {
				lacks = append(lacks, fmt.Sprintf("Insufficient %s", name))
			}
		}
		lack(corev1.ResourceCPU, r.cpu, n.free.cpu)
		lack(corev1.ResourceMemory, r.memory, n.free.memory)
		lack(corev1.ResourceEphemeralStorage, r.storage, n.free.storage)
		for name, want := range r.others {
			lack(name, want, n.free.others[name])
		}
		slices.Sort(lacks)
		return strings.Join(lacks, "\n")
	}
}

// tooSmall tells whether the pod asks for more than the node has when it is empty.
func tooSmall(n *nodeState, r *request) bool {
	if r.cpu > n.total.cpu || r.memory > n.total.memory || r.storage > n.total.storage {
		return true
	}
	for name, want := range r.others {
		if want > n.total.others[name] {
			return true
		}
	}
	return false
}
