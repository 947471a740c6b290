package deployment

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/controllers/loop"
)

// writeStatus plans the status, and the revision annotation, if they change.
func (r *rollout) writeStatus() {
	r.count()
	r.judgeAvailable()
	r.judgeProgress()
	if !maps.Equal(r.d.Annotations, r.next.Annotations) {
		// The annotation first and alone; its event brings the status.
		meta := r.d.DeepCopy()
		meta.Annotations = r.next.Annotations
		w := loop.Update(meta)
		w.Optional = true
		r.plan.Writes = append(r.plan.Writes, w)
		if r.sameStatus() {
			return
		}
	}
	if r.sameStatus() {
		return
	}
	status := r.next.DeepCopy() // its annotations too: a write of the status carries them
	if !maps.Equal(r.d.Annotations, r.next.Annotations) {
		status.ResourceVersion = "" // the write before this one raises it; only we write this status
	}
	w := loop.UpdateStatus(status)
	w.Optional = true
	w.Stage = 1
	r.plan.Writes = append(r.plan.Writes, w)
}

func (r *rollout) sameStatus() bool {
	return apiequality.Semantic.DeepEqual(r.d.Status, r.next.Status)
}

// count sums what the sets report.
func (r *rollout) count() {
	s := &r.next.Status
	s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.UpdatedReplicas = 0, 0, 0, 0
	var terminating int32
	for _, rs := range r.sets() {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating += *rs.Status.TerminatingReplicas
		}
	}
	s.TerminatingReplicas = &terminating
	if r.current != nil {
		s.UpdatedReplicas = r.current.Status.Replicas
	}
	s.UnavailableReplicas = max(0, replicasOf(r.sets()...)-s.AvailableReplicas)
}

// judgeAvailable sets the condition Available.
func (r *rollout) judgeAvailable() {
	_, unavailable := r.limits()
	if r.next.Status.AvailableReplicas >= *r.d.Spec.Replicas-unavailable {
		r.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
		return
	}
	r.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
}

// complete tells whether nothing is left to do.
func (r *rollout) complete() bool {
	r.count()
	want, s := *r.d.Spec.Replicas, r.next.Status
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && r.next.Status.ObservedGeneration >= r.d.Generation
}

// judgeProgress sets the conditions Progressing and ReplicaFailure.
func (r *rollout) judgeProgress() {
	r.judgeFailure()
	if r.d.DeletionTimestamp != nil {
		return
	}
	deadline := r.d.Spec.ProgressDeadlineSeconds
	limited := deadline != nil && *deadline != maxInt32
	if r.pausedOrResumed(limited) || !limited {
		return
	}
	have := condition(&r.next.Status, appsv1.DeploymentProgressing)
	settled := have != nil && have.Reason == "NewReplicaSetAvailable" && r.next.Status.Replicas == r.next.Status.UpdatedReplicas
	if settled && r.current != nil {
		return // a pod that fails later does not make the rollout fail
	}
	switch {
	case r.current != nil && r.complete():
		r.progressed("NewReplicaSetAvailable", fmt.Sprintf("ReplicaSet %q has successfully progressed.", r.current.Name))
	case r.moved():
		text := fmt.Sprintf("Deployment %q is progressing.", r.d.Name)
		if r.current != nil {
			text = fmt.Sprintf("ReplicaSet %q is progressing.", r.current.Name)
		}
		r.touch("ReplicaSetUpdated", text)
	default:
		r.judgeDeadline(time.Duration(*deadline) * time.Second)
	}
}

const maxInt32 = 1<<31 - 1

// pausedOrResumed notes a pause and its end; true: there is no progress to judge.
func (r *rollout) pausedOrResumed(limited bool) bool {
	have := condition(&r.next.Status, appsv1.DeploymentProgressing)
	if r.d.Spec.Paused {
		if limited && (have == nil || have.Reason != "DeploymentPaused") {
			r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
		}
		return true
	}
	if limited && have != nil && have.Reason == "DeploymentPaused" {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
		return true
	}
	return false
}

// moved tells whether more is done than when the status was last written.
func (r *rollout) moved() bool {
	was, is := r.d.Status, r.next.Status
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

// judgeDeadline says that the rollout takes too long, or when it will.
func (r *rollout) judgeDeadline(deadline time.Duration) {
	have := condition(&r.next.Status, appsv1.DeploymentProgressing)
	if have == nil {
		r.progressed("ReplicaSetUpdated", fmt.Sprintf("Deployment %q is progressing.", r.d.Name))
		return
	}
	if have.Reason == "ProgressDeadlineExceeded" {
		return
	}
	end := have.LastUpdateTime.Add(deadline)
	if r.now.Before(end) {
		r.plan.WakeAt = end
		return
	}
	text := fmt.Sprintf("Deployment %q has timed out progressing.", r.d.Name)
	if r.current != nil {
		text = fmt.Sprintf("ReplicaSet %q has timed out progressing.", r.current.Name)
	}
	r.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", text)
}

// judgeFailure shows what keeps a set from its pods.
func (r *rollout) judgeFailure() {
	if r.trouble.message != "" && r.current == nil {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", r.trouble.message)
	}
	for _, rs := range slices.Backward(r.sets()) {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				r.set(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	r.next.Status.Conditions = slices.DeleteFunc(r.next.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentReplicaFailure
	})
}

// progressed says that the rollout goes on.
func (r *rollout) progressed(reason, message string) {
	if d := r.d.Spec.ProgressDeadlineSeconds; d == nil || *d == maxInt32 {
		return
	}
	r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, message)
}

// touch is progressed, and moves the time from which the deadline counts.
func (r *rollout) touch(reason, message string) {
	r.progressed(reason, message)
	if c := condition(&r.next.Status, appsv1.DeploymentProgressing); c != nil {
		c.LastUpdateTime = metav1.NewTime(r.now)
	}
}

func condition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// set sets a condition; times move only when it changes.
func (r *rollout) set(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now)
	c := condition(&r.next.Status, kind)
	if c == nil {
		r.next.Status.Conditions = append(r.next.Status.Conditions, appsv1.DeploymentCondition{
			Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
		})
		return
	}
	if c.Status == status && c.Reason == reason {
		return
	}
	if c.Status != status {
		c.LastTransitionTime = now
	}
	c.Status, c.Reason, c.Message, c.LastUpdateTime = status, reason, message, now
}
