package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

// The view's answers are those of a slow, obvious twin, after any changes.
func TestViewAgainstTwin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pods := api.For[*corev1.Pod]()
	v := NewView(Index{"node", pods, func(obj api.Object) []string {
		if node := obj.(*corev1.Pod).Spec.NodeName; node != "" {
			return []string{node}
		}
		return nil
	}})
	twin := map[string]*corev1.Pod{}
	for i := range 3000 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", random.IntN(3)), Name: fmt.Sprint("p", random.IntN(30))}}
		if n := random.IntN(4); n > 0 {
			pod.Spec.NodeName = fmt.Sprint("n", n)
		}
		key := pod.Namespace + "/" + pod.Name
		old := twin[key]
		c := Change{Resource: pods, New: pod, Revision: int64(i)}
		if old != nil {
			c.Old = old
		}
		if old != nil && random.IntN(3) == 0 {
			c.New = nil
			delete(twin, key)
		} else {
			twin[key] = pod
		}
		v.Apply(Batch{Changes: []Change{c}, Revision: int64(i)})

		if got, ok := Find[*corev1.Pod](v, pod.Namespace, pod.Name); got != twin[key] || ok != (twin[key] != nil) {
			t.Fatalf("step %d: Find %s = %v", i, key, got)
		}
	}
	expect := func(what string, got []*corev1.Pod, match func(*corev1.Pod) bool) {
		var want []*corev1.Pod
		for _, pod := range twin {
			if match(pod) {
				want = append(want, pod)
			}
		}
		slices.SortFunc(want, func(a, b *corev1.Pod) int { return compareNames(a, b) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d pods, want %d in order", what, len(got), len(want))
		}
	}
	for i := range 4 {
		node, ns := fmt.Sprint("n", i), fmt.Sprint("ns", i)
		expect(node, slices.Collect(By[*corev1.Pod](v, "node", node)), func(p *corev1.Pod) bool { return p.Spec.NodeName == node })
		expect(ns, slices.Collect(All[*corev1.Pod](v, ns)), func(p *corev1.Pod) bool { return p.Namespace == ns })
	}
	expect("all", slices.Collect(All[*corev1.Pod](v, "")), func(*corev1.Pod) bool { return true })
	if v.Revision() != 2999 {
		t.Errorf("revision %d", v.Revision())
	}
}
