// Package replicaset keeps as many pods as a ReplicaSet asks for. The same
// decision serves ReplicationControllers (replication.go).
package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	return loop.Controller{
		Name:    "replicaset-controller",
		Reads:   []*api.Resource{api.For[*appsv1.ReplicaSet](), api.For[*corev1.Pod]()},
		Writes:  []string{"pods", "replicasets/status"},
		Indexes: []client.Index{workload.PodsByOwner(), workload.PodsOrphaned()},
		Keys:    workload.KeysOf[*appsv1.ReplicaSet](func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }),
		Decide:  Decide,
		Refused: refused,
	}
}

// refusal is the memory: why the last plan could not create or delete pods.
type refusal struct{ reason, message string }

// refused notes for the condition ReplicaFailure that a pod was refused.
func refused(m loop.Memory, w loop.Write, err error) loop.Memory {
	switch w.Verb() {
	case "create":
		return refusal{"FailedCreate", err.Error()}
	case "delete":
		return refusal{"FailedDelete", err.Error()}
	}
	return m
}

// set is what ReplicaSets and ReplicationControllers have in common.
type set struct {
	object          api.Object
	selector        labels.Selector
	template        *corev1.PodTemplateSpec
	replicas        int32
	minReadySeconds int32
}

// Decide keeps the ReplicaSet's pods and status.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	rs, ok := client.Find[*appsv1.ReplicaSet](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return loop.Plan{}, nil // validation does not let it in
	}
	s := set{object: rs, selector: selector, template: &rs.Spec.Template, replicas: *rs.Spec.Replicas, minReadySeconds: rs.Spec.MinReadySeconds}
	plan, pods, complete := decidePods(v, s, now)
	failure, _ := m.(refusal)
	if complete {
		failure = refusal{} // as many as asked for: what was refused no longer matters
	}

	status := statusOf(s, pods, now)
	next := rs.DeepCopy()
	next.Status.ObservedGeneration = rs.Generation
	next.Status.Replicas = status.replicas
	next.Status.FullyLabeledReplicas = status.fullyLabelled
	next.Status.ReadyReplicas = status.ready
	next.Status.AvailableReplicas = status.available
	next.Status.TerminatingReplicas = &status.terminating
	next.Status.Conditions = conditions(rs.Status.Conditions, failure, now)
	if !apiequality.Semantic.DeepEqual(rs.Status, next.Status) {
		plan.Writes = append([]loop.Write{statusWrite(next)}, plan.Writes...)
	}
	plan.WakeAt = status.availableAt
	if failure == (refusal{}) {
		return plan, nil
	}
	return plan, failure
}

// statusWrite comes before the pods, so that it is made even where they are
// refused. The numbers are what was seen, not what is hoped for; an owner that
// changed meanwhile is decided about again anyway.
func statusWrite(obj api.Object) loop.Write {
	w := loop.UpdateStatus(obj)
	w.Optional = true
	return w
}

// decidePods adopts, releases, creates and deletes pods. complete tells that
// there are as many as asked for.
func decidePods(v *client.View, s set, now time.Time) (plan loop.Plan, pods []*corev1.Pod, complete bool) {
	claims := workload.Claim(v, s.object, s.selector)
	plan.Writes = claims.Writes
	if s.object.GetDeletionTimestamp() != nil || len(claims.Writes) > 0 {
		return plan, claims.Pods, false // count again when what was adopted is seen
	}
	var mine []*corev1.Pod
	for _, pod := range claims.Pods {
		if workload.Active(pod) {
			mine = append(mine, pod)
		}
	}
	diff := len(mine) - int(s.replicas)
	if diff > 0 {
		for _, pod := range surplus(v, s, mine, min(diff, workload.Burst), now) {
			plan.Writes = append(plan.Writes, workload.DeletePod(s.object, pod))
		}
	}
	for range min(-diff, workload.Burst) {
		plan.Writes = append(plan.Writes, workload.CreatePod(s.object, s.template))
	}
	return plan, claims.Pods, diff == 0
}

// surplus chooses n pods to delete: those that cost users least first, as
// "Scaling a ReplicaSet" documents it.
func surplus(v *client.View, s set, pods []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(pods) {
		return pods
	}
	together := podsPerNode(v, s, pods)
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return workload.CompareForDeletion(a, b, together, now)
	})
	return sorted[:n]
}

// podsPerNode counts the active pods of all ReplicaSets of the same owner on each
// node, so that a rollout shrinks where most of the application is.
func podsPerNode(v *client.View, s set, pods []*corev1.Pod) map[string]int {
	count := map[string]int{}
	owner := loop.ControllerOf(s.object)
	if owner == nil {
		for _, pod := range pods {
			count[pod.Spec.NodeName]++
		}
		return count
	}
	for rs := range client.All[*appsv1.ReplicaSet](v, s.object.GetNamespace()) {
		if !loop.ControlledBy(rs, owner.UID) {
			continue
		}
		for pod := range workload.PodsOf(v, rs) {
			if workload.Active(pod) {
				count[pod.Spec.NodeName]++
			}
		}
	}
	return count
}

type numbers struct {
	replicas, fullyLabelled, ready, available, terminating int32
	availableAt                                            time.Time // when another ready pod counts as available
}

func statusOf(s set, pods []*corev1.Pod, now time.Time) (n numbers) {
	template := labels.Set(s.template.Labels).AsSelectorPreValidated()
	for _, pod := range pods {
		if !workload.Active(pod) {
			if pod.DeletionTimestamp != nil && !workload.Finished(pod) {
				n.terminating++
			}
			continue
		}
		n.replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			n.fullyLabelled++
		}
		since, ready := workload.ReadySince(pod)
		if !ready {
			continue
		}
		n.ready++
		at := since.Add(time.Duration(s.minReadySeconds) * time.Second)
		if !now.Before(at) {
			n.available++
		} else if n.availableAt.IsZero() || at.Before(n.availableAt) {
			n.availableAt = at
		}
	}
	return n
}

// conditions keeps ReplicaFailure: there while pods are refused.
func conditions(have []appsv1.ReplicaSetCondition, failure refusal, now time.Time) []appsv1.ReplicaSetCondition {
	is := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	at := slices.IndexFunc(have, is)
	if at >= 0 && failure != (refusal{}) && have[at].Reason == failure.reason {
		return have // its text may differ by a name: not worth a write
	}
	out := slices.DeleteFunc(slices.Clone(have), is)
	if failure != (refusal{}) {
		out = append(out, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			Reason: failure.reason, Message: failure.message, LastTransitionTime: metav1.NewTime(now),
		})
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
