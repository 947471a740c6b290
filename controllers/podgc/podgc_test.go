package podgc

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/rehearsal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
}

func there(w *rehearsal.World, name string) bool {
	_, ok := client.Find[*corev1.Pod](w.View, "x", name)
	return ok
}

func TestPodsOfANodeThatIsGone(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	w := rehearsal.New(t, start, Controller())
	w.Put(n)
	p := pod("p", "n")
	w.Put(p)
	w.Advance(time.Hour)
	w.Remove(n)
	w.Settle()
	w.Advance(30 * time.Second)
	w.Put(n) // it comes back in time
	w.Advance(time.Minute)
	if !there(w, "p") {
		t.Fatal("deleted, though the node came back")
	}
	w.Remove(n)
	w.Settle()
	w.Advance(39 * time.Second)
	if !there(w, "p") {
		t.Fatal("deleted too early")
	}
	var said *corev1.Pod
	w.Refuse = func(write loop.Write) error {
		if write.Verb() == "delete" {
			said, _ = client.Find[*corev1.Pod](w.View, "x", "p")
			if g := write.DeleteOptions().GracePeriodSeconds; g == nil || *g != 0 {
				t.Errorf("grace %v", g)
			}
		}
		return nil
	}
	w.Advance(time.Second)
	if there(w, "p") {
		t.Fatal("it stays")
	}
	if said.Status.Phase != corev1.PodFailed || said.Status.Conditions[0].Reason != "DeletionByPodGC" {
		t.Errorf("before: %+v", said.Status)
	}
}

func TestEndingPodsThatNobodyEnds(t *testing.T) {
	down := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "down"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}}}
	up := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "up"}}
	for node, want := range map[string]bool{"": false, "down": false, "up": true} {
		w := rehearsal.New(t, start, Controller())
		w.Put(down)
		w.Put(up)
		p := pod("p", node)
		now := metav1.NewTime(start)
		p.DeletionTimestamp = &now
		w.Put(p)
		w.Settle()
		if got := there(w, "p"); got != want {
			t.Errorf("on %q: there %v, want %v", node, got, want)
		}
	}
}

func TestTheOldestOfTheFinishedGo(t *testing.T) {
	w := rehearsal.New(t, start, controller(3))
	w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	for i := range 5 {
		p := pod(fmt.Sprint("p", i), "n")
		p.Status.Phase = corev1.PodSucceeded
		p.CreationTimestamp = metav1.NewTime(start.Add(-time.Duration(i) * time.Minute))
		w.Put(p)
	}
	w.Settle()
	for i := range 5 {
		if want := i < 3; there(w, fmt.Sprint("p", i)) != want {
			t.Errorf("p%d: there %v, want %v", i, !want, want)
		}
	}
}
