package scheduler

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// untolerated counts the taints that ask to stay away and that the pod does not
// tolerate: the fewer the better.
func untolerated(_ *state, c *class) func(*nodeState) int64 {
	return func(n *nodeState) (count int64) {
		for i := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[i]
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), c.pod.Spec.Tolerations, t, true) {
				count++
			}
		}
		return count
	}
}

// preferredAffinity sums the weights of the preferred node affinity.
func preferredAffinity(_ *state, c *class) func(*nodeState) int64 {
	if c.pod.Spec.Affinity == nil || c.pod.Spec.Affinity.NodeAffinity == nil {
		return nil
	}
	preferred := c.pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(preferred)
	if err != nil || len(preferred) == 0 {
		return nil // validation does not let wrong ones in
	}
	return func(n *nodeState) int64 { return terms.Score(n.node) }
}

// leastAllocated prefers nodes of which more is free.
func leastAllocated(_ *state, c *class) func(*nodeState) int64 {
	return func(n *nodeState) int64 {
		var sum, resources int64
		rate := func(total, taken int64) {
			if total == 0 {
				return
			}
			resources++
			if taken <= total {
				sum += (total - taken) * 100 / total
			}
		}
		rate(n.total.cpu, n.usual.cpu+c.r.usual.cpu)
		rate(n.total.memory, n.usual.memory+c.r.usual.memory)
		if resources == 0 {
			return 0
		}
		return sum / resources
	}
}

// balanced prefers nodes on which the pod brings what is taken of CPU and of
// memory nearer to each other. Pods that ask for neither have nothing to balance.
func balanced(_ *state, c *class) func(*nodeState) int64 {
	if c.r.cpu == 0 && c.r.memory == 0 {
		return nil
	}
	return func(n *nodeState) int64 {
		cpu, memory := n.total.cpu-n.free.cpu, n.total.memory-n.free.memory
		before := balance(n, cpu, memory)
		after := balance(n, cpu+c.r.cpu, memory+c.r.memory)
		return 50 + (50+after-before)/2
	}
}

// balance is 100 when as much of the node's CPU is taken as of its memory, and 50
// when all of one and nothing of the other is.
func balance(n *nodeState, cpu, memory int64) int64 {
	if n.total.cpu == 0 || n.total.memory == 0 {
		return 100
	}
	share := func(taken, total int64) float64 { return min(1, float64(taken)/float64(total)) }
	apart := math.Abs((share(cpu, n.total.cpu) - share(memory, n.total.memory)) / 2)
	return int64((1 - apart) * 100)
}

// The sizes between which images that are there count: the upper one is per container.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// imagesThere prefers nodes that have the pod's images, the larger the more, and
// an image that few nodes have less, so that not all pods go to one node.
func imagesThere(s *state, c *class) func(*nodeState) int64 {
	var names []string
	for i := range c.pod.Spec.InitContainers {
		names = append(names, fullName(c.pod.Spec.InitContainers[i].Image))
	}
	for i := range c.pod.Spec.Containers {
		names = append(names, fullName(c.pod.Spec.Containers[i].Image))
	}
	for i := range c.pod.Spec.Volumes {
		if image := c.pod.Spec.Volumes[i].Image; image != nil {
			names = append(names, fullName(image.Reference))
		}
	}
	most := int64(largeImage) * int64(len(names))
	return func(n *nodeState) int64 {
		var bytes int64
		for _, name := range names {
			if size, ok := n.images[name]; ok {
				bytes += int64(float64(size) * float64(s.images[name]) / float64(s.real))
			}
		}
		bytes = min(max(bytes, smallImage), most)
		return 100 * (bytes - smallImage) / (most - smallImage)
	}
}

// fullName adds the tag that is meant where none is given.
func fullName(image string) string {
	if strings.LastIndexByte(image, ':') <= strings.LastIndexByte(image, '/') {
		return image + ":latest"
	}
	return image
}
