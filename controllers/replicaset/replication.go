package replicaset

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// Replication is the row of ReplicationControllers, which are ReplicaSets of an
// older shape.
func Replication() loop.Controller {
	return loop.Controller{
		Name:    "replication-controller",
		Reads:   []*api.Resource{api.For[*corev1.ReplicationController](), api.For[*corev1.Pod]()},
		Writes:  []string{"pods", "replicationcontrollers/status"},
		Indexes: []client.Index{workload.PodsByOwner(), workload.PodsOrphaned()},
		Keys: workload.KeysOf[*corev1.ReplicationController](func(rc *corev1.ReplicationController) *metav1.LabelSelector {
			return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
		}),
		Decide:  decideReplication,
		Refused: refused,
	}
}

func decideReplication(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	rc, ok := client.Find[*corev1.ReplicationController](v, key.Namespace, key.Name)
	if !ok || rc.Spec.Template == nil {
		return loop.Plan{}, nil
	}
	s := set{object: rc, selector: labels.SelectorFromSet(rc.Spec.Selector), template: rc.Spec.Template, replicas: *rc.Spec.Replicas, minReadySeconds: rc.Spec.MinReadySeconds}
	plan, pods, complete := decidePods(v, s, now)
	failure, _ := m.(refusal)
	if complete {
		failure = refusal{}
	}
	status := statusOf(s, pods, now)
	next := rc.DeepCopy()
	next.Status.ObservedGeneration = rc.Generation
	next.Status.Replicas = status.replicas
	next.Status.FullyLabeledReplicas = status.fullyLabelled
	next.Status.ReadyReplicas = status.ready
	next.Status.AvailableReplicas = status.available
	next.Status.Conditions = replicationConditions(rc.Status.Conditions, failure, now)
	if !apiequality.Semantic.DeepEqual(rc.Status, next.Status) {
		plan.Writes = append([]loop.Write{statusWrite(next)}, plan.Writes...)
	}
	plan.WakeAt = status.availableAt
	if failure == (refusal{}) {
		return plan, nil
	}
	return plan, failure
}

func replicationConditions(have []corev1.ReplicationControllerCondition, failure refusal, now time.Time) []corev1.ReplicationControllerCondition {
	is := func(c corev1.ReplicationControllerCondition) bool {
		return c.Type == corev1.ReplicationControllerReplicaFailure
	}
	at := slices.IndexFunc(have, is)
	if at >= 0 && failure != (refusal{}) && have[at].Reason == failure.reason {
		return have
	}
	out := slices.DeleteFunc(slices.Clone(have), is)
	if failure != (refusal{}) {
		out = append(out, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
			Reason: failure.reason, Message: failure.message, LastTransitionTime: metav1.NewTime(now),
		})
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
