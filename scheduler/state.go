package scheduler

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	// placed are the pods that have a node, those that this scheduler has only
	// decided about included.
	placed map[key]*placedPod
	// byNamespace are the placed pods of each namespace: what affinity and
	// spreading look at.
	byNamespace map[string]map[key]*placedPod
	// exclusive are the placed pods with required anti-affinity: each new pod is held against them.
	exclusive map[key]*placedPod

	others *client.View // claims, volumes, storage classes, services, owners, namespaces
}

// key names a pod.
type key struct{ namespace, name string }

func keyOf(obj api.Object) key { return key{obj.GetNamespace(), obj.GetName()} }

// nodeState is a node and what is taken on it.
type nodeState struct {
	node  *corev1.Node // nil while only pods are known of it
	name  string
	free  amounts // allocatable less requested; negative when a node shrank
	total amounts // allocatable
	// usual counts, for scoring, pods that ask for nothing as if they asked for a little.
	usual  amounts
	pods   int
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
		nodes: map[string]*nodeState{}, placed: map[key]*placedPod{},
		byNamespace: map[string]map[key]*placedPod{}, exclusive: map[key]*placedPod{}, others: others,
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
	n := &nodeState{name: name, ports: map[hostPort]int{}}
	s.nodes[name] = n
	i, _ := slices.BinarySearchFunc(s.order, name, func(n *nodeState, name string) int { return cmp.Compare(n.name, name) })
	s.order = slices.Insert(s.order, i, n)
	return n
}

// setNode takes in a node, or its removal (nil).
func (s *state) setNode(name string, node *corev1.Node) {
	n := s.nodeOf(name)
	n.node = node
	if node == nil {
		n.total, n.most, n.images = amounts{}, 0, nil
		s.recount(n)
		s.forget(n)
		return
	}
	n.total = amountsOf(node.Status.Allocatable)
	n.most = int(node.Status.Allocatable.Pods().Value())
	n.images = map[string]int64{}
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
	s.recount(n)
}

// forget drops a node that is gone and has no pods.
func (s *state) forget(n *nodeState) {
	if n.node != nil || n.pods > 0 {
		return
	}
	delete(s.nodes, n.name)
	s.order = slices.DeleteFunc(s.order, func(x *nodeState) bool { return x == n })
}

// recount sums up what is taken on a node whose total changed.
func (s *state) recount(n *nodeState) {
	n.free = amounts{cpu: n.total.cpu, memory: n.total.memory, storage: n.total.storage, others: maps.Clone(n.total.others)}
	n.usual = amounts{}
	n.pods = 0
	n.ports = map[hostPort]int{}
	for _, p := range s.placed {
		if p.node == n.name {
			n.take(p.request, 1)
		}
	}
}

// take takes a pod's request off the node, or gives it back (sign -1).
func (n *nodeState) take(r request, sign int) {
	n.free.add(r.amounts, int64(-sign))
	n.usual.add(r.usual, int64(sign))
	n.pods += sign
	for _, p := range r.ports {
		if n.ports[p] += sign; n.ports[p] <= 0 {
			delete(n.ports, p)
		}
	}
}

// place puts a pod onto a node, or replaces what is known of it there.
func (s *state) place(pod *corev1.Pod, node string, assumed bool) {
	k := keyOf(pod)
	s.remove(k)
	p := &placedPod{pod: pod, node: node, request: requestOf(pod), assumed: assumed}
	s.placed[k] = p
	if s.byNamespace[k.namespace] == nil {
		s.byNamespace[k.namespace] = map[key]*placedPod{}
	}
	s.byNamespace[k.namespace][k] = p
	if len(requiredAntiAffinity(pod)) > 0 {
		s.exclusive[k] = p
	}
	s.nodeOf(node).take(p.request, 1)
}

// remove takes a pod off its node.
func (s *state) remove(k key) {
	p := s.placed[k]
	if p == nil {
		return
	}
	delete(s.placed, k)
	delete(s.exclusive, k)
	delete(s.byNamespace[k.namespace], k)
	if len(s.byNamespace[k.namespace]) == 0 {
		delete(s.byNamespace, k.namespace)
	}
	n := s.nodes[p.node]
	n.take(p.request, -1)
	s.forget(n)
}

// alike yields the placed pods of a namespace that the selector picks and that
// are not ending.
func (s *state) alike(namespace string, selector labels.Selector) iter.Seq[*placedPod] {
	return func(yield func(*placedPod) bool) {
		for _, p := range s.byNamespace[namespace] {
			if p.pod.DeletionTimestamp == nil && selector.Matches(labels.Set(p.pod.Labels)) && !yield(p) {
				return
			}
		}
	}
}

// label of the node that a pod is placed on.
func (s *state) label(node, name string) (string, bool) {
	n := s.nodes[node]
	if n == nil || n.node == nil {
		return "", false
	}
	value, ok := n.node.Labels[name]
	return value, ok
}
