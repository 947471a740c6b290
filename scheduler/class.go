package scheduler

import (
	"encoding/binary"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// class is what pods of one shape share: what was found out about each node for
// one of them holds for the next, until the node changes. Placing a Deployment's
// pods one after another so looks again only at the nodes that were just used.
type class struct {
	pod *corev1.Pod // one of them; for rules that look at the shape alone
	r   request

	local []func(*nodeState) string // of filters with a local form; nil: lets all pass
	rated []func(*nodeState) int64  // of scores with a local form; nil: nothing to say

	asOf     []uint64  // by node slot: the node's serial when it was looked at
	verdict  []int32   // by node slot: into reasons; 0: the node passed
	points   [][]int64 // by score, by node slot
	reasons  []verdict // what nodes were refused for; [0] is empty
	byReason map[verdict]int32
	imagesAt uint64 // serial of the images that points are from

	hard, soft []constraint // topology spread
	pods       podRules     // affinity between pods
	epochs     [3]uint64    // of counters, holders and others that the rules above are from

	failedAt uint64   // serial at which the class was refused last
	failed   *refusal // and why
	used     uint64   // number of the decision that used it last
}

// verdict is why nodes were refused.
type verdict struct {
	filter string
	text   string // may be several reasons, a line each
	// hopeless: no pod's leaving would change it.
	hopeless bool
}

// classes are those that were used lately.
type classes struct{ byKey map[string]*class }

// mostClasses are kept.
const mostClasses = 64

func newClasses() classes { return classes{byKey: map[string]*class{}} }

// classOf returns the class of a pod, up to date with the cluster.
func (s *state) classOf(pod *corev1.Pod) *class {
	s.counters.now++
	r := requestOf(pod)
	key := string(shapeOf(pod, &r))
	c := s.classes.byKey[key]
	if c == nil {
		s.classes.makeRoom()
		c = s.newClass(pod, r)
		s.classes.byKey[key] = c
	}
	c.used = s.counters.now
	c.refresh(s)
	return c
}

// makeRoom drops the class that was not used for longest.
func (cs *classes) makeRoom() {
	if len(cs.byKey) < mostClasses {
		return
	}
	oldest := ""
	for key, c := range cs.byKey {
		if oldest == "" || c.used < cs.byKey[oldest].used {
			oldest = key
		}
	}
	delete(cs.byKey, oldest)
}

func (s *state) newClass(pod *corev1.Pod, r request) *class {
	c := &class{pod: pod, r: r, reasons: []verdict{{}}, byReason: map[verdict]int32{}, epochs: [3]uint64{1 << 63}}
	for _, f := range filters {
		var local func(*nodeState) string
		if f.local != nil {
			local = f.local(c)
		}
		c.local = append(c.local, local)
	}
	for _, sc := range scores {
		var rate func(*nodeState) int64
		if sc.local != nil {
			rate = sc.local(s, c)
		}
		c.rated = append(c.rated, rate)
	}
	c.points = make([][]int64, len(scores))
	return c
}

// renew makes the rules about the whole cluster anew when what they count by has changed.
func (c *class) renew(s *state) {
	for {
		epochs := [3]uint64{s.counters.epoch, s.holders.epoch, s.othersEpoch}
		if c.epochs == epochs {
			return
		}
		c.epochs = epochs
		c.hard = constraintsOf(s, c.pod, corev1.DoNotSchedule)
		c.soft = constraintsOf(s, c.pod, corev1.ScheduleAnyway)
		c.pods = podRulesOf(s, c.pod)
		// Making them may have dropped counters, though none that was just used.
	}
}

// refresh looks again at the nodes that changed since the class was used last.
func (c *class) refresh(s *state) {
	c.renew(s)
	c.pods.use(s.counters.now)
	for _, list := range [][]constraint{c.hard, c.soft} {
		for i := range list {
			list[i].count.used = s.counters.now
		}
	}
	if more := s.slots() - len(c.asOf); more > 0 {
		c.asOf = append(c.asOf, make([]uint64, more)...)
		c.verdict = append(c.verdict, make([]int32, more)...)
		for i, rate := range c.rated {
			if rate != nil {
				c.points[i] = append(c.points[i], make([]int64, more)...)
			}
		}
	}
	// What an image is worth on a node depends on how many nodes have it.
	all := c.imagesAt != s.imagesAt
	c.imagesAt = s.imagesAt
	for _, n := range s.order {
		if n.node != nil && (all || c.asOf[n.slot] != n.seen) {
			c.look(n)
		}
	}
}

// look finds out about one node.
func (c *class) look(n *nodeState) {
	c.asOf[n.slot] = n.seen
	c.verdict[n.slot] = 0
	for i, f := range c.local {
		if f == nil {
			continue
		}
		if text := f(n); text != "" {
			hopeless := filters[i].hopeless || filters[i].name == "NodeResourcesFit" && tooSmall(n, &c.r)
			c.verdict[n.slot] = c.reason(filters[i].name, text, hopeless)
			return
		}
	}
	for i, rate := range c.rated {
		if rate != nil {
			c.points[i][n.slot] = rate(n)
		}
	}
}

// reason returns the number of a verdict.
func (c *class) reason(filter, text string, hopeless bool) int32 {
	v := verdict{filter: filter, text: text, hopeless: hopeless}
	i, ok := c.byReason[v]
	if !ok {
		i = int32(len(c.reasons))
		c.reasons = append(c.reasons, v)
		c.byReason[v] = i
	}
	return i
}

// shapeOf is equal for pods that no rule tells apart. Their claims are not part of
// it: rules about volumes look at the pod itself.
func shapeOf(pod *corev1.Pod, r *request) []byte {
	b := make([]byte, 0, 512)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	texts := func(m map[string]string) {
		number(int64(len(m)))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			text(k)
			text(m[k])
		}
	}
	coded := func(o interface{ Marshal() ([]byte, error) }) {
		data, err := o.Marshal()
		if err != nil {
			data = []byte(pod.UID) // not to be shared then
		}
		text(string(data))
	}

	text(pod.Namespace)
	text(pod.Spec.NodeName)
	number(int64(corev1helpers.PodPriority(pod)))
	texts(pod.Labels)
	texts(pod.Spec.NodeSelector)
	if pod.Spec.Affinity != nil {
		coded(pod.Spec.Affinity)
	}
	number(int64(len(pod.Spec.Tolerations)))
	for i := range pod.Spec.Tolerations {
		coded(&pod.Spec.Tolerations[i])
	}
	number(int64(len(pod.Spec.TopologySpreadConstraints)))
	for i := range pod.Spec.TopologySpreadConstraints {
		coded(&pod.Spec.TopologySpreadConstraints[i])
	}
	for i := range pod.Spec.Containers {
		text(pod.Spec.Containers[i].Image)
	}
	number(int64(len(pod.Spec.InitContainers)))
	for i := range pod.Spec.InitContainers {
		text(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			text(image.Reference)
		}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		text(owner.Kind)
		text(owner.Name)
	}
	for _, a := range []amounts{r.amounts, r.usual} {
		number(a.cpu)
		number(a.memory)
		number(a.storage)
		for _, name := range slices.Sorted(maps.Keys(a.others)) {
			text(string(name))
			number(a.others[name])
		}
	}
	for _, p := range r.ports {
		text(p.ip)
		text(string(p.protocol))
		number(int64(p.port))
	}
	return b
}
