package tainteviction

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{Taints: taints}}
}

func pod(tolerations ...corev1.Toleration) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations}}
}

func taint(key string, age time.Duration) corev1.Taint {
	t := corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute}
	if age >= 0 {
		at := metav1.NewTime(start.Add(-age))
		t.TimeAdded = &at
	}
	return t
}

func tolerate(key string, seconds int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

const never = time.Duration(-1)

func TestHowLongAPodStays(t *testing.T) {
	for _, c := range []struct {
		name string
		node *corev1.Node
		pod  *corev1.Pod
		want time.Duration
	}{
		{"no taint", node(), pod(), never},
		{"NoSchedule does not evict", node(corev1.Taint{Key: "a", Effect: corev1.TaintEffectNoSchedule}), pod(), never},
		{"not tolerated", node(taint("a", -1)), pod(), 0},
		{"tolerated for ever", node(taint("a", -1)), pod(tolerate("a", -1)), never},
		{"for 300 s", node(taint("a", 0)), pod(tolerate("a", 300)), 300 * time.Second},
		{"the shortest counts", node(taint("a", 0)), pod(tolerate("a", 300), tolerate("", 20)), 20 * time.Second},
		{"each taint has its own end", node(taint("a", 0), taint("b", 0)), pod(tolerate("a", 300), tolerate("b", 40)), 40 * time.Second},
		{"one of two is not tolerated", node(taint("a", 0), taint("b", 0)), pod(tolerate("a", 300)), 0},
		{"zero is at once", node(taint("a", 0)), pod(tolerate("a", 0)), 0},
		{"counted from when the taint was added, by whoever led then", node(taint("a", 100*time.Second)), pod(tolerate("a", 300)), 200 * time.Second},
		{"without a time, from when it is seen", node(taint("a", -1)), pod(tolerate("a", 300)), 300 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rehearsal.New(t, start, Controller())
			c.pod.CreationTimestamp = metav1.NewTime(start.Add(-time.Hour))
			w.Put(c.pod)
			w.Put(c.node)
			w.Settle()
			there := func() bool { _, ok := client.Find[*corev1.Pod](w.View, "x", "p"); return ok }
			if c.want == never {
				w.Advance(time.Hour)
				if !there() {
					t.Fatal("it is deleted")
				}
				return
			}
			if c.want > 0 {
				w.Advance(c.want - time.Second)
				if !there() {
					t.Fatal("it is deleted too early")
				}
				w.Advance(time.Second)
			}
			if there() {
				t.Fatal("it stays")
			}
		})
	}
}

func TestTheEvictedPodSaysWhy(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	p := pod()
	p.Finalizers = []string{"example.com/look"}
	w.Put(p)
	w.Put(node(taint("a", 0)))
	w.Settle()
	p, _ = client.Find[*corev1.Pod](w.View, "x", "p")
	if p.DeletionTimestamp == nil || len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Type != corev1.DisruptionTarget || p.Status.Conditions[0].Reason != "DeletionByTaintManager" {
		t.Errorf("deleted %v, conditions %v", p.DeletionTimestamp, p.Status.Conditions)
	}
	if want := []string{"TaintManagerEviction Marking for deletion Pod x/p"}; !slices.Equal(w.Events, want) {
		t.Errorf("events %q", w.Events)
	}
}

func TestATaintThatGoesInTimeSparesThePod(t *testing.T) {
	w := rehearsal.New(t, start, Controller())
	w.Put(pod(tolerate("a", 60)))
	w.Put(node(taint("a", 0)))
	w.Advance(50 * time.Second)
	w.Put(node())
	w.Advance(50 * time.Second)
	w.Put(node(taint("a", -1)))
	w.Advance(59 * time.Second)
	if _, ok := client.Find[*corev1.Pod](w.View, "x", "p"); !ok {
		t.Error("the time before counts")
	}
	if !slices.Contains(w.Events, "TaintManagerEviction Cancelling deletion of Pod x/p") {
		t.Errorf("events %q", w.Events)
	}
}
