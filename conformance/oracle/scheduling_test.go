package oracle

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	schedulercache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"

	"skiff/api"
	"skiff/scheduler"
)

// TestScheduling shows both schedulers the same random clusters: the same nodes can take the pod, with the same points,
// so the same ones are best; and where none can, the pod is told the same.
func TestScheduling(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))
	t.Logf("ORACLE_SEED=%d ORACLE_N=%d", seed, n)
	metrics.Register()
	w := &clusters{Rand: rand.New(rand.NewSource(seed)), t: t, config: defaultProfile(t)}
	for range n {
		w.compare()
	}
	results.report(t, "scheduling")
}

// defaultProfile is that of a kube-scheduler without a configuration, but for the plugins about what Skiff's scheduler
// says it does not do: claims of devices and limits of CSI volumes.
func defaultProfile(t *testing.T) *config.KubeSchedulerProfile {
	c, err := latest.Default()
	if err != nil {
		t.Fatal(err)
	}
	profile := &c.Profiles[0]
	profile.Plugins.MultiPoint.Enabled = slices.DeleteFunc(profile.Plugins.MultiPoint.Enabled, func(p config.Plugin) bool {
		return slices.Contains([]string{"DynamicResources", "NodeVolumeLimits", "VolumeBinding", "VolumeZone", "VolumeRestrictions", "DefaultPreemption", "GangScheduling"}, p.Name)
	})
	return profile
}

type clusters struct {
	*rand.Rand
	t      *testing.T
	config *config.KubeSchedulerProfile
	uid    int
}

func (w *clusters) one(of ...string) string { return of[w.Intn(len(of))] }
func (w *clusters) maybe(in int) bool       { return w.Intn(in) == 0 }

func (w *clusters) meta(name string) metav1.ObjectMeta {
	w.uid++
	return metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(fmt.Sprint("u", w.uid))}
}

func (w *clusters) node(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: w.meta(fmt.Sprint("n", i))}
	n.Namespace = ""
	n.Labels = map[string]string{corev1.LabelHostname: n.Name, "disk": w.one("ssd", "hdd"), "rank": w.one("1", "5", "x")}
	if !w.maybe(6) {
		n.Labels[corev1.LabelTopologyZone] = w.one("a", "b", "c")
	}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(w.one("1", "2", "4")), corev1.ResourceMemory: resource.MustParse(w.one("2Gi", "4Gi", "8Gi")),
		corev1.ResourcePods: resource.MustParse(w.one("3", "10", "110")), corev1.ResourceEphemeralStorage: resource.MustParse("10Gi")}
	if w.maybe(3) {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse(w.one("1", "2"))
	}
	n.Status.Capacity = n.Status.Allocatable
	for w.maybe(3) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: w.one("t1", "t2"), Value: w.one("", "v"), Effect: corev1.TaintEffect(w.one("NoSchedule", "PreferNoSchedule", "NoExecute"))})
	}
	if w.maybe(10) {
		n.Spec.Unschedulable = true
	}
	for w.maybe(2) {
		image := w.one("docker.io/library/big:latest", "docker.io/library/small:v1")
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: map[bool]int64{true: 700 << 20, false: 30 << 20}[image == "docker.io/library/big:latest"]})
		break
	}
	return n
}

func (w *clusters) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.one("web", "db")}}
	if w.maybe(4) {
		s = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
	}
	return s
}

func (w *clusters) term() corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: w.one(corev1.LabelHostname, corev1.LabelTopologyZone, "disk"), LabelSelector: w.selector()}
	if w.maybe(4) {
		t.Namespaces = []string{w.one("default", "other")}
	}
	if w.maybe(5) {
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": w.one("red", "blue")}}
	}
	return t
}

func (w *clusters) nodeTerm() corev1.NodeSelectorTerm {
	r := corev1.NodeSelectorRequirement{Key: w.one("disk", "rank", corev1.LabelTopologyZone), Operator: corev1.NodeSelectorOperator(w.one("In", "NotIn", "Exists", "DoesNotExist")), Values: []string{w.one("ssd", "a", "5")}}
	if r.Operator == corev1.NodeSelectorOpExists || r.Operator == corev1.NodeSelectorOpDoesNotExist {
		r.Values = nil
	}
	if w.maybe(6) {
		r = corev1.NodeSelectorRequirement{Key: "rank", Operator: corev1.NodeSelectorOperator(w.one("Gt", "Lt")), Values: []string{"3"}}
	}
	t := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{r}}
	if w.maybe(8) {
		t.MatchFields = []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{w.one("n0", "n1", "n2")}}}
	}
	return t
}

func (w *clusters) pod(name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: w.meta(name)}
	if w.maybe(5) {
		p.Namespace = "other"
	}
	p.Labels = map[string]string{"app": w.one("web", "db", "none"), "version": w.one("1", "2")}
	p.Spec.NodeName, p.Spec.SchedulerName = node, "default-scheduler"
	for range 1 + w.Intn(2) {
		c := corev1.Container{Name: fmt.Sprint("c", len(p.Spec.Containers)), Image: w.one("big", "small:v1", "other"), Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
		if !w.maybe(3) {
			c.Resources.Requests[corev1.ResourceCPU] = resource.MustParse(w.one("100m", "500m", "1"))
		}
		if !w.maybe(3) {
			c.Resources.Requests[corev1.ResourceMemory] = resource.MustParse(w.one("100Mi", "1Gi"))
		}
		if w.maybe(8) {
			c.Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}
		if w.maybe(5) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(80 + w.Intn(2)), HostIP: w.one("", "10.0.0.1", "0.0.0.0"), Protocol: corev1.Protocol(w.one("TCP", "UDP"))}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	if w.maybe(5) {
		always := corev1.ContainerRestartPolicyAlways
		c := corev1.Container{Name: "init", Image: "other", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(w.one("1", "200m"))}}}
		if w.maybe(2) {
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	w.placing(p)
	return p
}

// placing gives a pod wishes about where it runs.
func (w *clusters) placing(p *corev1.Pod) {
	if w.maybe(6) {
		p.Spec.NodeSelector = map[string]string{"disk": w.one("ssd", "hdd")}
	}
	for w.maybe(3) {
		seconds := int64(3)
		t := corev1.Toleration{Key: w.one("t1", "t2", ""), Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffect(w.one("", "NoSchedule", "PreferNoSchedule", "NoExecute"))}
		if t.Key != "" && w.maybe(2) {
			t.Operator, t.Value = corev1.TolerationOpEqual, w.one("", "v")
		}
		if t.Effect == corev1.TaintEffectNoExecute && w.maybe(2) {
			t.TolerationSeconds = &seconds
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
	a := &corev1.Affinity{}
	if w.maybe(4) {
		a.NodeAffinity = &corev1.NodeAffinity{}
		if w.maybe(2) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{w.nodeTerm(), w.nodeTerm()}[:1+w.Intn(2)]}
		}
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{Weight: int32(1 + w.Intn(100)), Preference: w.nodeTerm()}, {Weight: 3, Preference: w.nodeTerm()}}[:w.Intn(3)]
	}
	weighted := func() []corev1.WeightedPodAffinityTerm {
		return []corev1.WeightedPodAffinityTerm{{Weight: int32(1 + w.Intn(100)), PodAffinityTerm: w.term()}, {Weight: 10, PodAffinityTerm: w.term()}}[:w.Intn(3)]
	}
	required := func() []corev1.PodAffinityTerm {
		if w.maybe(2) {
			return nil
		}
		return []corev1.PodAffinityTerm{w.term(), w.term()}[:1+w.Intn(2)]
	}
	if w.maybe(4) {
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required(), PreferredDuringSchedulingIgnoredDuringExecution: weighted()}
	}
	if w.maybe(4) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required(), PreferredDuringSchedulingIgnoredDuringExecution: weighted()}
	}
	if *a != (corev1.Affinity{}) {
		p.Spec.Affinity = a
	}
	for w.maybe(3) {
		w.spread(p)
	}
}

func (w *clusters) spread(p *corev1.Pod) {
	c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + w.Intn(2)), TopologyKey: w.one(corev1.LabelHostname, corev1.LabelTopologyZone, "disk"),
		WhenUnsatisfiable: corev1.UnsatisfiableConstraintAction(w.one("DoNotSchedule", "ScheduleAnyway")), LabelSelector: w.selector()}
	for _, have := range p.Spec.TopologySpreadConstraints {
		if have.TopologyKey == c.TopologyKey && have.WhenUnsatisfiable == c.WhenUnsatisfiable {
			return
		}
	}
	if c.WhenUnsatisfiable == corev1.DoNotSchedule && w.maybe(3) {
		least := int32(1 + w.Intn(3))
		c.MinDomains = &least
	}
	if w.maybe(3) {
		policy := corev1.NodeInclusionPolicy(w.one("Honor", "Ignore"))
		c.NodeAffinityPolicy = &policy
	}
	if w.maybe(3) {
		policy := corev1.NodeInclusionPolicy(w.one("Honor", "Ignore"))
		c.NodeTaintsPolicy = &policy
	}
	p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
}

// compare makes a cluster and asks both where a pod may go.
func (w *clusters) compare() {
	var nodes []*corev1.Node
	var pods []*corev1.Pod
	cluster := []api.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "red"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "blue"}}}}
	if w.maybe(2) {
		s := &corev1.Service{ObjectMeta: w.meta("web"), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}
		cluster = append(cluster, s)
	}
	for i := range 2 + w.Intn(7) {
		n := w.node(i)
		nodes, cluster = append(nodes, n), append(cluster, n)
	}
	for i := range w.Intn(12) {
		p := w.pod(fmt.Sprint("p", i), nodes[w.Intn(len(nodes))].Name)
		pods, cluster = append(pods, p), append(cluster, p)
	}
	pod := w.pod("new", "")
	example := func() string { return short(map[string]any{"pod": pod, "nodes": nodes, "pods": pods}) }
	want, told, err := w.upstream(cluster, nodes, pods, pod)
	if err != nil {
		w.t.Fatalf("upstream's framework: %v\n%s", err, example())
	}
	var have map[string]int64
	var refused string
	if p := safely(func() { have, refused = scheduler.Verdicts(cluster, pod) }); p != nil {
		results.count("scheduling", "feasible nodes", fmt.Sprintf("  skiff panics: %v", p), example)
		return
	}
	fit, ours := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(have))
	results.count("scheduling", "feasible nodes", sameSets(fit, ours), example)
	if !slices.Equal(fit, ours) {
		return
	}
	if len(fit) == 0 {
		results.count("scheduling", "message", sameSets([]string{told}, []string{refused}), example)
		return
	}
	results.count("scheduling", "points", sameTrees(tree(want), tree(have)), example)
	results.count("scheduling", "best nodes", sameSets(best(want), best(have)), example)
}

func best(points map[string]int64) (names []string) {
	most := slices.Max(slices.Collect(maps.Values(points)))
	for name, n := range points {
		if n == most {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// upstream runs one scheduling cycle of upstream's framework.
func (w *clusters) upstream(cluster []api.Object, nodes []*corev1.Node, pods []*corev1.Pod, pod *corev1.Pod) (points map[string]int64, refused string, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := kubernetes.NewForConfig(&clientrest.Config{Host: "http://127.0.0.1:1"}) // never asked
	if err != nil {
		return nil, "", err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	for _, obj := range cluster {
		switch o := obj.(type) {
		case *corev1.Namespace:
			err = factory.Core().V1().Namespaces().Informer().GetIndexer().Add(o)
		case *corev1.Service:
			err = factory.Core().V1().Services().Informer().GetIndexer().Add(o)
		}
		if err != nil {
			return nil, "", err
		}
	}
	snapshot := schedulercache.NewSnapshot(pods, nodes)
	f, err := frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), w.config, frameworkruntime.WithClientSet(client),
		frameworkruntime.WithInformerFactory(factory), frameworkruntime.WithSnapshotSharedLister(snapshot), frameworkruntime.WithPodNominator(nobody{}))
	if err != nil {
		return nil, "", err
	}
	return cycle(ctx, f, snapshot, pod)
}

// nobody is nominated to a node.
type nobody struct{ fwk.PodNominator }

func (nobody) NominatedPodsForNode(string) []fwk.PodInfo { return nil }

func cycle(ctx context.Context, f framework.Framework, snapshot *schedulercache.Snapshot, pod *corev1.Pod) (points map[string]int64, refused string, err error) {
	state := framework.NewCycleState()
	all, err := snapshot.NodeInfos().List()
	if err != nil {
		return nil, "", err
	}
	diagnosis := framework.Diagnosis{NodeToStatus: framework.NewDefaultNodeToStatus(), UnschedulablePlugins: sets.New[string]()}
	only, status, _ := f.RunPreFilterPlugins(ctx, state, pod)
	if !status.IsSuccess() {
		if !status.IsRejected() {
			return nil, "", status.AsError()
		}
		diagnosis.PreFilterMsg = status.Message()
		diagnosis.NodeToStatus.SetAbsentNodesStatus(status)
		return nil, (&framework.FitError{Pod: pod, NumAllNodes: len(all), Diagnosis: diagnosis}).Error(), nil
	}
	var fit []fwk.NodeInfo
	for _, n := range all {
		if !only.AllNodes() && !only.NodeNames.Has(n.Node().Name) {
			diagnosis.NodeToStatus.Set(n.Node().Name, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) didn't satisfy plugin(s) "+fmt.Sprint(sets.List(sets.New("NodeAffinity")))))
			continue
		}
		status := f.RunFilterPluginsWithNominatedPods(ctx, state, pod, n)
		if status.IsSuccess() {
			fit = append(fit, n)
			continue
		}
		if !status.IsRejected() {
			return nil, "", status.AsError()
		}
		diagnosis.NodeToStatus.Set(n.Node().Name, status)
	}
	if len(fit) == 0 {
		return nil, (&framework.FitError{Pod: pod, NumAllNodes: len(all), Diagnosis: diagnosis}).Error(), nil
	}
	if status := f.RunPreScorePlugins(ctx, state, pod, fit); !status.IsSuccess() {
		return nil, "", status.AsError()
	}
	scored, status := f.RunScorePlugins(ctx, state, pod, fit)
	if !status.IsSuccess() {
		return nil, "", status.AsError()
	}
	points = map[string]int64{}
	for _, s := range scored {
		points[s.Name] = s.TotalScore
	}
	return points, "", nil
}
