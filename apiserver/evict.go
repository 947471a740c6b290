package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	kjson "sigs.k8s.io/json"

	"skiff/api"
	"skiff/cache"
)

var budgetRow = api.For[*policyv1.PodDisruptionBudget]()

const (
	// evictionAttempts is how often an eviction begins anew when the pod or its
	// budget changed meanwhile.
	evictionAttempts = 20
	// maxDisrupted is how many evictions a budget may have outstanding.
	maxDisrupted = 2000
)

// evict answers POST to pods/eviction: it deletes a pod, if the pod's disruption
// budget allows it.
func (s *Server) evict(ctx context.Context, r *Request) (*Result, error) {
	eviction, err := decodeEviction(r)
	if err != nil {
		return nil, err
	}
	if err := matchNamespace(r, eviction); err != nil {
		return nil, err
	}
	if r.Name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	one := *r
	if eviction.DeleteOptions != nil {
		one.DeleteOptions = *eviction.DeleteOptions
		one.Write.DryRun = r.Write.DryRun || len(eviction.DeleteOptions.DryRun) > 0
	}
	w := s.judged(&one, "create", eviction, nil)
	if err := s.admission.Mutate(ctx, w); err != nil {
		return nil, err
	}
	if err := s.admission.Validate(ctx, w); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		err := s.evictOnce(ctx, &one)
		if err == nil {
			return succeeded(), nil
		}
		pinned := one.DeleteOptions.Preconditions != nil && one.DeleteOptions.Preconditions.ResourceVersion != nil
		if !apierrors.IsConflict(err) || pinned || attempt == evictionAttempts || ctx.Err() != nil {
			return nil, err
		}
	}
}

// decodeEviction reads an Eviction, in the version that old clients still send too.
func decodeEviction(r *Request) (*policyv1.Eviction, error) {
	if eviction, ok := r.Body.Object.(*policyv1.Eviction); ok {
		return eviction, nil
	}
	kind := policyv1.SchemeGroupVersion.WithKind("Eviction")
	var head metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(r.Body.Bytes, &head); err == nil && head.APIVersion == "policy/v1beta1" {
		kind.Version = "v1beta1"
	}
	eviction := new(policyv1.Eviction)
	return eviction, r.decodeInto(kind, eviction)
}

// evictOnce judges the pod as it is now, and deletes just that version of it
// where the judgement depends on it.
func (s *Server) evictOnce(ctx context.Context, r *Request) error {
	entry, err := s.currentStored(ctx, podRow, r.Namespace, r.Name)
	if err != nil {
		return err
	}
	pod, ok := entry.Object().(*corev1.Pod)
	if !ok {
		return apierrors.NewInternalError(entry.Err())
	}
	if err := matchPreconditions(r, pod); err != nil {
		return err
	}
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if ended || pod.Status.Phase == corev1.PodPending {
		return s.deleteEvicted(ctx, r, entry, !ended)
	}
	budget, err := s.budgetOf(ctx, pod)
	if err != nil {
		return err
	}
	switch {
	case budget == nil:
		return s.deleteEvicted(ctx, r, entry, false)
	case unguarded(pod, budget.Object().(*policyv1.PodDisruptionBudget)):
		if err := s.deleteEvicted(ctx, r, entry, true); apierrors.IsConflict(err) {
			return budgetBusy(budget.Name()) // it may have become ready
		} else if err != nil {
			return err
		}
		return nil
	}
	if err := s.spend(ctx, r, budget.Name()); err != nil {
		return err
	}
	return s.deleteEvicted(ctx, r, entry, false)
}

// budgetOf returns the one budget that guards a pod; nil: there is none.
func (s *Server) budgetOf(ctx context.Context, pod *corev1.Pod) (*cache.Entry, error) {
	if err := s.fresh(ctx); err != nil {
		return nil, err
	}
	var found *cache.Entry
	for entry := range s.table(budgetRow).Snapshot().All(pod.Namespace) {
		budget, ok := entry.Object().(*policyv1.PodDisruptionBudget)
		if !ok {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."}}
		}
		found = entry
	}
	return found, nil
}

// unguarded tells whether a pod may go without costing its budget anything: it
// is not ready, and the budget either says so or is not in need.
func unguarded(pod *corev1.Pod, budget *policyv1.PodDisruptionBudget) bool {
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	if ready {
		return false
	}
	if p := budget.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

// spend takes one disruption from a budget, or refuses.
func (s *Server) spend(ctx context.Context, r *Request, name string) error {
	for attempt := 1; ; attempt++ {
		entry, err := s.currentStored(ctx, budgetRow, r.Namespace, name)
		if err != nil {
			return err
		}
		budget, ok := entry.Object().(*policyv1.PodDisruptionBudget)
		if !ok {
			return apierrors.NewInternalError(entry.Err())
		}
		if err := affords(budget); err != nil {
			return err
		}
		if r.Write.DryRun {
			return nil
		}
		budget = budget.DeepCopy()
		budget.Status.DisruptionsAllowed--
		if budget.Status.DisruptionsAllowed == 0 {
			poddisruptionbudget.UpdateDisruptionAllowedCondition(budget)
		}
		if budget.Status.DisruptedPods == nil {
			budget.Status.DisruptedPods = make(map[string]metav1.Time)
		}
		// The controller counts the pod as gone until it sees it go, or gives up waiting.
		budget.Status.DisruptedPods[r.Name] = now()
		_, err = s.put(ctx, budgetRow, budget, s.condition(r, budgetRow, entry.Revision()))
		if err == nil || !apierrors.IsConflict(err) {
			return err
		}
		if attempt == evictionAttempts {
			return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", name), 10)
		}
	}
}

// affords tells whether a budget allows one disruption more.
func affords(b *policyv1.PodDisruptionBudget) error {
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return budgetBusy(b.Name)
	case b.Status.DisruptionsAllowed < 0:
		return budgetBroken(b.Name, "pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return budgetBroken(b.Name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
			"too many pending evictions not confirmed by PDB controller")
	case b.Status.DisruptionsAllowed > 0:
		return nil
	}
	text := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	refused := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case refused && c.Reason == policyv1.SyncFailedReason:
		text += " because it failed sync: " + c.Message
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		text = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case refused:
		text += fmt.Sprintf(" (%s): %s", c.Reason, c.Message)
	}
	return tooManyEvictions(0, text)
}

func budgetBusy(name string) error {
	return tooManyEvictions(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", name))
}

func tooManyEvictions(retryAfter int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

func budgetBroken(name, why, cause string) error {
	err := apierrors.NewForbidden(schema.GroupResource{Group: "policy", Resource: "poddisruptionbudget"}, name, errors.New(why))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause,
		Message: fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", name, cause)})
	return err
}

// deleteEvicted deletes a pod and says in it that it was evicted. With exactly,
// only if it is still the version that was judged.
func (s *Server) deleteEvicted(ctx context.Context, r *Request, entry *cache.Entry, exactly bool) error {
	one := *r
	one.Verb = "delete"
	mark := func(obj api.Object) {
		setPodCondition(obj.(*corev1.Pod), corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"})
	}
	if exactly {
		_, err := s.deleteEntry(ctx, &one, entry, mark)
		return err
	}
	_, err := s.retry(ctx, &one, func(entry *cache.Entry) (*Result, error) {
		if entry == nil {
			return nil, apierrors.NewNotFound(podRow.GroupResource(), r.Name)
		}
		return s.deleteEntry(ctx, &one, entry, mark)
	})
	return err
}
