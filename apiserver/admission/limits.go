package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	helpers "k8s.io/component-helpers/resource"
)

// limitsAnnotation says what a LimitRange filled in.
const limitsAnnotation = "kubernetes.io/limit-ranger"

// limited tells whether LimitRanges speak about a write.
func limited(w *Write) bool {
	if w.Old != nil && w.Old.GetDeletionTimestamp() != nil {
		return false
	}
	switch w.Verb {
	case "create":
		return w.is("pods", "") || w.is("persistentvolumeclaims", "")
	case "update":
		return w.is("pods", "resize") || w.is("persistentvolumeclaims", "")
	}
	return false
}

// fillLimits gives containers the requests and limits that the namespace's
// LimitRanges have as defaults.
func (c cluster) fillLimits(_ context.Context, w *Write) error {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || !limited(w) {
		return nil
	}
	for ranges := range list[*corev1.LimitRange](c, w.Namespace) {
		requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
		for _, item := range ranges.Spec.Limits {
			if item.Type == corev1.LimitTypeContainer {
				maps.Copy(requests, item.DefaultRequest)
				maps.Copy(limits, item.Default)
			}
		}
		fillFrom(pod, requests, limits)
	}
	return nil
}

func fillFrom(pod *corev1.Pod, requests, limits corev1.ResourceList) {
	var notes []string
	note := func(set []string, what, kind, name string) {
		if len(set) > 0 {
			notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), what, kind, name))
		}
	}
	fill := func(containers []corev1.Container, kind string) {
		for i := range containers {
			r := &containers[i].Resources
			setLimits := addMissing(&r.Limits, limits)
			note(addMissing(&r.Requests, requests), "request", kind, containers[i].Name)
			note(setLimits, "limit", kind, containers[i].Name)
		}
	}
	fill(pod.Spec.Containers, "container")
	fill(pod.Spec.InitContainers, "init container")
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = make(map[string]string)
	}
	pod.Annotations[limitsAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// addMissing copies what into does not have, and names it, sorted.
func addMissing(into *corev1.ResourceList, from corev1.ResourceList) (set []string) {
	for name, quantity := range from {
		if _, ok := (*into)[name]; ok {
			continue
		}
		if *into == nil {
			*into = make(corev1.ResourceList)
		}
		(*into)[name] = quantity.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

// checkLimits refuses what the namespace's LimitRanges do not allow.
func (c cluster) checkLimits(_ context.Context, w *Write) error {
	if !limited(w) {
		return nil
	}
	for ranges := range list[*corev1.LimitRange](c, w.Namespace) {
		var errs []error
		for i := range ranges.Spec.Limits {
			item := &ranges.Spec.Limits[i]
			switch obj := w.Object.(type) {
			case *corev1.Pod:
				errs = append(errs, checkPod(item, obj)...)
			case *corev1.PersistentVolumeClaim:
				errs = append(errs, checkClaim(item, obj)...)
			}
		}
		if len(errs) > 0 {
			return w.forbid("%w", utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

func checkPod(item *corev1.LimitRangeItem, pod *corev1.Pod) (errs []error) {
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				errs = append(errs, checkUsage(item, containers[i].Resources.Requests, containers[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		errs = checkUsage(item, helpers.PodRequests(pod, helpers.PodResourcesOptions{ExcludeOverhead: true}),
			helpers.PodLimits(pod, helpers.PodResourcesOptions{ExcludeOverhead: true}))
	}
	return errs
}

// checkUsage compares requests and limits with one item's bounds.
func checkUsage(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, name := range sortedNames(item.Min) {
		errs = append(errs, atLeast(item.Type, name, item.Min[name], requests, limits))
	}
	for _, name := range sortedNames(item.Max) {
		errs = append(errs, atMost(item.Type, name, item.Max[name], requests, limits))
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		errs = append(errs, ratioAtMost(item.Type, name, item.MaxLimitRequestRatio[name], requests, limits))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// checkClaim compares what a claim requests; its limits do not count.
func checkClaim(item *corev1.LimitRangeItem, claim *corev1.PersistentVolumeClaim) (errs []error) {
	if item.Type != corev1.LimitTypePersistentVolumeClaim {
		return nil
	}
	requests := claim.Spec.Resources.Requests
	for _, name := range sortedNames(item.Min) {
		if err := atLeast(item.Type, name, item.Min[name], requests, nil); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range sortedNames(item.Max) {
		bound, have := item.Max[name], requests[name]
		_, ok := requests[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String()))
		case have.Cmp(bound) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), have.String()))
		}
	}
	return errs
}

func atLeast(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !requested:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, of, bound.String())
	case request.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, of, bound.String(), request.String())
	case limited && limit.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, of, bound.String(), limit.String())
	}
	return nil
}

func atMost(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, of, bound.String())
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, of, bound.String(), limit.String())
	case requested && request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, of, bound.String(), request.String())
	}
	return nil
}

func ratioAtMost(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, limit := requests[name], limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, of, bound.String())
	case limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, of, bound.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, of, bound.String(), ratio)
	}
	return nil
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(l)) }
