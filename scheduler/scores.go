package scheduler

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// preferFewTaints prefers nodes with fewer taints that ask to stay away.
func preferFewTaints(_ *state, pod *corev1.Pod, _ *request, nodes []*nodeState) []int64 {
	points := make([]int64, len(nodes))
	for i, n := range nodes {
		for j := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[j]
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, t, true) {
				points[i]++
			}
		}
	}
	return normalize(points, true)
}

// preferredAffinity sums the weights of the preferred node affinity.
func preferredAffinity(_ *state, pod *corev1.Pod, _ *request, nodes []*nodeState) []int64 {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // validation does not let it in
	}
	points := make([]int64, len(nodes))
	for i, n := range nodes {
		points[i] = terms.Score(n.node)
	}
	return normalize(points, false)
}

// leastAllocated prefers nodes of which more is free.
func leastAllocated(_ *state, _ *corev1.Pod, r *request, nodes []*nodeState) []int64 {
	points := make([]int64, len(nodes))
	for i, n := range nodes {
		points[i] = (freeShare(n.total.cpu, n.usual.cpu+r.usual.cpu) + freeShare(n.total.memory, n.usual.memory+r.usual.memory)) / 2
	}
	return points
}

func freeShare(total, taken int64) int64 {
	if total == 0 || taken > total {
		return 0
	}
	return (total - taken) * 100 / total
}

// balanced prefers nodes on which CPU and memory are taken alike.
func balanced(_ *state, _ *corev1.Pod, r *request, nodes []*nodeState) []int64 {
	points := make([]int64, len(nodes))
	for i, n := range nodes {
		cpu := takenShare(n.total.cpu, n.total.cpu-n.free.cpu+r.cpu)
		memory := takenShare(n.total.memory, n.total.memory-n.free.memory+r.memory)
		points[i] = int64((1 - math.Abs(cpu-memory)/2) * 100)
	}
	return points
}

func takenShare(total, taken int64) float64 {
	if total == 0 {
		return 1
	}
	return min(1, float64(taken)/float64(total))
}

// The sizes between which images that are there count.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// imagesThere prefers nodes that have the pod's images, the larger the more, and
// an image that few nodes have less, so that not all pods go to one node.
func imagesThere(s *state, pod *corev1.Pod, _ *request, nodes []*nodeState) []int64 {
	var names []string
	for i := range pod.Spec.Containers {
		names = append(names, fullName(pod.Spec.Containers[i].Image))
	}
	share := make([]float64, len(names))
	for _, n := range s.order {
		for i, name := range names {
			if _, ok := n.images[name]; ok {
				share[i] += 1 / float64(len(s.order))
			}
		}
	}
	points := make([]int64, len(nodes))
	any := false
	for i, n := range nodes {
		var bytes int64
		for j, name := range names {
			bytes += int64(float64(n.images[name]) * share[j])
		}
		most := int64(largeImage) * int64(len(names))
		bytes = min(max(bytes, smallImage), most)
		points[i] = 100 * (bytes - smallImage) / (most - smallImage)
		any = any || points[i] > 0
	}
	if !any {
		return nil
	}
	return points
}

// fullName adds the tag that is meant where none is given.
func fullName(image string) string {
	if strings.LastIndexByte(image, ':') <= strings.LastIndexByte(image, '/') {
		return image + ":latest"
	}
	return image
}
