package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	helpers "k8s.io/component-helpers/resource"

	"skiff/api/core"
)

// podNames are the names that pods count for, beside those of huge pages and of
// devices.
var podNames = map[corev1.ResourceName]bool{
	"count/pods": true, corev1.ResourcePods: true,
	corev1.ResourceCPU: true, corev1.ResourceRequestsCPU: true, corev1.ResourceLimitsCPU: true,
	corev1.ResourceMemory: true, corev1.ResourceRequestsMemory: true, corev1.ResourceLimitsMemory: true,
	corev1.ResourceEphemeralStorage: true, corev1.ResourceRequestsEphemeralStorage: true, corev1.ResourceLimitsEphemeralStorage: true,
}

var pods = &Measure{
	counts: func(name corev1.ResourceName) bool {
		return podNames[name] || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) ||
			strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) || requestsDevice(name)
	},
	use:     func(obj runtime.Object, now time.Time) corev1.ResourceList { return usePod(obj.(*corev1.Pod), now) },
	inScope: podInScope,
	missing: func(names []corev1.ResourceName, obj runtime.Object) error {
		return missingOfPod(names, obj.(*corev1.Pod))
	},
	charged: func(verb, subresource string, obj, old runtime.Object) bool {
		switch subresource {
		case "":
			return verb == "create" || hasDeadline(obj.(*corev1.Pod)) != hasDeadline(old.(*corev1.Pod))
		case "resize":
			return verb == "update"
		}
		return false
	},
}

// requestsDevice: requests.example.com/gpu, and the like with a device class.
func requestsDevice(name corev1.ResourceName) bool {
	rest, ok := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return ok && (!native(name) || strings.HasPrefix(rest, resourcev1.ResourceDeviceClassPrefix))
}

// native tells Kubernetes' own resources from those of devices.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// device tells whether a container's resource is a device.
func device(name corev1.ResourceName) bool {
	if strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix) {
		return true
	}
	return !native(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// GivenUp tells since when a pod that is being deleted no longer counts, though
// it is still there: its time is over, and nobody has ended it.
func GivenUp(pod *corev1.Pod) (at time.Time, ok bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil || ended(pod) {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// usePod returns what a pod uses: nothing but its place in the store, when it has
// ended or should have.
func usePod(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	if at, ok := GivenUp(pod); ended(pod) || ok && now.After(at) {
		return corev1.ResourceList{"count/pods": number(1)}
	}
	// What a resize asks for, and what the node has granted, both count.
	options := helpers.PodResourcesOptions{UseStatusResources: true}
	use := computed(helpers.PodRequests(pod, options), helpers.PodLimits(pod, options))
	use["count/pods"] = number(1)
	return use
}

// computed names requests and limits as quotas do.
func computed(requests, limits corev1.ResourceList) corev1.ResourceList {
	use := corev1.ResourceList{corev1.ResourcePods: number(1)}
	for name, amount := range requests {
		asRequest := corev1.ResourceName(corev1.DefaultResourceRequestsPrefix + string(name))
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			use[name], use[asRequest] = amount, amount
		case device(name):
			use[asRequest] = amount
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if amount, ok := limits[name]; ok {
			use[corev1.ResourceName("limits."+string(name))] = amount
		}
	}
	return use
}

// mustSay are the names that each container has to say something about when a
// quota limits them. Others were added later and are taken as zero.
var mustSay = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceRequestsCPU: true, corev1.ResourceLimitsCPU: true,
	corev1.ResourceMemory: true, corev1.ResourceRequestsMemory: true, corev1.ResourceLimitsMemory: true,
}

// missingOfPod says which containers do not say what a quota counts.
func missingOfPod(names []corev1.ResourceName, pod *corev1.Pod) error {
	if helpers.IsPodLevelResourcesSet(pod) {
		return nil
	}
	silent := map[corev1.ResourceName]map[string]bool{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			said := computed(containers[i].Resources.Requests, containers[i].Resources.Limits)
			for _, name := range names {
				if _, ok := said[name]; ok || !mustSay[name] {
					continue
				}
				if silent[name] == nil {
					silent[name] = map[string]bool{}
				}
				silent[name][containers[i].Name] = true
			}
		}
	}
	if len(silent) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Sorted(maps.Keys(silent[name])), ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func hasDeadline(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func podInScope(scope *corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
	pod := obj.(*corev1.Pod)
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return hasDeadline(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !hasDeadline(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		if pod.Spec.PriorityClassName == "" {
			return selects(scope)
		}
		return selects(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(pod.Spec.Affinity)
	}
	return false
}

func bestEffort(pod *corev1.Pod) bool {
	class := pod.Status.QOSClass
	if class == "" {
		class = core.QOSClass(pod)
	}
	return class == corev1.PodQOSBestEffort
}

// looksElsewhere: the affinity is to pods of other namespaces, too.
func looksElsewhere(affinity *corev1.Affinity) bool {
	if affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for i := range list {
			terms = append(terms, list[i].PodAffinityTerm)
		}
	}
	if a := affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
