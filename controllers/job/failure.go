package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// podFailed tells whether the pod counts as failed. One that is being deleted
// does, since it may never come to fail by itself, unless the Job replaces only
// pods that have.
func (d *decision) podFailed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !d.replacesOnlyFailed() && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func (d *decision) replacesOnlyFailed() bool {
	p := d.job.Spec.PodReplacementPolicy
	return p != nil && *p == batchv1.Failed
}

// policyFailure says why the failure policy ends the Job, or nothing.
func (d *decision) policyFailure() string {
	for _, pod := range d.pods {
		if !d.podFailed(pod) {
			continue
		}
		if action, message := d.applyPolicy(pod); action == batchv1.PodFailurePolicyActionFailJob {
			return message
		}
	}
	return ""
}

// ignored tells whether the failure policy does not count the pod's failure.
func (d *decision) ignored(pod *corev1.Pod) bool {
	action, _ := d.applyPolicy(pod)
	return action == batchv1.PodFailurePolicyActionIgnore
}

// applyPolicy returns the action of the first rule that the failed pod meets.
func (d *decision) applyPolicy(pod *corev1.Pod) (action batchv1.PodFailurePolicyAction, message string) {
	if d.job.Spec.PodFailurePolicy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range d.job.Spec.PodFailurePolicy.Rules {
		switch {
		case rule.OnExitCodes != nil:
			if c := meetsCodes(pod, rule.OnExitCodes); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching %s rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
		case rule.OnPodConditions != nil:
			if c := meetsConditions(pod, rule.OnPodConditions); c != nil {
				return rule.Action, fmt.Sprintf("Pod %s/%s has condition %s matching %s rule at index %d", pod.Namespace, pod.Name, c.Type, rule.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// meetsCodes finds a container that ended with one of the codes.
func meetsCodes(pod *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, c := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		ended := c.State.Terminated
		if ended == nil || ended.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != c.Name {
			continue
		}
		in := slices.Contains(rule.Values, ended.ExitCode)
		if in == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return &c
		}
	}
	return nil
}

func meetsConditions(pod *corev1.Pod, rule []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		for _, p := range rule {
			if c.Type == p.Type && c.Status == p.Status {
				return &c
			}
		}
	}
	return nil
}
