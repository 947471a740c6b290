package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10"),
		}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func inZone(zone string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = zone }
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func asks(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
}

func hostPortOf(port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, ContainerPort: port}}
	}
}

func labelled(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": value} }
}

var web = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}

func apart(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web, TopologyKey: key}},
		}}
	}
}

func together(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web, TopologyKey: key}},
		}}
	}
}

func spread(skew int32, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
			{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web},
		}
	}
}

func claims(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

// world is a state with nodes, and pods at "node/pod".
func world(nodes []*corev1.Node, placed map[string]*corev1.Pod, objects ...api.Object) *state {
	s := newState(client.NewView())
	for _, obj := range objects {
		s.others.Apply(client.Batch{Changes: []client.Change{{Resource: api.Of(obj), New: obj}}})
	}
	for _, n := range nodes {
		s.setNode(n.Name, n)
	}
	for at, p := range placed {
		name, _, _ := strings.Cut(at, "/")
		s.place(p, name, false)
	}
	return s
}

func first(int) int { return 0 }

func TestWhereAPodGoes(t *testing.T) {
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	class := "local"
	for _, c := range []struct {
		name  string
		state *state
		pod   *corev1.Pod
		want  string // the node, or the refusal
	}{
		{"the emptier node", world([]*corev1.Node{node("n1"), node("n2")}, map[string]*corev1.Pod{"n1/x": pod("x", asks("1", "1Gi"))}), pod("p", asks("1", "1Gi")), "n2"},
		{"what is asked for must be free", world([]*corev1.Node{node("n1"), node("n2")}, map[string]*corev1.Pod{"n1/x": pod("x", asks("1500m", "1Gi"))}), pod("p", asks("1", "8Gi")),
			"0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory."},
		{"no nodes", world(nil, nil), pod("p"), "no nodes available to schedule pods"},
		{"too many pods", world([]*corev1.Node{node("n1", func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1")
		})}, map[string]*corev1.Pod{"n1/x": pod("x")}), pod("p"), "0/1 nodes are available: 1 Too many pods."},
		{"a cordoned node", world([]*corev1.Node{node("n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil), pod("p"), "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"taints", world([]*corev1.Node{node("n1", taint("x", corev1.TaintEffectNoSchedule)), node("n2", taint("x", corev1.TaintEffectNoExecute))}, nil), pod("p"),
			"0/2 nodes are available: 2 node(s) had untolerated taint(s)."},
		{"a tolerated taint", world([]*corev1.Node{node("n1", taint("x", corev1.TaintEffectNoSchedule))}, nil), pod("p", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "x", Operator: corev1.TolerationOpExists}}
		}), "n1"},
		{"a taint that only asks", world([]*corev1.Node{node("n1", taint("x", corev1.TaintEffectPreferNoSchedule)), node("n2")}, nil), pod("p"), "n2"},
		{"node selector", world([]*corev1.Node{node("n1"), node("n2", inZone("z"))}, nil), pod("p", func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: "z"}
		}), "n2"},
		{"host ports", world([]*corev1.Node{node("n1"), node("n2")}, map[string]*corev1.Pod{"n1/x": pod("x", hostPortOf(80)), "n2/y": pod("y", hostPortOf(81))}), pod("p", hostPortOf(80)), "n2"},
		{"host ports everywhere taken", world([]*corev1.Node{node("n1")}, map[string]*corev1.Pod{"n1/x": pod("x", hostPortOf(80))}), pod("p", hostPortOf(80)),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"anti-affinity", world([]*corev1.Node{node("n1"), node("n2")}, map[string]*corev1.Pod{"n1/x": pod("x")}), pod("p", apart(corev1.LabelHostname)), "n2"},
		{"anti-affinity of those that are there", world([]*corev1.Node{node("n1")}, map[string]*corev1.Pod{"n1/x": pod("x", apart(corev1.LabelHostname))}), pod("p"),
			"0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"affinity", world([]*corev1.Node{node("n1", inZone("a")), node("n2", inZone("b"))}, map[string]*corev1.Pod{"n2/x": pod("x")}), pod("p", together(corev1.LabelTopologyZone)), "n2"},
		{"the first of those that want to be together", world([]*corev1.Node{node("n1", inZone("a"))}, nil), pod("p", together(corev1.LabelTopologyZone)), "n1"},
		{"affinity to nobody", world([]*corev1.Node{node("n1", inZone("a"))}, nil), pod("p", labelled("db"), together(corev1.LabelTopologyZone)),
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"hard spreading", world([]*corev1.Node{node("n1", inZone("a")), node("n2", inZone("b"))}, map[string]*corev1.Pod{"n1/x": pod("x")}), pod("p", spread(1, corev1.LabelTopologyZone), asks("1", "1Gi")), "n2"},
		{"hard spreading, full", world([]*corev1.Node{node("n1", inZone("a")), node("n2", inZone("b"), taint("x", corev1.TaintEffectNoSchedule))}, map[string]*corev1.Pod{"n1/x": pod("x")}), pod("p", spread(1, corev1.LabelTopologyZone)),
			"0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s)."},
		{"pods of a service are spread", world([]*corev1.Node{node("n1"), node("n2")}, map[string]*corev1.Pod{"n1/x": pod("x"), "n2/y": pod("y", labelled("other"))},
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}), pod("p"), "n2"},
		{"an image that is there", world([]*corev1.Node{node("n1"), node("n2", func(n *corev1.Node) {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"web:1"}, SizeBytes: 900 << 20}}
		})}, nil), pod("p"), "n2"},
		{"a claim that is not there", world([]*corev1.Node{node("n1")}, nil), pod("p", claims("data")), `0/1 nodes are available: persistentvolumeclaim "data" not found.`},
		{"a claim that nobody binds", world([]*corev1.Node{node("n1")}, nil, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "data"}}), pod("p", claims("data")),
			"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."},
		{"a claim that waits for the pod", world([]*corev1.Node{node("n1")}, nil,
			&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, VolumeBindingMode: &wait},
			&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class}}), pod("p", claims("data")), "n1"},
		{"a volume on one node", world([]*corev1.Node{node("n1"), node("n2")}, nil,
			&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}}}}},
			}}}},
			&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}}), pod("p", claims("data")), "n2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, refused := c.state.choose(c.pod, first)
			if refused != nil {
				got = refused.String()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What is taken on a node after any changes is what a fresh count gives.
func TestStateAgainstFreshCount(t *testing.T) {
	s := world([]*corev1.Node{node("n1"), node("n2")}, nil)
	for i := range 200 {
		name := fmt.Sprint("p", i%17)
		if i%3 == 2 {
			s.remove(key{"a", name})
			continue
		}
		s.place(pod(name, asks(fmt.Sprintf("%dm", 10*(i%5+1)), "10Mi"), hostPortOf(int32(i%4))), fmt.Sprint("n", i%2+1), i%2 == 0)
	}
	for _, n := range s.order {
		free, usual, ports := n.free, n.usual, len(n.ports)
		n.recount()
		if n.free.cpu != free.cpu || n.free.memory != free.memory || n.usual.cpu != usual.cpu || len(n.ports) != ports {
			t.Errorf("%s: kept %+v, counted %+v", n.name, free, n.free)
		}
	}
	for name := range map[string]bool{"n1": true, "n2": true} {
		s.setNode(name, nil)
	}
	for k := range s.placed {
		s.remove(k)
	}
	if len(s.nodes) != 0 || len(s.order) != 0 || len(s.byNamespace) != 0 {
		t.Errorf("left: %d nodes, %d namespaces", len(s.nodes), len(s.byNamespace))
	}
}
