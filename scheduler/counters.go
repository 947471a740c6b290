package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"skiff/client"
)

// axis is a topology label: which of its values each node has, as small numbers
// that index arrays.
type axis struct {
	key   string
	ids   map[string]int32 // by value; only grows
	slots []int32          // id by node slot; -1: the node lacks the label, or is gone
}

// axis returns that of a label, making one that is not there.
func (s *state) axis(key string) *axis {
	a := s.axes[key]
	if a == nil {
		a = &axis{key: key, ids: map[string]int32{}}
		for _, n := range s.order {
			a.put(n)
		}
		s.axes[key] = a
	}
	return a
}

// put takes in a node's labels.
func (a *axis) put(n *nodeState) {
	for len(a.slots) <= n.slot {
		a.slots = append(a.slots, -1)
	}
	a.slots[n.slot] = -1
	if n.node == nil {
		return
	}
	value, ok := n.node.Labels[a.key]
	if !ok {
		return
	}
	id, ok := a.ids[value]
	if !ok {
		id = int32(len(a.ids))
		a.ids[value] = id
	}
	a.slots[n.slot] = id
}

// of is the id of the node's value, or -1.
func (a *axis) of(n *nodeState) int32 {
	if n.slot >= len(a.slots) {
		return -1 // known by its pods alone
	}
	return a.slots[n.slot]
}

// pick picks pods by namespace and labels.
type pick struct {
	namespaces []string        // sorted
	nsSelector labels.Selector // of further namespaces, by their labels; nil: none
	selector   labels.Selector
	live       bool // pods that are ending do not count
}

// String tells two picks apart.
func (p *pick) String() string {
	var b strings.Builder
	for _, ns := range p.namespaces {
		b.WriteString(ns)
		b.WriteByte(',')
	}
	b.WriteByte('|')
	if p.nsSelector != nil {
		b.WriteString(p.nsSelector.String() + "?")
	}
	b.WriteByte('|')
	// The empty selector picks all and the nothing selector none: both print as "".
	if p.selector.Empty() {
		b.WriteByte('*')
	}
	b.WriteString(p.selector.String())
	if p.live {
		b.WriteString("|live")
	}
	return b.String()
}

// picks tells whether the pod is one of those.
func (p *pick) picks(s *state, pod *corev1.Pod) bool {
	if p.live && pod.DeletionTimestamp != nil || !p.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if slices.Contains(p.namespaces, pod.Namespace) {
		return true
	}
	if p.nsSelector == nil {
		return false
	}
	ns, ok := client.Find[*corev1.Namespace](s.others, "", pod.Namespace)
	return ok && p.nsSelector.Matches(labels.Set(ns.Labels))
}

// term is a pod affinity term, ready for use.
type term struct {
	pick
	key string // topology label
}

// termOf makes a term of the pod that has it; false: no pod can satisfy it.
func termOf(pod *corev1.Pod, t *corev1.PodAffinityTerm) (term, bool) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return term{}, false // validation does not let it in
	}
	selector = withLabels(selector, pod, t.MatchLabelKeys, selection.In)
	selector = withLabels(selector, pod, t.MismatchLabelKeys, selection.NotIn)
	out := term{key: t.TopologyKey, pick: pick{selector: selector, namespaces: slices.Sorted(slices.Values(t.Namespaces))}}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return term{}, false
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces = []string{pod.Namespace}
	}
	return out, true
}

// withLabels adds requirements on the labels that the pod itself has.
func withLabels(selector labels.Selector, pod *corev1.Pod, keys []string, operator selection.Operator) labels.Selector {
	for _, key := range keys {
		value, ok := pod.Labels[key]
		if !ok {
			continue
		}
		if r, err := labels.NewRequirement(key, operator, []string{value}); err == nil {
			selector = selector.Add(*r)
		}
	}
	return selector
}

// counter counts, on each node, the placed pods that all of its picks pick. It is
// kept up to date with each pod that is placed or removed, so that no decision
// walks over pods.
type counter struct {
	picks []pick
	on    []int32 // by node slot
	all   int
	used  uint64 // number of the decision that used it last
}

// counters are those that decisions have asked for.
type counters struct {
	byKey map[string]*counter
	// byNamespace are those that can pick pods of a namespace only; wide are the others.
	byNamespace map[string][]*counter
	wide        []*counter
	// epoch grows when counters are dropped: who holds some must ask anew.
	epoch uint64
	now   uint64 // number of decisions
}

// mostCounters are kept; beyond that, those that were not used lately are dropped.
const mostCounters = 2048

func newCounters() counters {
	return counters{byKey: map[string]*counter{}, byNamespace: map[string][]*counter{}}
}

// counter returns the one of the picks, counting what is placed if it is new.
func (s *state) counter(picks ...pick) *counter {
	var key strings.Builder
	for i := range picks {
		key.WriteString(picks[i].String())
		key.WriteByte('&')
	}
	cs := &s.counters
	c := cs.byKey[key.String()]
	if c == nil {
		if len(cs.byKey) >= mostCounters {
			cs.dropUnused()
		}
		c = &counter{picks: picks}
		cs.byKey[key.String()] = c
		cs.index(c)
		s.countAll(c)
	}
	c.used = cs.now
	return c
}

// index files a counter by the namespaces of its first pick.
func (cs *counters) index(c *counter) {
	if c.picks[0].nsSelector != nil {
		cs.wide = append(cs.wide, c)
		return
	}
	for _, ns := range c.picks[0].namespaces {
		cs.byNamespace[ns] = append(cs.byNamespace[ns], c)
	}
}

// countAll counts what is placed.
func (s *state) countAll(c *counter) {
	each := func(pods map[key]*placedPod) {
		for _, p := range pods {
			if c.picksPod(s, p.pod) {
				c.add(s.nodes[p.node].slot, 1)
			}
		}
	}
	if c.picks[0].nsSelector != nil {
		each(s.placed)
		return
	}
	for _, ns := range c.picks[0].namespaces {
		each(s.byNamespace[ns])
	}
}

func (c *counter) picksPod(s *state, pod *corev1.Pod) bool {
	for i := range c.picks {
		if !c.picks[i].picks(s, pod) {
			return false
		}
	}
	return true
}

func (c *counter) add(slot int, n int32) {
	for len(c.on) <= slot {
		c.on = append(c.on, 0)
	}
	c.on[slot] += n
	c.all += int(n)
}

// at is how many are on the node.
func (c *counter) at(n *nodeState) int32 {
	if n.slot >= len(c.on) {
		return 0
	}
	return c.on[n.slot]
}

// count takes in a pod that was placed (1) or removed (-1).
func (cs *counters) count(s *state, pod *corev1.Pod, slot int, n int32) {
	for _, list := range [][]*counter{cs.byNamespace[pod.Namespace], cs.wide} {
		for _, c := range list {
			if c.picksPod(s, pod) {
				c.add(slot, n)
			}
		}
	}
}

// dropUnused keeps the newer half.
func (cs *counters) dropUnused() {
	var used []uint64
	for _, c := range cs.byKey {
		used = append(used, c.used)
	}
	slices.Sort(used)
	cs.keep(func(c *counter) bool { return c.used > used[len(used)/2] })
}

// keep drops the counters that are not to stay.
func (cs *counters) keep(stays func(*counter) bool) {
	old := cs.byKey
	now, epoch := cs.now, cs.epoch
	*cs = newCounters()
	cs.now, cs.epoch = now, epoch+1
	for key, c := range old {
		if stays(c) {
			cs.byKey[key] = c
			cs.index(c)
		}
	}
}

// namespaceChanged forgets what was counted by labels of namespaces.
func (s *state) namespaceChanged() {
	s.counters.keep(func(c *counter) bool {
		return !slices.ContainsFunc(c.picks, func(p pick) bool { return p.nsSelector != nil })
	})
	s.holders.epoch++
	s.serial++
}

// perDomain sums a counter over the values of an axis; nodes that counts refuses
// are left out. Values that no counted node has are -1.
func (s *state) perDomain(a *axis, c *counter, counts func(*nodeState) bool) []int32 {
	sums := make([]int32, len(a.ids))
	for i := range sums {
		sums[i] = -1
	}
	for _, n := range s.order {
		id := a.of(n)
		if id < 0 || counts != nil && !counts(n) {
			continue
		}
		if sums[id] < 0 {
			sums[id] = 0
		}
		sums[id] += c.at(n)
	}
	return sums
}
