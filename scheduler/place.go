package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A filter tells why a pod cannot run on a node ("" if it can). Its prepare looks
// at the pod and the whole cluster once, and gives the func that looks at each
// node; refused, if not empty, is why the pod can run nowhere. A nil func lets
// all nodes pass.
type filter struct {
	name    string // as upstream calls its plugin
	prepare func(s *state, pod *corev1.Pod, r *request) (each func(*nodeState) string, refused string)
}

// filters are asked in this order; the first refusal of a node is the one told.
var filters = []filter{
	{"NodeUnschedulable", unschedulable},
	{"NodeName", named},
	{"TaintToleration", tainted},
	{"NodeAffinity", nodeAffinity},
	{"NodePorts", portsFree},
	{"NodeResourcesFit", fits},
	{"VolumeBinding", volumesReach},
	{"PodTopologySpread", spreadAllowed},
	{"InterPodAffinity", affinityAllowed},
}

// A score rates the nodes that passed, from 0 to 100 each; nil: nothing to say.
type score struct {
	name   string
	weight int64
	rate   func(s *state, pod *corev1.Pod, r *request, nodes []*nodeState) []int64
}

// scores are summed by their weights; the highest sum wins.
var scores = []score{
	{"TaintToleration", 3, preferFewTaints},
	{"NodeAffinity", 2, preferredAffinity},
	{"NodeResourcesFit", 1, leastAllocated},
	{"NodeResourcesBalancedAllocation", 1, balanced},
	{"PodTopologySpread", 2, spreadEvenly},
	{"InterPodAffinity", 2, preferredPods},
	{"ImageLocality", 1, imagesThere},
}

// refusal is why a pod has no node.
type refusal struct {
	nodes   int             // how many there are
	whole   string          // why no node was looked at, or ""
	reasons map[string]int  // nodes per reason
	by      map[string]bool // filters that refused: what they look at may change it
	// expected: the pod waits for something that is on its way, and needs no back-off.
	expected bool
}

// String is the message that users see.
func (r *refusal) String() string {
	text := fmt.Sprintf("0/%d nodes are available:", r.nodes)
	if r.whole != "" {
		return text + " " + r.whole + "."
	}
	var parts []string
	for reason, n := range r.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return "no nodes available to schedule pods"
	}
	return text + " " + strings.Join(parts, ", ") + "."
}

// place chooses the node of a pod. Same state, same answer, but for tie, which
// is asked to choose among n equals.
func (s *state) choose(pod *corev1.Pod, tie func(n int) int) (node string, refused *refusal) {
	r := requestOf(pod)
	why := &refusal{nodes: s.known(), reasons: map[string]int{}, by: map[string]bool{}}
	passed, why := s.filter(pod, &r, why)
	if len(passed) == 0 {
		return "", why
	}
	if len(passed) == 1 {
		return passed[0].name, nil
	}
	best := s.best(pod, &r, passed)
	return best[tie(len(best))].name, nil
}

// known counts the nodes that there are.
func (s *state) known() (n int) {
	for _, node := range s.order {
		if node.node != nil {
			n++
		}
	}
	return n
}

func (s *state) filter(pod *corev1.Pod, r *request, why *refusal) (passed []*nodeState, _ *refusal) {
	type prepared struct {
		name string
		each func(*nodeState) string
	}
	var asked []prepared
	for _, f := range filters {
		each, refused := f.prepare(s, pod, r)
		if refused != "" {
			why.whole, why.by[f.name] = refused, true
			return nil, why
		}
		if each != nil {
			asked = append(asked, prepared{f.name, each})
		}
	}
nodes:
	for _, n := range s.order {
		if n.node == nil {
			continue
		}
		for _, f := range asked {
			reason := f.each(n)
			if reason == "" {
				continue
			}
			// One filter may have several reasons (resources), told apart by newlines.
			for _, one := range strings.Split(reason, "\n") {
				why.reasons[one]++
			}
			why.by[f.name] = true
			continue nodes
		}
		passed = append(passed, n)
	}
	return passed, why
}

// best returns the nodes with the highest sum.
func (s *state) best(pod *corev1.Pod, r *request, nodes []*nodeState) (best []*nodeState) {
	sums := make([]int64, len(nodes))
	for _, sc := range scores {
		for i, points := range sc.rate(s, pod, r, nodes) {
			sums[i] += sc.weight * points
		}
	}
	most := slices.Max(sums)
	for i, sum := range sums {
		if sum == most {
			best = append(best, nodes[i])
		}
	}
	return best
}

// normalize stretches points so that the highest is 100; reversed, the lowest
// counts most.
func normalize(points []int64, reverse bool) []int64 {
	most := slices.Max(points)
	if most == 0 {
		if reverse {
			for i := range points {
				points[i] = 100
			}
		}
		return points
	}
	for i := range points {
		points[i] = points[i] * 100 / most
		if reverse {
			points[i] = 100 - points[i]
		}
	}
	return points
}
