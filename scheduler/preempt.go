package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"skiff/client"
)

// A pod that fits nowhere may take the room of pods with a lower priority
// (preemption). Its victims are told to go, and meanwhile the pod is nominated for
// their node: pods of no higher priority do not get what it waits for.

// nomination is a pod that waits for room on a node.
type nomination struct {
	pod  *corev1.Pod
	node string
}

// nominate notes that the pod waits for a node; "": it waits for none.
func (s *state) nominate(pod *corev1.Pod, node string) {
	k := keyOf(pod)
	old := s.nominated[k]
	if old == nil && node == "" {
		return
	}
	if old != nil && old.node == node {
		old.pod = pod
		return
	}
	s.serial++
	if node == "" {
		delete(s.nominated, k)
		return
	}
	s.nominated[k] = &nomination{pod, node}
}

// ahead lists the other pods that are nominated for the node and that this one
// must leave room for.
func (s *state) ahead(pod *corev1.Pod, node string) (pods []*corev1.Pod) {
	if len(s.nominated) == 0 {
		return nil
	}
	for k, m := range s.nominated {
		if m.node == node && k != keyOf(pod) && s.placed[k] == nil && corev1helpers.PodPriority(m.pod) >= corev1helpers.PodPriority(pod) {
			pods = append(pods, m.pod)
		}
	}
	return pods
}

// askNominated tells whether the node has room when those ahead have come, too.
func (s *state) askNominated(c *class, pod *corev1.Pod, n *nodeState) int32 {
	ahead := s.ahead(pod, n.name)
	if len(ahead) == 0 {
		return 0
	}
	defer s.rehearse(c, n)()
	for _, p := range ahead {
		s.put(&placedPod{pod: p, node: n.name, request: requestOf(p)})
	}
	v := s.ask(c, pod, n)
	for _, p := range ahead {
		s.remove(keyOf(p))
	}
	return v
}

// rehearse begins to move pods on a node to see what would be. The func that it
// returns ends that, once they are as they were: nothing has changed then.
func (s *state) rehearse(c *class, n *nodeState) (end func()) {
	serial, seen := s.serial, n.seen
	return func() {
		s.serial, n.seen = serial, seen
		c.look(n)
	}
}

// ask filters one node anew, without what was kept.
func (s *state) ask(c *class, pod *corev1.Pod, n *nodeState) int32 {
	c.renew(s)
	c.look(n)
	if v := c.verdict[n.slot]; v != 0 {
		return v
	}
	wide, name, refused := s.prepare(c, pod)
	if refused != "" {
		return c.reason(name, refused, true)
	}
	return s.askWide(c, n, wide)
}

// fits tells whether the node would take the pod, those ahead of it included.
func (s *state) fits(c *class, pod *corev1.Pod, n *nodeState) bool {
	return s.ask(c, pod, n) == 0 && s.askNominated(c, pod, n) == 0
}

// candidate is a node that would take the pod if the victims were gone.
type candidate struct {
	node     *nodeState
	victims  []*placedPod // the most important first
	breaches int          // of disruption budgets
}

// What a preemption says when it does not help.
const (
	noVictims   = "No preemption victims found for incoming pod"
	noHelp      = "Preemption is not helpful for scheduling"
	never       = "not eligible due to preemptionPolicy=Never."
	stillEnding = "not eligible due to a terminating pod on the nominated node."
)

// preempt chooses the node whose pods are to make room, or says why none is.
// offset is where to begin among so many nodes.
func (s *state) preempt(pod *corev1.Pod, why *refusal, offset func(n int) int) (best *candidate, told string) {
	if told := s.mayPreempt(pod, why); told != "" {
		return nil, told
	}
	c := s.classOf(pod)
	nodes := why.hopeful
	// Looking at a tenth of them, and at least a hundred, finds one that is good enough.
	most := max(len(nodes)/10, 100)
	reasons := map[string]int{}
	if rest := why.nodes - len(nodes); rest > 0 {
		reasons[noHelp] = rest
	}
	found := 0
	for i, begin := 0, offset(max(len(nodes), 1)); i < len(nodes) && found < most; i++ {
		n := nodes[(begin+i)%len(nodes)]
		if s.nodes[n.name] != n || n.node == nil {
			continue
		}
		victims, breaches, reason := s.victims(c, pod, n)
		if reason != "" {
			reasons[reason]++
			continue
		}
		found++
		one := &candidate{n, victims, breaches}
		if best == nil || one.compare(best) < 0 {
			best = one
		}
	}
	if best == nil {
		return nil, (&refusal{nodes: why.nodes, reasons: reasons}).String()
	}
	return best, ""
}

// mayPreempt says why the pod must not, or "".
func (s *state) mayPreempt(pod *corev1.Pod, why *refusal) string {
	if p := pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return never
	}
	mine := s.nominated[keyOf(pod)]
	if mine == nil {
		return ""
	}
	n := s.nodes[mine.node]
	if n == nil || !slices.Contains(why.hopeful, n) {
		return ""
	}
	for _, p := range n.here {
		if p.pod.DeletionTimestamp != nil && corev1helpers.PodPriority(p.pod) < corev1helpers.PodPriority(pod) && preempted(p.pod) {
			return stillEnding
		}
	}
	return ""
}

// preempted tells whether the pod ends because a scheduler wants its room.
func preempted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// victims finds the fewest pods of lower priority whose leaving makes room on the
// node, sparing the more important ones and those under a budget. The state is as
// it was afterwards.
func (s *state) victims(c *class, pod *corev1.Pod, n *nodeState) (victims []*placedPod, breaches int, reason string) {
	var lower []*placedPod
	for _, p := range n.here {
		if corev1helpers.PodPriority(p.pod) < corev1helpers.PodPriority(pod) {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return nil, 0, noVictims
	}
	slices.SortFunc(lower, byImportance)
	defer s.rehearse(c, n)()
	for _, p := range lower {
		s.remove(keyOf(p.pod))
	}
	defer func() { // before the rehearsal ends
		for _, p := range victims {
			s.put(p)
		}
	}()
	if !s.fits(c, pod, n) {
		victims = lower
		return victims, 0, firstLine(s, c, pod, n)
	}
	breach, spare := s.underBudgets(lower)
	for _, list := range [][]*placedPod{breach, spare} {
		for _, p := range list {
			s.put(p)
			if s.fits(c, pod, n) {
				continue
			}
			s.remove(keyOf(p.pod))
			victims = append(victims, p)
			if len(breach) > 0 && &list[0] == &breach[0] {
				breaches++
			}
		}
	}
	slices.SortFunc(victims, byImportance)
	return victims, breaches, ""
}

// firstLine is why the node does not take the pod even so.
func firstLine(s *state, c *class, pod *corev1.Pod, n *nodeState) string {
	v := s.ask(c, pod, n)
	if v == 0 {
		v = s.askNominated(c, pod, n)
	}
	if v == 0 {
		return noHelp
	}
	return c.reasons[v].text
}

// byImportance orders pods: a higher priority first, then who runs for longer.
func byImportance(a, b *placedPod) int {
	return cmp.Or(
		cmp.Compare(corev1helpers.PodPriority(b.pod), corev1helpers.PodPriority(a.pod)),
		startOf(a.pod).Compare(startOf(b.pod)),
		cmp.Compare(a.pod.Namespace, b.pod.Namespace), cmp.Compare(a.pod.Name, b.pod.Name),
	)
}

// startOf is when the pod began; one that has not is taken to begin now, after all others.
func startOf(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.Time
	}
	return time.Unix(math.MaxInt32, 0)
}

// underBudgets parts pods, in their order, into those whose leaving would break a
// disruption budget, after the ones before them have left, and the others.
func (s *state) underBudgets(pods []*placedPod) (breach, spare []*placedPod) {
	left := map[*policyv1.PodDisruptionBudget]int32{}
	for _, p := range pods {
		broken := false
		for budget := range client.All[*policyv1.PodDisruptionBudget](s.others, p.pod.Namespace) {
			selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
			// An empty selector picks nothing here, and a pod that is on its way out is counted already.
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, known := budget.Status.DisruptedPods[p.pod.Name]; known {
				continue
			}
			if _, ok := left[budget]; !ok {
				left[budget] = budget.Status.DisruptionsAllowed
			}
			left[budget]--
			broken = broken || left[budget] < 0
		}
		if broken {
			breach = append(breach, p)
		} else {
			spare = append(spare, p)
		}
	}
	return breach, spare
}

// compare is negative if a is to be preferred: fewer budgets broken; a less
// important highest victim; less importance in all; fewer victims; victims that
// have not run for long.
func (a *candidate) compare(b *candidate) int {
	return cmp.Or(
		cmp.Compare(a.breaches, b.breaches),
		cmp.Compare(corev1helpers.PodPriority(a.victims[0].pod), corev1helpers.PodPriority(b.victims[0].pod)),
		cmp.Compare(a.weight(), b.weight()),
		cmp.Compare(len(a.victims), len(b.victims)),
		b.begun().Compare(a.begun()),
	)
}

// weight sums the victims' priorities, moved so that each counts more than none.
func (a *candidate) weight() (sum int64) {
	for _, p := range a.victims {
		sum += int64(corev1helpers.PodPriority(p.pod)) + math.MaxInt32 + 1
	}
	return sum
}

// begun is when the first of the victims with the highest priority began.
func (a *candidate) begun() time.Time {
	first := startOf(a.victims[0].pod)
	for _, p := range a.victims {
		if corev1helpers.PodPriority(p.pod) == corev1helpers.PodPriority(a.victims[0].pod) && startOf(p.pod).Before(first) {
			first = startOf(p.pod)
		}
	}
	return first
}

func (a *candidate) String() string {
	return fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", a.node.name, len(a.victims))
}
