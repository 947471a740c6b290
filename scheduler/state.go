package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff/api"
	"skiff/client"
)

// state is what decisions are made on: nodes with what is taken on them, kept up
// to date with each change, and the other objects that placement depends on. One
// goroutine owns it.
type state struct {
	nodes map[string]*nodeState
	order []*nodeState // sorted by name: decisions do not depend on the order of events
	free  []int        // slots of nodes that are gone
	// serial grows with every change of what decisions depend on.
	serial uint64
	real   int // nodes that are there
	// placed are the pods that have a node, those that this scheduler has only
	// decided about included.
	placed map[key]*placedPod
	// byNamespace are the placed pods of each namespace: what a new counter begins with.
	byNamespace map[string]map[key]*placedPod
	// images counts the nodes that have an image, by each of its names.
	images   map[string]int
	imagesAt uint64 // serial when images changed last
	// nominated are pods that wait for the room of their victims.
	nominated map[key]*nomination

	axes     map[string]*axis
	counters counters
	holders  holders
	classes  classes
	scratch  scratch

	others *client.View // claims, volumes, storage classes, services, owners, namespaces, budgets
	// othersEpoch grows with each change of others.
	othersEpoch uint64
}

// key names a pod.
type key struct{ namespace, name string }

func keyOf(obj api.Object) key { return key{obj.GetNamespace(), obj.GetName()} }

// nodeState is a node and what is taken on it.
type nodeState struct {
	node  *corev1.Node // nil while only pods are known of it
	name  string
	slot  int    // place in arrays that have an entry per node; kept while the node is known
	seen  uint64 // serial of its last change, pods included
	since uint64 // serial of the last change of the node itself
	here  map[key]*placedPod
	free  amounts // allocatable less requested; negative when a node shrank
	total amounts // allocatable
	// usual counts, for scoring, pods that ask for nothing as if they asked for a little.
	usual  amounts
	most   int // pods that the node takes
	ports  map[hostPort]int
	images map[string]int64 // bytes, by every name of the image
}

// placedPod is a pod that has a node.
type placedPod struct {
	pod     *corev1.Pod
	node    string
	request request
	assumed bool // decided here, and not seen bound yet
	holds   []*holder
}

// amounts of resources: CPU in thousandths, the rest in units.
type amounts struct {
	cpu, memory, storage int64
	others               map[corev1.ResourceName]int64 // huge pages, devices; nil: none
}

// request is what a pod takes.
type request struct {
	amounts
	usual amounts // with something for those that ask for nothing
	ports []hostPort
}

// hostPort is a port of a node's address.
type hostPort struct {
	ip       string // 0.0.0.0: all
	protocol corev1.Protocol
	port     int32
}

func newState(others *client.View) *state {
	return &state{
		nodes: map[string]*nodeState{}, placed: map[key]*placedPod{}, byNamespace: map[string]map[key]*placedPod{},
		images: map[string]int{}, nominated: map[key]*nomination{}, axes: map[string]*axis{},
		counters: newCounters(), holders: newHolders(), classes: newClasses(), others: others,
	}
}

// What a pod that asks for nothing is taken to need when nodes are scored.
const (
	usualCPU    = 100       // thousandths
	usualMemory = 200 << 20 // bytes
)

func requestOf(pod *corev1.Pod) request {
	list := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})
	r := request{amounts: amountsOf(list)}
	usual := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		NonMissingContainerRequests: corev1.ResourceList{
			corev1.ResourceCPU:    *quantity(usualCPU, true),
			corev1.ResourceMemory: *quantity(usualMemory, false),
		},
	})
	r.usual = amountsOf(usual)
	for i := range pod.Spec.Containers {
		r.addPorts(pod.Spec.Containers[i].Ports)
	}
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			r.addPorts(pod.Spec.InitContainers[i].Ports)
		}
	}
	return r
}

func (r *request) addPorts(ports []corev1.ContainerPort) {
	for _, p := range ports {
		if p.HostPort <= 0 {
			continue
		}
		h := hostPort{cmp.Or(p.HostIP, "0.0.0.0"), cmp.Or(p.Protocol, corev1.ProtocolTCP), p.HostPort}
		r.ports = append(r.ports, h)
	}
}

func amountsOf(list corev1.ResourceList) (a amounts) {
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			a.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = q.Value()
		case corev1.ResourcePods:
		default:
			if a.others == nil {
				a.others = map[corev1.ResourceName]int64{}
			}
			a.others[name] = q.Value()
		}
	}
	return a
}

// same tells whether two requests take the same.
func (r *request) same(q request) bool {
	return r.amounts.same(q.amounts) && r.usual.same(q.usual) && slices.Equal(r.ports, q.ports)
}

func (a *amounts) same(b amounts) bool {
	return a.cpu == b.cpu && a.memory == b.memory && a.storage == b.storage && maps.Equal(a.others, b.others)
}

// add adds sign times b.
func (a *amounts) add(b amounts, sign int64) {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	for name, n := range b.others {
		if a.others == nil {
			a.others = map[corev1.ResourceName]int64{}
		}
		a.others[name] += sign * n
	}
}

// nodeOf returns the state of a node, making one that is not there.
func (s *state) nodeOf(name string) *nodeState {
	if n := s.nodes[name]; n != nil {
		return n
	}
	n := &nodeState{name: name, slot: len(s.nodes), ports: map[hostPort]int{}, here: map[key]*placedPod{}}
	if last := len(s.free) - 1; last >= 0 {
		n.slot, s.free = s.free[last], s.free[:last]
	}
	s.nodes[name] = n
	i, _ := slices.BinarySearchFunc(s.order, name, func(n *nodeState, name string) int { return cmp.Compare(n.name, name) })
	s.order = slices.Insert(s.order, i, n)
	s.touch(n)
	return n
}

// slots is how long an array with an entry per node must be.
func (s *state) slots() int { return len(s.nodes) + len(s.free) }

// touch marks the node as changed.
func (s *state) touch(n *nodeState) {
	s.serial++
	n.seen = s.serial
}

// setNode takes in a node, or its removal (nil).
func (s *state) setNode(name string, node *corev1.Node) {
	n := s.nodeOf(name)
	if n.node != nil && node != nil && unchanged(n.node, node) {
		n.node = node
		return
	}
	if n.node == nil && node != nil {
		s.real++
	}
	if n.node != nil && node == nil {
		s.real--
	}
	s.setImages(n, node)
	n.node = node
	s.touch(n)
	n.since = n.seen
	for _, a := range s.axes {
		a.put(n)
	}
	if node == nil {
		n.total, n.most = amounts{}, 0
		n.recount()
		s.forget(n)
		return
	}
	n.total = amountsOf(node.Status.Allocatable)
	n.most = int(node.Status.Allocatable.Pods().Value())
	n.recount()
}

// unchanged tells whether a node is to scheduling what it was: a heartbeat.
func unchanged(old, now *corev1.Node) bool {
	return old.UID == now.UID && old.Spec.Unschedulable == now.Spec.Unschedulable && equal(old.Spec.Taints, now.Spec.Taints) &&
		maps.Equal(old.Labels, now.Labels) && equal(old.Status.Allocatable, now.Status.Allocatable) && equal(old.Status.Images, now.Status.Images)
}

// setImages takes in which images the node has.
func (s *state) setImages(n *nodeState, node *corev1.Node) {
	if n.node != nil && node != nil && equal(n.node.Status.Images, node.Status.Images) {
		return
	}
	for name := range n.images {
		if s.images[name]--; s.images[name] == 0 {
			delete(s.images, name)
		}
	}
	n.images = map[string]int64{}
	if node != nil {
		for _, image := range node.Status.Images {
			for _, name := range image.Names {
				n.images[name] = image.SizeBytes
			}
		}
	}
	for name := range n.images {
		s.images[name]++
	}
	s.serial++
	s.imagesAt = s.serial
}

// forget drops a node that is gone and has no pods.
func (s *state) forget(n *nodeState) {
	if n.node != nil || len(n.here) > 0 {
		return
	}
	delete(s.nodes, n.name)
	s.order = slices.DeleteFunc(s.order, func(x *nodeState) bool { return x == n })
	s.free = append(s.free, n.slot)
}

// recount sums up what is taken on a node whose total changed.
func (n *nodeState) recount() {
	n.free = amounts{cpu: n.total.cpu, memory: n.total.memory, storage: n.total.storage, others: maps.Clone(n.total.others)}
	n.usual = amounts{}
	n.ports = map[hostPort]int{}
	for _, p := range n.here {
		n.take(p.request, 1)
	}
}

// take takes a pod's request off the node, or gives it back (sign -1).
func (n *nodeState) take(r request, sign int) {
	n.free.add(r.amounts, int64(-sign))
	n.usual.add(r.usual, int64(sign))
	for _, p := range r.ports {
		if n.ports[p] += sign; n.ports[p] <= 0 {
			delete(n.ports, p)
		}
	}
}

// place puts a pod onto a node, or replaces what is known of it there.
func (s *state) place(pod *corev1.Pod, node string, assumed bool) {
	k := keyOf(pod)
	request := requestOf(pod)
	if p := s.placed[k]; p != nil {
		if p.node == node && sameShape(p.pod, pod) && p.request.same(request) {
			p.pod, p.assumed = pod, assumed // its status alone
			return
		}
		s.remove(k)
	}
	s.put(&placedPod{pod: pod, node: node, request: request, assumed: assumed})
}

// sameShape tells whether two versions of a pod are one to selectors and terms.
func sameShape(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}

// put counts a placed pod in.
func (s *state) put(p *placedPod) {
	k := keyOf(p.pod)
	s.placed[k] = p
	if s.byNamespace[k.namespace] == nil {
		s.byNamespace[k.namespace] = map[key]*placedPod{}
	}
	s.byNamespace[k.namespace][k] = p
	n := s.nodeOf(p.node)
	n.here[k] = p
	n.take(p.request, 1)
	s.counters.count(s, p.pod, n.slot, 1)
	p.holds = s.holders.join(p.pod, n.slot)
	s.touch(n)
}

// remove takes a pod off its node.
func (s *state) remove(k key) {
	p := s.placed[k]
	if p == nil {
		return
	}
	delete(s.placed, k)
	delete(s.byNamespace[k.namespace], k)
	if len(s.byNamespace[k.namespace]) == 0 {
		delete(s.byNamespace, k.namespace)
	}
	n := s.nodes[p.node]
	delete(n.here, k)
	n.take(p.request, -1)
	s.counters.count(s, p.pod, n.slot, -1)
	s.holders.leave(p.holds, n.slot)
	s.touch(n)
	s.forget(n)
}

// learn takes in a change of what is neither a node nor a pod.
func (s *state) learn(b client.Batch) {
	if len(b.Changes) == 0 {
		return
	}
	s.others.Apply(b)
	s.othersEpoch++
	s.serial++
	for _, c := range b.Changes {
		if _, ok := c.Object().(*corev1.Namespace); ok {
			s.namespaceChanged()
			return
		}
	}
}
