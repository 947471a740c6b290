package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff/api/kind"
)

// Pod is the kind of what nodes run.
var Pod = kind.Of(kind.Spec[*corev1.Pod]{
	NameOnUpdate:   true,
	New:            func() *corev1.Pod { return &corev1.Pod{} },
	NewList:        func() runtime.Object { return &corev1.PodList{} },
	Default:        defaultPod,
	Create:         createPod,
	Update:         updatePod,
	Intent:         func(p *corev1.Pod) any { return &p.Spec },
	Validate:       validateNewPod,
	ValidateUpdate: validatePodUpdate,
	Subs: map[string]kind.Sub[*corev1.Pod]{
		"status":              {Update: updatePodStatus, Validate: validatePodStatus},
		"ephemeralcontainers": {NameOnUpdate: true, AnyFinalizer: true, Update: addEphemeralContainers, Validate: validateEphemeralContainers},
		"resize":              {NameOnUpdate: true, AnyFinalizer: true, Update: resizePod, Validate: validateResize},
	},
	Warn: warnPod,
	Fields: func(p *corev1.Pod) fields.Set {
		ip := p.Status.PodIP
		if len(p.Status.PodIPs) > 0 {
			ip = p.Status.PodIPs[0].IP
		}
		return fields.Set{
			"spec.nodeName":            p.Spec.NodeName,
			"spec.restartPolicy":       string(p.Spec.RestartPolicy),
			"spec.schedulerName":       p.Spec.SchedulerName,
			"spec.serviceAccountName":  p.Spec.ServiceAccountName,
			"spec.hostNetwork":         boolText(p.Spec.HostNetwork),
			"status.phase":             string(p.Status.Phase),
			"status.podIP":             ip,
			"status.nominatedNodeName": p.Status.NominatedNodeName,
		}
	},
	Columns: podColumns,
	Row:     podRow,
})

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func createPod(p *corev1.Pod) {
	p.Status = corev1.PodStatus{Phase: corev1.PodPending}
	dropUnreleased(&p.Spec, nil)
	dropInitAnnotations(p.Annotations)
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: metav1.Now(),
		}}
	}
	mergeLabelKeys(p)
	appArmorFromAnnotations(p)
	defaultWholeResources(&p.Spec)
	p.Status.QOSClass = QOSClass(p)
}

func updatePod(p, old *corev1.Pod) {
	p.Status = old.Status
	keepWholeResources(p, old)
	dropUnreleased(&p.Spec, &old.Spec)
	dropInitAnnotations(p.Annotations)
}

// keepWholeResources: a client that does not know the pod's own resources does not
// clear them.
func keepWholeResources(p, old *corev1.Pod) {
	if p.Spec.Resources == nil && old.Spec.Resources != nil {
		p.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
}

func updatePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.DeletionTimestamp = nil // apiserver carries it over
	p.OwnerReferences = old.OwnerReferences
	s := &p.Status
	setDefault(&s.QOSClass, old.Status.QOSClass)
	// What a node that does not know these fields sends clears nothing.
	if s.ResourceClaimStatuses == nil {
		s.ResourceClaimStatuses = old.Status.ResourceClaimStatuses
	}
	if s.ExtendedResourceClaimStatus == nil {
		s.ExtendedResourceClaimStatus = old.Status.ExtendedResourceClaimStatus
	}
	if s.NodeAllocatableResourceClaimStatuses == nil {
		s.NodeAllocatableResourceClaimStatuses = old.Status.NodeAllocatableResourceClaimStatuses
	}
	setDefault(&s.ObservedGeneration, old.Status.ObservedGeneration)
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = storedGeneration(s.Conditions[:i], old.Status.Conditions, c.Type)
		}
	}
	dropUnreleasedStatus(s, &old.Status)
}

// storedGeneration is the generation of the stored condition that answers to the
// one after before: types may come several times.
func storedGeneration(before, old []corev1.PodCondition, t corev1.PodConditionType) int64 {
	skip := 0
	for i := range before {
		if before[i].Type == t {
			skip++
		}
	}
	for i := range old {
		if old[i].Type != t {
			continue
		}
		if skip == 0 {
			return old[i].ObservedGeneration
		}
		skip--
	}
	return 0
}

func addEphemeralContainers(p, old *corev1.Pod) {
	added := p.Spec.EphemeralContainers
	p.Spec, p.Status = old.Spec, old.Status
	p.Spec.EphemeralContainers = added
	metav1.ResetObjectMetaForStatus(p, old)
	dropUnreleased(&p.Spec, &old.Spec)
}

func resizePod(p, old *corev1.Pod) {
	// Containers that come, go or change places are left for validation to refuse.
	if len(p.Spec.Containers) == len(old.Spec.Containers) && len(p.Spec.InitContainers) == len(old.Spec.InitContainers) {
		whole := p.Spec.Resources
		containers, inits := resized(p.Spec.Containers, old.Spec.Containers), resized(p.Spec.InitContainers, old.Spec.InitContainers)
		p.Spec, p.Status = old.Spec, old.Status
		p.Spec.Resources, p.Spec.Containers, p.Spec.InitContainers = whole, containers, inits
		metav1.ResetObjectMetaForStatus(p, old)
	}
	keepWholeResources(p, old)
	defaultWholeResources(&p.Spec)
	dropUnreleased(&p.Spec, &old.Spec)
}

// resized is old with the resources and resize policies of now.
func resized(now, old []corev1.Container) []corev1.Container {
	out := slices.Clone(old)
	for i := range now {
		if out[i].Name != now[i].Name {
			return now
		}
		out[i].Resources, out[i].ResizePolicy = now[i].Resources, now[i].ResizePolicy
	}
	return out
}

// mergeLabelKeys puts the pod's own values of matchLabelKeys into the selectors
// beside them, so that the scheduler need not know about them.
func mergeLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if s == nil {
			return
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i := range hard {
			term(&hard[i])
		}
		for i := range soft {
			term(&soft[i].PodAffinityTerm)
		}
	}
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// appArmorFromAnnotations fills the field where only the annotation of older
// versions is set.
func appArmorFromAnnotations(p *corev1.Pod) {
	if len(p.Annotations) == 0 || p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	var ofPod *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		ofPod = p.Spec.SecurityContext.AppArmorProfile
	}
	for c := range containersOf(&p.Spec) {
		text, ok := p.Annotations[appArmorPrefix+c.Name]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			continue
		}
		profile := appArmorProfile(text)
		if profile == nil || equality.Semantic.DeepEqual(profile, ofPod) {
			continue
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	}
}

// appArmorProfile is the field that says what an annotation says; nil if none does.
func appArmorProfile(text string) *corev1.AppArmorProfile {
	file, local := strings.CutPrefix(text, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case text == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case text == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case local && file != "" && strings.TrimSpace(file) == file && len(file) <= 4095:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &file}
	}
	return nil
}

// defaultWholeResources completes the resources of a pod as a whole from those of
// its containers. It is done on create, not by Default: only then have webhooks
// added their containers.
func defaultWholeResources(s *corev1.PodSpec) {
	whole := s.Resources
	if whole == nil || len(whole.Requests) == 0 && len(whole.Limits) == 0 {
		return
	}
	containers := &corev1.Pod{Spec: corev1.PodSpec{Containers: s.Containers, InitContainers: s.InitContainers}}
	limits := resourcehelper.AggregateContainerLimits(containers, resourcehelper.PodResourcesOptions{})
	for name, q := range limits {
		if _, ok := whole.Requests[name]; !ok && isHugePages(name) {
			addIfMissing(&whole.Limits, name, q)
		}
	}
	for name, q := range resourcehelper.AggregateContainerRequests(containers, resourcehelper.PodResourcesOptions{}) {
		if resourcehelper.IsSupportedPodLevelResource(name) && mayOvercommit(name) {
			addIfMissing(&whole.Requests, name, q)
		}
	}
	for name, q := range whole.Limits {
		if resourcehelper.IsSupportedPodLevelResource(name) {
			addIfMissing(&whole.Requests, name, q)
		}
	}
	for name, asked := range whole.Requests {
		sum, ok := limits[name]
		if !ok || !resourcehelper.IsSupportedPodLevelResource(name) || !allLimit(s, name) {
			continue
		}
		if asked.Cmp(sum) > 0 {
			sum = asked
		}
		addIfMissing(&whole.Limits, name, sum)
	}
}

func addIfMissing(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if _, ok := (*list)[name]; ok {
		return
	}
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q.DeepCopy()
}

// allLimit tells whether every container has a limit of a resource.
func allLimit(s *corev1.PodSpec, name corev1.ResourceName) bool {
	for c := range containersOf(s) {
		if _, ok := c.Resources.Limits[name]; !ok {
			return false
		}
	}
	return true
}

// QOSClass computes a pod's quality of service class from its requests and limits.
func QOSClass(p *corev1.Pod) corev1.PodQOSClass {
	if resourcehelper.IsPodLevelResourcesSet(p) {
		return classOf(p.Spec.Resources)
	}
	class := corev1.PodQOSClass("")
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			of := classOf(&list[i].Resources)
			if class != "" && of != class {
				return corev1.PodQOSBurstable
			}
			class = of
		}
	}
	if class == "" {
		return corev1.PodQOSBestEffort
	}
	return class
}

// classOf: guaranteed if all that counts is asked for and limited alike, best
// effort if nothing is, else burstable.
func classOf(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	equal, zero := 0, 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		asked, limit := r.Requests[name], r.Limits[name]
		switch {
		case asked.Cmp(limit) != 0:
			return corev1.PodQOSBurstable
		case asked.IsZero():
			zero++
		default:
			equal++
		}
	}
	switch {
	case zero == 0:
		return corev1.PodQOSGuaranteed
	case equal == 0:
		return corev1.PodQOSBestEffort
	}
	return corev1.PodQOSBurstable
}
