package scheduler

import (
	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/client"
)

// Verdicts says what the scheduler would make of a pod in a cluster of the given
// objects, with nothing done about it: the points of each node that fits, and, if
// none does, the message that the pod would be given. Preemption is not tried.
func Verdicts(cluster []api.Object, pod *corev1.Pod) (points map[string]int64, refused string) {
	s := newState(client.NewView())
	var rest client.Batch
	for _, obj := range cluster {
		switch o := obj.(type) {
		case *corev1.Node:
			s.setNode(o.Name, o)
		case *corev1.Pod:
		default:
			rest.Changes = append(rest.Changes, client.Change{Resource: api.Of(obj), New: obj})
		}
	}
	s.learn(rest)
	for _, obj := range cluster {
		if placed, ok := obj.(*corev1.Pod); ok && placed.Spec.NodeName != "" {
			s.place(placed, placed.Spec.NodeName, false)
		}
	}
	c := s.classOf(pod)
	passed, why := s.filter(c, pod)
	if len(passed) == 0 {
		return nil, why.String()
	}
	points = make(map[string]int64, len(passed))
	for i, sum := range s.sums(c, passed) {
		points[passed[i].name] = sum
	}
	return points, ""
}
