package skifftest_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/skifftest"
)

// bubble is a cluster in virtual time, and who uses it.
type bubble struct {
	*kubernetes.Clientset
	t   *testing.T
	ctx context.Context
	*skifftest.Cluster
}

// inBubble runs a story in which time passes only while everybody waits.
func inBubble(t *testing.T, c skifftest.Config, story func(*bubble)) {
	synctest.Test(t, func(t *testing.T) {
		k := skifftest.New(t, c)
		config := k.RESTConfig()
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.CloseIdleConnections)
		clientset, err := kubernetes.NewForConfigAndClient(config, client)
		if err != nil {
			t.Fatal(err)
		}
		story(&bubble{clientset, t, t.Context(), k})
	})
}

func (b *bubble) ok(_ any, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// pods lists the pods of an application: by name, on which node, and whether they
// are being deleted.
func (b *bubble) pods(app string) (pods []corev1.Pod) {
	b.t.Helper()
	list, err := b.CoreV1().Pods("default").List(b.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	b.ok(nil, err)
	return list.Items
}

// live are those that are ready, and not being deleted.
func (b *bubble) live(app string) (pods []corev1.Pod) {
	for _, p := range b.pods(app) {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if ready && p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}

// within lets time pass until something is so, but no more than a time, of which
// it returns how much it took.
func (b *bubble) within(most time.Duration, what string, is func() bool) time.Duration {
	b.t.Helper()
	began := time.Now()
	for synctest.Wait(); !is(); synctest.Wait() {
		if time.Since(began) > most {
			b.t.Fatalf("%s: not within %s", what, most)
		}
		time.Sleep(time.Second)
	}
	return time.Since(began)
}

// template of an application whose pods leave a lost node after two minutes.
func template(app string) corev1.PodTemplateSpec {
	two := int64(120)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "web:1"}},
			Tolerations: []corev1.Toleration{
				{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &two},
			},
		},
	}
}

// A node is cut off. Its pods come up elsewhere when their tolerations are over;
// those that are one of a kind do not, for they may still run there; and when
// it returns, the old ones end.
func TestANodeIsCutOff(t *testing.T) {
	inBubble(t, skifftest.Config{Nodes: 3, Logger: slog.New(slog.DiscardHandler)}, func(b *bubble) {
		three := int32(3)
		selector := func(app string) *metav1.LabelSelector {
			return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		}
		b.ok(b.AppsV1().Deployments("default").Create(b.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: selector("web"), Template: template("web")}}, metav1.CreateOptions{}))
		b.ok(b.AppsV1().StatefulSets("default").Create(b.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
			Spec: appsv1.StatefulSetSpec{Replicas: &three, Selector: selector("db"), Template: template("db")}}, metav1.CreateOptions{}))
		b.within(time.Minute, "all pods are ready", func() bool { return len(b.live("web")) == 3 && len(b.live("db")) == 3 })

		lost := b.live("db")[1] // one with a name of its own
		node := b.Node(lost.Spec.NodeName)
		there := node.Running()
		if !slices.Contains(there, "default/"+lost.Name) {
			t.Fatalf("%s does not run on its node: %v", lost.Name, there)
		}
		node.CutOff()

		took := b.within(time.Minute, "the node is not ready", func() bool { return b.ready(lost.Spec.NodeName) == corev1.ConditionUnknown })
		if took < 40*time.Second {
			t.Errorf("a silent node was given up after %s", took)
		}
		b.within(10*time.Second, "the node is tainted", func() bool { return b.tainted(lost.Spec.NodeName, corev1.TaintNodeUnreachable) })
		b.within(10*time.Second, "its pods are taken for not ready", func() bool {
			return !slices.ContainsFunc(b.live("web"), func(p corev1.Pod) bool { return p.Spec.NodeName == lost.Spec.NodeName })
		})
		if got := len(b.pods("web")); got != 3 {
			t.Errorf("%d pods while their tolerations hold, want 3", got)
		}
		took = b.within(3*time.Minute, "pods come up elsewhere", func() bool { return len(b.live("web")) == 3 })
		if len(there) > 1 && took < 110*time.Second {
			t.Errorf("pods that tolerate 120 s were evicted after %s", took)
		}
		for _, p := range b.live("web") {
			if p.Spec.NodeName == lost.Spec.NodeName {
				t.Errorf("%s runs on the lost node", p.Name)
			}
		}
		if got := node.Running(); !slices.Equal(got, there) {
			t.Errorf("on the node run %v, did run %v: nobody could tell it to end them", got, there)
		}

		// An hour later there is still one of that name, and no second.
		time.Sleep(time.Hour)
		still := b.pod(lost.Name)
		if still.UID != lost.UID || still.DeletionTimestamp == nil {
			t.Errorf("%s: uid %s, was %s, deleted at %v: it may run twice", lost.Name, still.UID, lost.UID, still.DeletionTimestamp)
		}
		if got := b.runningEverywhere("default/" + lost.Name); got != 1 {
			t.Errorf("%s runs %d times", lost.Name, got)
		}

		node.Return()
		b.within(2*time.Minute, "the old pods are gone, and the one of that name is back", func() bool {
			return len(b.pods("web")) == 3 && len(b.pods("db")) == 3 && len(b.live("db")) == 3 && len(b.live("web")) == 3
		})
		if again := b.pod(lost.Name); again.UID == lost.UID {
			t.Errorf("%s is the old one", lost.Name)
		}
		for _, name := range node.Running() {
			p := b.pod(strings.TrimPrefix(name, "default/"))
			if p.Spec.NodeName != lost.Spec.NodeName {
				t.Errorf("%s still runs on the node that was lost, and on %s", name, p.Spec.NodeName)
			}
		}
		if b.ready(lost.Spec.NodeName) != corev1.ConditionTrue || b.tainted(lost.Spec.NodeName, corev1.TaintNodeUnreachable) {
			t.Error("the node that returned is not ready, or still tainted")
		}
	})
}

// At no moment two instances of a pod's name run, whatever becomes of the nodes
// and whoever deletes the pods, as long as nobody does so by force.
func TestOneInstanceOfAName(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	inBubble(t, skifftest.Config{Nodes: 3, Logger: slog.New(slog.DiscardHandler)}, func(b *bubble) {
		three := int32(3)
		b.ok(b.AppsV1().StatefulSets("default").Create(b.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
			Spec: appsv1.StatefulSetSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template("db"),
				PodManagementPolicy: appsv1.ParallelPodManagement}}, metav1.CreateOptions{}))
		b.within(time.Minute, "all pods are ready", func() bool { return len(b.live("db")) == 3 })
		instances := map[string]bool{} // of all names, by UID
		alone := func() {
			t.Helper()
			for _, p := range b.live("db") {
				instances[string(p.UID)] = true
			}
			for _, name := range []string{"default/db-0", "default/db-1", "default/db-2"} {
				if n := b.runningEverywhere(name); n > 1 {
					t.Fatalf("%s runs %d times", name, n)
				}
			}
		}
		cut := map[string]bool{}
		for range 25 {
			name := fmt.Sprint("node-", 1+r.IntN(3))
			switch {
			case r.IntN(3) == 0:
				pod := fmt.Sprint("db-", r.IntN(3))
				if err := b.CoreV1().Pods("default").Delete(b.ctx, pod, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					t.Fatal(err)
				}
			case cut[name]:
				b.Node(name).Return()
				delete(cut, name)
			default:
				b.Node(name).CutOff()
				cut[name] = true
			}
			// Also for longer than it takes to give a node up and to evict its pods.
			for range []int{1, 10, 45, 240}[r.IntN(4)] {
				time.Sleep(time.Second)
				synctest.Wait()
				alone()
			}
		}
		for name := range cut {
			b.Node(name).Return()
		}
		b.within(10*time.Minute, "all pods are back", func() bool { alone(); return len(b.live("db")) == 3 })
		if len(instances) < 5 {
			t.Errorf("only %d instances ever were: nothing was tried", len(instances))
		}
	})
}

func (b *bubble) node(name string) *corev1.Node {
	b.t.Helper()
	n, err := b.CoreV1().Nodes().Get(b.ctx, name, metav1.GetOptions{})
	b.ok(nil, err)
	return n
}

func (b *bubble) ready(node string) corev1.ConditionStatus {
	for _, c := range b.node(node).Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func (b *bubble) tainted(node, taint string) bool {
	return slices.ContainsFunc(b.node(node).Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint && t.Effect == corev1.TaintEffectNoExecute })
}

func (b *bubble) pod(name string) *corev1.Pod {
	b.t.Helper()
	p, err := b.CoreV1().Pods("default").Get(b.ctx, name, metav1.GetOptions{})
	b.ok(nil, err)
	return p
}

// runningEverywhere counts the nodes on which a pod of that name has running
// containers.
func (b *bubble) runningEverywhere(pod string) (n int) {
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		if slices.Contains(b.Node(name).Running(), pod) {
			n++
		}
	}
	return n
}

// A pod that was there before the first node gets it as soon as it is ready.
func TestThePodWasThereBeforeTheNode(t *testing.T) {
	inBubble(t, skifftest.Config{Nodes: -1}, func(b *bubble) {
		b.within(time.Second, "the service account is there", func() bool {
			_, err := b.CoreV1().ServiceAccounts("default").Get(b.ctx, "default", metav1.GetOptions{})
			return err == nil
		})
		pods := b.CoreV1().Pods("default")
		b.ok(pods.Create(b.ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "early"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{}))
		early := func() *corev1.Pod {
			p, err := pods.Get(b.ctx, "early", metav1.GetOptions{})
			b.ok(nil, err)
			return p
		}
		b.within(time.Second, "the pod is refused", func() bool {
			return slices.ContainsFunc(early().Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Message == "no nodes available to schedule pods"
			})
		})
		room := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("10")}
		b.ok(b.CoreV1().Nodes().Create(b.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}}, metav1.CreateOptions{}))
		b.within(10*time.Second, "the pod has a node", func() bool { return early().Spec.NodeName == "late" })
	})
}
