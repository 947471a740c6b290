package daemonset

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// fit tells whether a pod should start on a node, and whether one that is there
// should stay.
type fit struct{ start, stay bool }

// judgeNodes finds out where pods should be.
func (d *decision) judgeNodes() {
	d.fits = map[string]fit{}
	spec := &d.ds.Spec.Template.Spec
	tolerations := withDaemonTolerations(spec)
	required := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)
	untolerated := func(node *corev1.Node, effects ...corev1.TaintEffect) bool {
		_, is := v1helper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, false)
		return is
	}
	for _, node := range d.nodes {
		matches, err := required.Match(node) // no match where it cannot be read
		if spec.NodeName != "" && spec.NodeName != node.Name || err != nil || !matches {
			continue
		}
		d.fits[node.Name] = fit{
			start: !untolerated(node, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute),
			stay:  !untolerated(node, corev1.TaintEffectNoExecute),
		}
	}
}

// withDaemonTolerations returns what the DaemonSet's pods tolerate: what the
// template says, and the taints that come from the state of a node.
func withDaemonTolerations(spec *corev1.PodSpec) []corev1.Toleration {
	out := slices.Clone(spec.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		same := func(have corev1.Toleration) bool { return have.MatchToleration(&t) }
		if i := slices.IndexFunc(out, same); i >= 0 {
			out[i] = t // without a time limit
			return
		}
		out = append(out, t)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	for _, key := range []string{corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable} {
		add(key, corev1.TaintEffectNoSchedule)
	}
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return out
}

const generationLabel = "pod-template-generation"

// create makes the pod of a node.
func (d *decision) create(node string) {
	pod := workload.PodFrom(d.ds, &d.ds.Spec.Template, d.ds.Name+"-")
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = d.hash
	if n, ok := d.templateGeneration(); ok {
		pod.Labels[generationLabel] = n
	}
	pod.Spec.Tolerations = withDaemonTolerations(&pod.Spec)
	tie(pod, node)
	d.plan.Writes = append(d.plan.Writes, workload.Creating(d.ds, pod))
}

// templateGeneration is the older way to tell which template a pod has.
func (d *decision) templateGeneration() (string, bool) {
	n, err := strconv.ParseInt(d.ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return strconv.FormatInt(n, 10), err == nil
}

// updated tells whether the pod has the present template.
func (d *decision) updated(pod *corev1.Pod) bool {
	n, ok := d.templateGeneration()
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash || ok && pod.Labels[generationLabel] == n
}

// tie lets the pod go to that node only. It takes the place of the template's
// required terms, which the node has met.
func tie(pod *corev1.Pod, node string) {
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}
}

// nodeOf returns the node that the pod is on or tied to, or "".
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

func (d *decision) delete(pod *corev1.Pod) {
	d.plan.Writes = append(d.plan.Writes, workload.DeletePod(d.ds, pod))
}

// bound keeps the plan within what one plan may create and delete.
func (d *decision) bound() {
	var created, deleted int
	d.plan.Writes = slices.DeleteFunc(d.plan.Writes, func(w loop.Write) bool {
		if w.Verb() == "create" {
			created++
			return created > workload.Burst
		}
		deleted++
		return deleted > workload.Burst
	})
}
