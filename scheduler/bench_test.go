package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkDecide is one decision, with the pod placed, on 5,000 nodes in 50 zones:
// what the scheduler itself costs, without the API.
func BenchmarkDecide(b *testing.B) {
	for _, kind := range []struct {
		name  string
		shape func(*corev1.Pod)
	}{
		{"basic", func(*corev1.Pod) {}},
		{"spreading", spread(5, corev1.LabelTopologyZone)},
		{"zone-affinity", together(corev1.LabelTopologyZone)},
		{"anti-affinity", apart(corev1.LabelHostname)},
	} {
		b.Run(kind.name, func(b *testing.B) {
			const nodes = 5000
			fill := func() *state {
				s := world(nil, nil)
				for i := range nodes {
					n := node(fmt.Sprintf("n%04d", i), inZone(fmt.Sprint("z", i%50)))
					n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("100")
					s.setNode(n.Name, n)
				}
				return s
			}
			s := fill()
			b.ReportAllocs()
			placed := 0
			for i := 0; b.Loop(); i++ {
				if placed == 4000 { // the room and the domains shall not run out
					b.StopTimer()
					s, placed = fill(), 0
					b.StartTimer()
				}
				p := pod(fmt.Sprint("p", i), asks("10m", "10Mi"), kind.shape)
				p.UID = types.UID(p.Name)
				at, refused := s.choose(p, first)
				if refused != nil {
					b.Fatal(refused)
				}
				s.place(p, at, true)
				placed++
			}
		})
	}
}
