// Package disruption keeps the status of PodDisruptionBudgets: how many of their
// pods are healthy and how many may be evicted now. Evictions themselves are the
// API server's; they subtract from the status that is written here.
package disruption

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// evictedWithin is how soon an evicted pod must be deleted; after it the eviction
// did not happen, and the pod counts again.
const evictedWithin = 2 * time.Minute

// Controller is the row of the table.
func Controller() loop.Controller {
	return loop.Controller{
		Name: "disruption-controller",
		Reads: []*api.Resource{
			api.For[*policyv1.PodDisruptionBudget](), api.For[*corev1.Pod](), api.For[*appsv1.Deployment](), api.For[*appsv1.ReplicaSet](),
			api.For[*appsv1.StatefulSet](), api.For[*corev1.ReplicationController](),
		},
		Writes: []string{"poddisruptionbudgets/status"},
		Keys:   keys,
		Decide: Decide,
	}
}

func keys(v *client.View, c client.Change) (out []loop.Key) {
	if c.Resource == api.For[*policyv1.PodDisruptionBudget]() {
		return []loop.Key{loop.KeyOf(c.Object())}
	}
	if c.Resource != api.For[*corev1.Pod]() && c.Old != nil && c.New != nil && scaleOf(c.Old) == scaleOf(c.New) {
		return nil
	}
	for pdb := range client.All[*policyv1.PodDisruptionBudget](v, c.Object().GetNamespace()) {
		if c.Resource != api.For[*corev1.Pod]() || selects(pdb, c.Old) || selects(pdb, c.New) {
			out = append(out, loop.KeyOf(pdb))
		}
	}
	return out
}

func selects(pdb *policyv1.PodDisruptionBudget, obj api.Object) bool {
	if obj == nil {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
	return err == nil && s.Matches(labels.Set(obj.GetLabels()))
}

// scaleOf is how many pods a workload wants.
func scaleOf(obj api.Object) int32 {
	var n *int32
	switch w := obj.(type) {
	case *appsv1.Deployment:
		n = w.Spec.Replicas
	case *appsv1.ReplicaSet:
		n = w.Spec.Replicas
	case *appsv1.StatefulSet:
		n = w.Spec.Replicas
	case *corev1.ReplicationController:
		n = w.Spec.Replicas
	}
	if n == nil {
		return 1
	}
	return *n
}

// Decide keeps the budget's status.
func Decide(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (plan loop.Plan, _ loop.Memory) {
	pdb, ok := client.Find[*policyv1.PodDisruptionBudget](v, key.Namespace, key.Name)
	if !ok {
		return plan, nil
	}
	var pods []*corev1.Pod
	for pod := range client.All[*corev1.Pod](v, pdb.Namespace) {
		if selects(pdb, pod) {
			pods = append(pods, pod)
		}
	}
	next := pdb.DeepCopy()
	next.Status.ObservedGeneration = pdb.Generation
	var late []*corev1.Pod
	next.Status.DisruptedPods, late, plan.WakeAt = disrupted(pdb, pods, now)
	for _, pod := range late {
		plan.Events = append(plan.Events, loop.Warning(pod, "NotDeleted", fmt.Sprintf("Pod was expected by PDB %s/%s to be deleted but it wasn't", pdb.Namespace, pdb.Name)))
	}
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, ObservedGeneration: pdb.Generation, LastTransitionTime: metav1.NewTime(now)}
	expected, desired, unmanaged, err := count(v, pdb, pods)
	if err != nil { // nobody may be evicted while it is not known how many there should be
		next.Status.DisruptionsAllowed = 0
		condition.Reason, condition.Message = policyv1.SyncFailedReason, err.Error()
		plan.Events = append(plan.Events, loop.Warning(pdb, "CalculateExpectedPodCountFailed", fmt.Sprintf("Failed to calculate the number of expected pods: %v", err)))
	} else {
		healthy := healthyOf(pods, next.Status.DisruptedPods)
		next.Status.CurrentHealthy, next.Status.DesiredHealthy, next.Status.ExpectedPods = healthy, desired, expected
		next.Status.DisruptionsAllowed = max(0, healthy-desired)
		if expected <= 0 {
			next.Status.DisruptionsAllowed = 0 // its first pods may be there before they are counted
		}
		condition.Reason = policyv1.InsufficientPodsReason
		if next.Status.DisruptionsAllowed > 0 {
			condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
		}
		if len(pods) == 0 {
			plan.Events = append(plan.Events, loop.Normal(pdb, "NoPods", "No matching pods found"))
		}
		if len(unmanaged) > 0 {
			plan.Events = append(plan.Events, loop.Warning(pdb, "UnmanagedPods", fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
				"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", pdb.Spec.Selector)))
		}
	}
	apimeta.SetStatusCondition(&next.Status.Conditions, condition)
	if apiequality.Semantic.DeepEqual(pdb.Status, next.Status) {
		plan.Events = nil // told of when it came to this
		return plan, nil
	}
	plan.Writes = append(plan.Writes, loop.UpdateStatus(next))
	return plan, nil
}

// disrupted keeps of the evicted pods those that may still be on their way out.
func disrupted(pdb *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (keep map[string]metav1.Time, late []*corev1.Pod, recheck time.Time) {
	for _, pod := range pods {
		at, listed := pdb.Status.DisruptedPods[pod.Name]
		if !listed || pod.DeletionTimestamp != nil {
			continue
		}
		end := at.Add(evictedWithin)
		if !now.Before(end) {
			late = append(late, pod)
			continue
		}
		if keep == nil {
			keep = map[string]metav1.Time{}
		}
		keep[pod.Name] = at
		if recheck.IsZero() || end.Before(recheck) {
			recheck = end
		}
	}
	return keep, late, recheck
}

func healthyOf(pods []*corev1.Pod, disrupted map[string]metav1.Time) (n int32) {
	for _, pod := range pods {
		if _, leaving := disrupted[pod.Name]; leaving || pod.DeletionTimestamp != nil {
			continue
		}
		if _, ready := workload.ReadySince(pod); ready {
			n++
		}
	}
	return n
}

// count returns how many pods there should be and how many must stay healthy.
func count(v *client.View, pdb *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, unmanaged []string, err error) {
	switch {
	case pdb.Spec.MaxUnavailable != nil:
		if expected, unmanaged, err = wanted(v, pods); err != nil {
			return 0, 0, nil, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(pdb.Spec.MaxUnavailable, int(expected), true)
		return expected, max(0, expected-int32(n)), unmanaged, err
	case pdb.Spec.MinAvailable == nil:
		return 0, 0, nil, nil
	case pdb.Spec.MinAvailable.Type == intstr.Int:
		return int32(len(pods)), pdb.Spec.MinAvailable.IntVal, nil, nil
	}
	if expected, unmanaged, err = wanted(v, pods); err != nil {
		return 0, 0, nil, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(pdb.Spec.MinAvailable, int(expected), true)
	return expected, int32(n), unmanaged, err
}

// wanted adds up the scales of the workloads that control the pods.
func wanted(v *client.View, pods []*corev1.Pod) (n int32, unmanaged []string, err error) {
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		ref := loop.ControllerOf(pod)
		if ref == nil {
			unmanaged = append(unmanaged, pod.Name)
			continue
		}
		owner := controllerOf(v, pod.Namespace, ref)
		if owner == nil {
			return 0, nil, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if rs, ok := owner.(*appsv1.ReplicaSet); ok {
			if ref := loop.ControllerOf(rs); ref != nil && ref.Kind == "Deployment" {
				d, ok := client.Find[*appsv1.Deployment](v, rs.Namespace, ref.Name)
				if !ok || d.UID != ref.UID {
					return 0, nil, errors.New("deployment of replica set " + rs.Name + " is not there")
				}
				owner = d // while it rolls out, its sets' scales add up to too many
			}
		}
		if !counted[owner.GetUID()] {
			counted[owner.GetUID()] = true
			n += scaleOf(owner)
		}
	}
	return n, unmanaged, nil
}

// controllerOf returns a workload of a kind that is known, or nil.
func controllerOf(v *client.View, namespace string, ref *metav1.OwnerReference) api.Object {
	for _, r := range []*api.Resource{api.For[*appsv1.ReplicaSet](), api.For[*appsv1.StatefulSet](), api.For[*corev1.ReplicationController](), api.For[*appsv1.Deployment]()} {
		if r.KindName == ref.Kind && r.GVK().GroupVersion().String() == ref.APIVersion {
			if obj := v.Lookup(r, namespace, ref.Name); obj != nil && obj.GetUID() == ref.UID {
				return obj
			}
		}
	}
	return nil
}

// Targets is the row that takes the condition DisruptionTarget back from pods that
// were to be disrupted and then were not.
func Targets() loop.Controller {
	return loop.Controller{
		Name:   "disruption-controller",
		Reads:  []*api.Resource{api.For[*corev1.Pod]()},
		Writes: []string{"pods/status"},
		Decide: decideTarget,
	}
}

func decideTarget(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	pod, ok := client.Find[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil || workload.Finished(pod) {
		return loop.Plan{}, nil
	}
	c := workload.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
		return loop.Plan{}, nil
	}
	if end := c.LastTransitionTime.Add(evictedWithin); now.Before(end) {
		return loop.Plan{WakeAt: end}, nil
	}
	return loop.Plan{Writes: []loop.Write{workload.PatchCondition(pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	})}}, nil
}
