package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// The state keeps counts per node and verdicts per class; its twin in this file
// keeps nothing, and walks over all pods for each question. Under random changes
// both let the same nodes pass. And what was kept gives the same points as a state
// that was made anew from the same objects.
func TestKeptStateAgainstSlowTwin(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := &randomWorld{r: rand.New(rand.NewPCG(seed, 7)), kept: newState(client.NewView()), nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}}
			w.namespace("a", "red")
			w.namespace("b", "blue")
			for range 4 {
				w.changeNode()
			}
			for range 120 {
				w.change()
				w.compare(t)
				if t.Failed() {
					return
				}
			}
		})
	}
}

type randomWorld struct {
	r          *rand.Rand
	kept       *state
	nodes      map[string]*corev1.Node
	pods       map[string]*corev1.Pod // by namespace/name, with their node
	namespaces map[string]*corev1.Namespace
	uid        int
}

func (w *randomWorld) namespace(name, color string) {
	if w.namespaces == nil {
		w.namespaces = map[string]*corev1.Namespace{}
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"color": color}}}
	w.namespaces[name] = ns
	w.kept.learn(client.Batch{Changes: []client.Change{{Resource: api.Of(ns), New: ns}}})
}

func (w *randomWorld) pick(of ...string) string { return of[w.r.IntN(len(of))] }

func (w *randomWorld) change() {
	switch n := w.r.IntN(20); {
	case n == 0:
		w.changeNode()
	case n == 1:
		w.namespace(w.pick("a", "b"), w.pick("red", "blue"))
	case n < 6 && len(w.pods) > 0:
		name := slices.Sorted(mapsKeys(w.pods))[w.r.IntN(len(w.pods))]
		w.kept.remove(keyOf(w.pods[name]))
		delete(w.pods, name)
	case n < 9 && len(w.pods) > 0:
		name := slices.Sorted(mapsKeys(w.pods))[w.r.IntN(len(w.pods))]
		p := w.pods[name].DeepCopy()
		if w.r.IntN(2) == 0 {
			p.Labels = map[string]string{"app": w.pick("web", "db")}
		} else {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
		w.pods[name] = p
		w.kept.place(p, p.Spec.NodeName, false)
	default:
		p := w.randomPod(fmt.Sprint("p", w.r.IntN(12)))
		if nodes := slices.Sorted(mapsKeys(w.nodes)); len(nodes) > 0 {
			p.Spec.NodeName = nodes[w.r.IntN(len(nodes))]
			w.pods[p.Namespace+"/"+p.Name] = p
			w.kept.place(p, p.Spec.NodeName, w.r.IntN(2) == 0)
		}
	}
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (w *randomWorld) changeNode() {
	name := fmt.Sprint("n", w.r.IntN(7))
	if w.nodes[name] != nil && w.r.IntN(4) == 0 {
		delete(w.nodes, name)
		w.kept.setNode(name, nil)
		return
	}
	n := node(name)
	if w.r.IntN(5) > 0 {
		n.Labels[corev1.LabelTopologyZone] = w.pick("z1", "z2", "z3")
	}
	if w.r.IntN(4) == 0 {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffect(w.pick("NoSchedule", "PreferNoSchedule"))}}
	}
	n.Labels["disk"] = w.pick("fast", "slow")
	n.Status.Images = []corev1.ContainerImage{{Names: []string{w.pick("web:1", "db:1")}, SizeBytes: 300 << 20}}
	w.nodes[name] = n
	w.kept.setNode(name, n)
}

func (w *randomWorld) randomPod(name string) *corev1.Pod {
	p := pod(name, labelled(w.pick("web", "db", "web")), asks(w.pick("100m", "500m"), "100Mi"))
	p.Namespace = w.pick("a", "b")
	w.uid++
	p.UID = types.UID(fmt.Sprint("u", w.uid))
	if w.r.IntN(3) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": w.pick("fast", "slow")}
	}
	if w.r.IntN(4) == 0 {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	}
	key := w.pick(corev1.LabelHostname, corev1.LabelTopologyZone)
	term := corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.pick("web", "db")}}}
	switch w.r.IntN(4) {
	case 0:
		term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"color": w.pick("red", "blue")}}
	case 1:
		term.Namespaces = []string{"a"}
	}
	switch w.r.IntN(8) {
	case 0:
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	case 1:
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	case 2:
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 7, PodAffinityTerm: term}}}}
	case 3:
		honor := corev1.NodeInclusionPolicyHonor
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: term.LabelSelector, NodeTaintsPolicy: &honor}}
	case 4:
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: term.LabelSelector}}
	}
	return p
}

func (w *randomWorld) compare(t *testing.T) {
	t.Helper()
	p := w.randomPod("new")
	c := w.kept.classOf(p)
	passed, why := w.kept.filter(c, p)
	var got, want []string
	for _, n := range passed {
		got = append(got, n.name)
	}
	for _, name := range slices.Sorted(mapsKeys(w.nodes)) {
		if w.allows(p, w.nodes[name]) {
			want = append(want, name)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pod %s/%s labels %v %v %v passes %v (%v), the twin says %v", p.Namespace, p.Name, p.Labels, p.Spec.Affinity, p.Spec.TopologySpreadConstraints, got, why, want)
		return
	}
	fresh := newState(client.NewView())
	for _, ns := range w.namespaces {
		fresh.learn(client.Batch{Changes: []client.Change{{Resource: api.Of(ns), New: ns}}})
	}
	for _, n := range w.nodes {
		fresh.setNode(n.Name, n)
	}
	for _, q := range w.pods {
		fresh.place(q, q.Spec.NodeName, false)
	}
	if len(passed) == 0 {
		return
	}
	fc := fresh.classOf(p)
	freshPassed, _ := fresh.filter(fc, p)
	if a, b := w.kept.sums(c, passed), fresh.sums(fc, freshPassed); !slices.Equal(a, b) {
		t.Errorf("pod %v %v: kept state rates %v, a fresh one %v", p.Spec.Affinity, p.Spec.TopologySpreadConstraints, a, b)
	}
}

// allows is the slow twin of all filters that random worlds need.
func (w *randomWorld) allows(p *corev1.Pod, n *corev1.Node) bool {
	r := requestOf(p)
	free := amountsOf(n.Status.Allocatable)
	pods := 1
	for _, q := range w.pods {
		if q.Spec.NodeName == n.Name {
			qr := requestOf(q)
			free.add(qr.amounts, -1)
			pods++
		}
	}
	if pods > 10 || r.cpu > free.cpu || r.memory > free.memory {
		return false
	}
	if !w.tolerates(p, n, corev1.TaintEffectNoSchedule) || !selects(p, n) {
		return false
	}
	for i := range p.Spec.TopologySpreadConstraints {
		if c := &p.Spec.TopologySpreadConstraints[i]; c.WhenUnsatisfiable == corev1.DoNotSchedule && !w.spreads(p, n, c) {
			return false
		}
	}
	return w.near(p, n) && w.apart(p, n)
}

func (w *randomWorld) tolerates(p *corev1.Pod, n *corev1.Node, effect corev1.TaintEffect) bool {
	return len(p.Spec.Tolerations) > 0 || !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == effect })
}

func selects(p *corev1.Pod, n *corev1.Node) bool {
	return labels.SelectorFromSet(p.Spec.NodeSelector).Matches(labels.Set(n.Labels))
}

func (w *randomWorld) spreads(p *corev1.Pod, n *corev1.Node, c *corev1.TopologySpreadConstraint) bool {
	value, ok := n.Labels[c.TopologyKey]
	if !ok {
		return false
	}
	selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	counts := map[string]int{}
	for _, m := range w.nodes {
		v, ok := m.Labels[c.TopologyKey]
		if !ok || !selects(p, m) || c.NodeTaintsPolicy != nil && !w.tolerates(p, m, corev1.TaintEffectNoSchedule) {
			continue
		}
		counts[v] += 0
		for _, q := range w.pods {
			if q.Spec.NodeName == m.Name && q.Namespace == p.Namespace && q.DeletionTimestamp == nil && selector.Matches(labels.Set(q.Labels)) {
				counts[v]++
			}
		}
	}
	least, first := 0, true
	for _, count := range counts {
		if first || count < least {
			least, first = count, false
		}
	}
	after := counts[value]
	if selector.Matches(labels.Set(p.Labels)) {
		after++
	}
	return after-least <= int(c.MaxSkew)
}

// about tells whether a term of one pod picks another.
func (w *randomWorld) about(of, other *corev1.Pod, t *corev1.PodAffinityTerm) bool {
	selector, _ := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if !selector.Matches(labels.Set(other.Labels)) {
		return false
	}
	if t.NamespaceSelector != nil {
		byLabel, _ := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		return byLabel.Matches(labels.Set(w.namespaces[other.Namespace].Labels))
	}
	if len(t.Namespaces) > 0 {
		return slices.Contains(t.Namespaces, other.Namespace)
	}
	return of.Namespace == other.Namespace
}

func (w *randomWorld) inDomain(q *corev1.Pod, n *corev1.Node, key string) bool {
	m := w.nodes[q.Spec.NodeName]
	if m == nil {
		return false
	}
	a, hasA := m.Labels[key]
	b, hasB := n.Labels[key]
	return hasA && hasB && a == b
}

func (w *randomWorld) near(p *corev1.Pod, n *corev1.Node) bool {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAffinity == nil {
		return true
	}
	for _, t := range p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if _, ok := n.Labels[t.TopologyKey]; !ok {
			return false
		}
		here, anywhere := false, false
		for _, q := range w.pods {
			if m := w.nodes[q.Spec.NodeName]; m == nil || m.Labels[t.TopologyKey] == "" || !w.about(p, q, &t) {
				continue
			}
			anywhere = true
			here = here || w.inDomain(q, n, t.TopologyKey)
		}
		if !here && (anywhere || !w.about(p, p, &t)) {
			return false
		}
	}
	return true
}

func (w *randomWorld) apart(p *corev1.Pod, n *corev1.Node) bool {
	for _, q := range w.pods {
		for _, t := range antiTerms(p) {
			if w.about(p, q, &t) && w.inDomain(q, n, t.TopologyKey) {
				return false
			}
		}
		for _, t := range antiTerms(q) {
			if w.about(q, p, &t) && w.inDomain(q, n, t.TopologyKey) {
				return false
			}
		}
	}
	return true
}

func antiTerms(p *corev1.Pod) []corev1.PodAffinityTerm {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAntiAffinity == nil {
		return nil
	}
	return p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}
