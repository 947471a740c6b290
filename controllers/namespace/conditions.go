package namespace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tell writes into the namespace's status what still holds it.
func (e ending) tell(ctx context.Context, ns *corev1.Namespace, left content) error {
	next := ns.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	next.Status.Conditions = conditions(ns.Status.Conditions, left, time.Now())
	if apiequality.Semantic.DeepEqual(ns.Status, next.Status) {
		return nil
	}
	_, err := e.c.Client.Update(ctx, "status", next)
	return err
}

// conditions says in five conditions, which are all there from the first round,
// how far the deletion is.
func conditions(have []corev1.NamespaceCondition, left content, now time.Time) []corev1.NamespaceCondition {
	states := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Status: corev1.ConditionFalse, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Status: corev1.ConditionFalse, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionFalse, Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionFalse, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
	}
	fail := func(i int, reason, message string) {
		states[i].Status, states[i].Reason, states[i].Message = corev1.ConditionTrue, reason, message
	}
	if n := len(left.errs); n > 0 {
		var texts []string
		for _, err := range left.errs {
			texts = append(texts, err.Error())
		}
		slices.Sort(texts)
		fail(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", n, strings.Join(texts, ", ")))
	}
	if len(left.remaining) > 0 {
		var texts []string
		for r, n := range left.remaining {
			texts = append(texts, fmt.Sprintf("%s.%s has %d resource instances", r.Name, r.Group, n))
		}
		slices.Sort(texts)
		fail(3, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(texts, ", "))
	}
	if len(left.finalizers) > 0 {
		var texts []string
		for f, n := range left.finalizers {
			texts = append(texts, fmt.Sprintf("%s in %d resource instances", f, n))
		}
		slices.Sort(texts)
		fail(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(texts, ", "))
	}
	out := slices.Clone(have)
	for _, state := range states {
		state.LastTransitionTime = metav1.NewTime(now)
		i := slices.IndexFunc(out, func(c corev1.NamespaceCondition) bool { return c.Type == state.Type })
		if i < 0 {
			out = append(out, state)
			continue
		}
		if out[i].Status == state.Status {
			state.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = state
	}
	return out
}
