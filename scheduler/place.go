package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A filter tells why a pod cannot run on a node ("" if it can). It has one of two
// forms. Local: the answer depends on the pod's shape and that node alone, and is
// kept until the node changes. Wide: prepare looks at the whole cluster for each
// decision, and gives the func that looks at each node; refused, if not empty, is
// why the pod can run nowhere. A nil func lets all nodes pass.
type filter struct {
	name  string // as upstream calls its plugin
	local func(c *class) func(*nodeState) string
	wide  func(s *state, c *class, pod *corev1.Pod) (each func(*nodeState) string, refused string)
	// hopeless: what it refuses, it refuses whatever pods are on the node.
	hopeless bool
}

// filters are asked in this order, the local ones before the wide ones; the first
// refusal of a node is the one told.
var filters = []filter{
	{name: "NodeAffinity", local: byName, hopeless: true},
	{name: "NodeUnschedulable", local: unschedulable, hopeless: true},
	{name: "NodeName", local: named, hopeless: true},
	{name: "TaintToleration", local: tainted, hopeless: true},
	{name: "NodeAffinity", local: nodeAffinity, hopeless: true},
	{name: "NodePorts", local: portsFree},
	{name: "NodeResourcesFit", local: fits},
	{name: "VolumeRestrictions", wide: volumesUnshared},
	{name: "VolumeBinding", wide: volumesReach, hopeless: true},
	{name: "PodTopologySpread", wide: spreadAllowed},
	{name: "InterPodAffinity", wide: affinityAllowed},
}

// A score rates the nodes that passed, from 0 to 100 each. It has one of two forms,
// as filters do. Local points are kept per node, and shaped for all that passed.
type score struct {
	name   string
	weight int64
	local  func(s *state, c *class) func(*nodeState) int64 // nil func: nothing to say
	shape  func(points []int64)                            // nil: they are as they shall be
	wide   func(s *state, c *class, nodes []*nodeState) []int64
}

// scores are summed by their weights; the highest sum wins.
var scores = []score{
	{name: "TaintToleration", weight: 3, local: untolerated, shape: fewest},
	{name: "NodeAffinity", weight: 2, local: preferredAffinity, shape: mostly},
	{name: "NodeResourcesFit", weight: 1, local: leastAllocated},
	{name: "NodeResourcesBalancedAllocation", weight: 1, local: balanced},
	{name: "ImageLocality", weight: 1, local: imagesThere},
	{name: "PodTopologySpread", weight: 2, wide: spreadEvenly},
	{name: "InterPodAffinity", weight: 2, wide: preferredPods},
}

// refusal is why a pod has no node.
type refusal struct {
	nodes   int             // how many there are
	whole   string          // why no node was looked at, or ""
	reasons map[string]int  // nodes per reason
	by      map[string]bool // filters that refused: what they look at may change it
	hopeful []*nodeState    // refused for what pods on them take
	// preemption says why making room did not help, or what it began.
	preemption string
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
	text += " " + strings.Join(parts, ", ") + "."
	if r.preemption != "" {
		text += " preemption: " + r.preemption
	}
	return text
}

// choose chooses the node of a pod. Same state, same answer, but for tie, which
// is asked to choose among n equals.
func (s *state) choose(pod *corev1.Pod, tie func(n int) int) (node string, refused *refusal) {
	c := s.classOf(pod)
	shared := len(claimsOf(pod)) == 0 // what is found out holds for the whole class
	if shared && c.failed != nil && c.failedAt == s.serial {
		return "", c.failed
	}
	passed, why := s.filter(c, pod)
	if len(passed) == 0 {
		if shared {
			c.failed, c.failedAt = why, s.serial
		}
		return "", why
	}
	if mine := s.nominated[keyOf(pod)]; mine != nil {
		if i := slices.IndexFunc(passed, func(n *nodeState) bool { return n.name == mine.node }); i >= 0 {
			return mine.node, nil
		}
	}
	if len(passed) == 1 {
		return passed[0].name, nil
	}
	return s.best(c, passed, tie).name, nil
}

// scratch is memory that one decision leaves to the next.
type scratch struct {
	passed       []*nodeState
	sums, points []int64
	best         []int
}

// zeros returns n zeros in the memory of buf.
func zeros(buf *[]int64, n int) []int64 {
	*buf = slices.Grow((*buf)[:0], n)[:n]
	clear(*buf)
	return *buf
}

// asked is a wide filter that has looked at the cluster.
type asked struct {
	name     string
	hopeless bool
	each     func(*nodeState) string
}

// prepare lets the wide filters look at the cluster; refused, if not nil, is why
// the pod can run nowhere.
func (s *state) prepare(c *class, pod *corev1.Pod) (wide []asked, name, refused string) {
	for _, f := range filters {
		if f.wide == nil {
			continue
		}
		each, refused := f.wide(s, c, pod)
		if refused != "" {
			return nil, f.name, refused
		}
		if each != nil {
			wide = append(wide, asked{f.name, f.hopeless, each})
		}
	}
	return wide, "", ""
}

// filter returns the nodes that pass, until the next decision, and why the others do not.
func (s *state) filter(c *class, pod *corev1.Pod) (passed []*nodeState, why *refusal) {
	passed = s.scratch.passed[:0]
	defer func() { s.scratch.passed = passed }()
	why = &refusal{nodes: s.real, reasons: map[string]int{}, by: map[string]bool{}}
	wide, name, refused := s.prepare(c, pod)
	if refused != "" {
		why.whole, why.by[name] = refused, true
		return nil, why
	}
	tally := make([]int, len(c.reasons), len(c.reasons)+4)
	for _, n := range s.order {
		if n.node == nil {
			continue
		}
		v := c.verdict[n.slot]
		if v == 0 {
			v = s.askWide(c, n, wide)
		}
		if v == 0 {
			v = s.askNominated(c, pod, n)
		}
		if v == 0 {
			passed = append(passed, n)
			continue
		}
		for len(tally) <= int(v) {
			tally = append(tally, 0)
		}
		tally[v]++
		if !c.reasons[v].hopeless {
			why.hopeful = append(why.hopeful, n)
		}
	}
	for v, n := range tally {
		if n == 0 {
			continue
		}
		why.by[c.reasons[v].filter] = true
		// One filter may have several reasons (resources), a line each.
		for one := range strings.SplitSeq(c.reasons[v].text, "\n") {
			why.reasons[one] += n
		}
	}
	return passed, why
}

// askWide asks the prepared filters about a node.
func (s *state) askWide(c *class, n *nodeState, wide []asked) int32 {
	for _, f := range wide {
		if text := f.each(n); text != "" {
			return c.reason(f.name, text, f.hopeless || hopelessTexts[text])
		}
	}
	return 0
}

// best returns a node with the highest sum; tie chooses among n equals.
func (s *state) best(c *class, nodes []*nodeState, tie func(n int) int) *nodeState {
	sums := s.sums(c, nodes)
	most := slices.Max(sums)
	best := s.scratch.best[:0]
	for i, sum := range sums {
		if sum == most {
			best = append(best, i)
		}
	}
	s.scratch.best = best
	return nodes[best[tie(len(best))]]
}

// sums rates nodes that passed; until the next decision.
func (s *state) sums(c *class, nodes []*nodeState) []int64 {
	sums := zeros(&s.scratch.sums, len(nodes))
	points := zeros(&s.scratch.points, len(nodes))
	for i, sc := range scores {
		rated := points
		switch {
		case sc.wide != nil:
			if rated = sc.wide(s, c, nodes); rated == nil {
				continue
			}
		case c.rated[i] == nil:
			continue
		default:
			kept := c.points[i]
			for j, n := range nodes {
				rated[j] = kept[n.slot]
			}
			if sc.shape != nil {
				sc.shape(rated)
			}
		}
		for j, p := range rated {
			sums[j] += sc.weight * p
		}
	}
	return sums
}

// mostly stretches points so that the highest is 100.
func mostly(points []int64) {
	most := slices.Max(points)
	if most == 0 {
		return
	}
	for i := range points {
		points[i] = points[i] * 100 / most
	}
}

// fewest stretches points so that the highest is 0, and nothing is 100.
func fewest(points []int64) {
	mostly(points)
	for i := range points {
		points[i] = 100 - points[i]
	}
}
