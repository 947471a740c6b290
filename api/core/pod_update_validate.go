package core

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// changeablePodFields is what the message about all other fields says.
const changeablePodFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate: of a pod's spec little may change.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	return collect(nil, func(root place) {
		lenient := leniencyTo(&old.Spec, &old.ObjectMeta)
		checkPod(root, pod, lenient)
		checkAnnotationChanges(root.child("metadata").child("annotations"), pod.Annotations, old.Annotations)
		p := root.child("spec")
		if !checkImages(p.child("containers"), pod.Spec.Containers, old.Spec.Containers) ||
			!checkImages(p.child("initContainers"), pod.Spec.InitContainers, old.Spec.InitContainers) ||
			!checkDeadlineChange(p, pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
			return
		}
		checkTolerationChange(p.child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations, lenient)
		for i, g := range pod.Spec.SchedulingGates {
			if !slices.Contains(old.Spec.SchedulingGates, g) && !slices.Contains(pod.Spec.SchedulingGates[i+1:], g) {
				p.child("schedulingGates").index(i).forbidden("name", "only deletion is allowed, but found new scheduling gate '"+g.Name+"'")
			}
		}
		if equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
			return
		}
		checkOtherChanges(p, &pod.Spec, &old.Spec)
	})
}

// checkImages tells whether the containers are the same ones.
func checkImages(p place, now, old []corev1.Container) bool {
	if len(now) != len(old) {
		p.forbidden("", "pod updates may not add or remove containers")
		return false
	}
	for i := range now {
		p.index(i).wants("image", now[i].Image)
		checkTrimmedImage(p.index(i), now[i].Image)
	}
	return true
}

// checkDeadlineChange: a deadline may be set and brought forward. It tells whether
// to look further.
func checkDeadlineChange(p place, now, old *int64) bool {
	switch {
	case now == nil && old != nil:
		p.invalid("activeDeadlineSeconds", now, "must not update from a positive integer to nil value")
	case now == nil:
	case *now < 0 || *now > math.MaxInt32:
		p.invalid("activeDeadlineSeconds", *now, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case old != nil && *old < *now:
		p.invalid("activeDeadlineSeconds", *now, "must be less than or equal to previous value")
		return false
	}
	return true
}

func checkTolerationChange(p place, now, old []corev1.Toleration, lenient podLeniency) {
	for _, o := range old {
		kept := slices.ContainsFunc(now, func(n corev1.Toleration) bool {
			n.TolerationSeconds = o.TolerationSeconds // that one may change
			return reflect.DeepEqual(n, o)
		})
		if !kept {
			p.forbidden("", "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
	checkTolerations(p, now, lenient.tolerationOperators)
}

// checkOtherChanges compares the specs without what may change.
func checkOtherChanges(p place, spec, old *corev1.PodSpec) {
	now := spec.DeepCopy()
	for i := range now.Containers {
		now.Containers[i].Image = old.Containers[i].Image
	}
	for i := range now.InitContainers {
		now.InitContainers[i].Image = old.InitContainers[i].Image
	}
	now.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	now.SchedulingGates = old.SchedulingGates
	now.Tolerations = old.Tolerations
	if g := old.TerminationGracePeriodSeconds; g != nil && *g < 0 && now.TerminationGracePeriodSeconds != nil && *now.TerminationGracePeriodSeconds == 1 {
		now.TerminationGracePeriodSeconds = g
	}
	if len(old.SchedulingGates) > 0 {
		checkGatedChanges(p, now, old)
	}
	if !equality.Semantic.DeepEqual(*now, *old) {
		p.forbidden("", fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeablePodFields, diff.Diff(*old, *now)))
	}
}

// checkGatedChanges: a pod that may not be scheduled yet can still be narrowed to
// fewer nodes. What it allows it sets back in now.
func checkGatedChanges(p place, now, old *corev1.PodSpec) {
	for k, v := range old.NodeSelector {
		if w, ok := now.NodeSelector[k]; !ok || v != w {
			p.invalid("nodeSelector", now.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	now.NodeSelector = old.NodeSelector

	nodes := func(a *corev1.Affinity) *corev1.NodeAffinity {
		if a == nil {
			return nil
		}
		return a.NodeAffinity
	}
	mine, theirs := nodes(now.Affinity), nodes(old.Affinity)
	if equality.Semantic.DeepEqual(mine, theirs) {
		return
	}
	checkNodeAffinityNarrowed(p.child("affinity").child("nodeAffinity").child(required), mine, theirs)
	switch {
	case now.Affinity == nil:
		now.Affinity = &corev1.Affinity{NodeAffinity: theirs}
	case old.Affinity == nil && now.Affinity.PodAffinity == nil && now.Affinity.PodAntiAffinity == nil:
		now.Affinity = nil
	default:
		now.Affinity.NodeAffinity = theirs
	}
}

func checkNodeAffinityNarrowed(p place, now, old *corev1.NodeAffinity) {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	was := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var is []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		is = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(was) > 0 && len(was) != len(is) {
		p.invalid("nodeSelectorTerms", is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	begins := func(long, short []corev1.NodeSelectorRequirement) bool {
		return len(short) == 0 || len(long) >= len(short) && equality.Semantic.DeepEqual(long[:len(short)], short)
	}
	for i := range was {
		empty := len(was[i].MatchExpressions) == 0 && len(was[i].MatchFields) == 0
		filled := len(is[i].MatchExpressions) > 0 || len(is[i].MatchFields) > 0
		if empty && filled || !begins(is[i].MatchExpressions, was[i].MatchExpressions) || !begins(is[i].MatchFields, was[i].MatchFields) {
			p.child("nodeSelectorTerms").index(i).invalid("", is[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

// validateEphemeralContainers: those that are there stay as they are.
func validateEphemeralContainers(pod, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	return collect(nil, func(root place) {
		checkPod(root, pod, leniencyTo(&old.Spec, &old.ObjectMeta))
		checkAnnotationChanges(root.child("metadata").child("annotations"), pod.Annotations, old.Annotations)
		p := root.child("spec")
		for _, was := range old.Spec.EphemeralContainers {
			i := slices.IndexFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
			switch {
			case i < 0:
				p.forbidden("ephemeralContainers", "existing ephemeral containers "+strconv.Quote(was.Name)+" may not be removed\n")
			case !equality.Semantic.DeepEqual(was, pod.Spec.EphemeralContainers[i]):
				p.forbidden("ephemeralContainers", "existing ephemeral containers "+strconv.Quote(was.Name)+" may not be changed\n"+
					diff.Diff(was, pod.Spec.EphemeralContainers[i]))
			}
		}
	})
}

// validateResize: only amounts of CPU and memory change, and none goes away.
func validateResize(pod, old *corev1.Pod) field.ErrorList {
	switch _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; {
	case mirror:
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	case old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows:
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	return collect(nil, func(root place) {
		checkPod(root, pod, leniencyTo(&old.Spec, &old.ObjectMeta))
		p := root.child("spec")
		class := old.Status.QOSClass
		if class == "" {
			class = QOSClass(old)
		}
		if class != QOSClass(pod) {
			p.invalid("", pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
		}
		if !nodeResizes(old) {
			p.forbidden("", "Pod running on node without support for resize")
		}
		now := pod.Spec.DeepCopy()
		checkWholeResize(p, now, &old.Spec)
		same := sameContainers(p, "containers", pod.Spec.Containers, old.Spec.Containers)
		if !sameContainers(p, "initContainers", pod.Spec.InitContainers, old.Spec.InitContainers) || !same {
			return
		}
		for i := range now.InitContainers {
			checkInitResize(p.child("initContainers").index(i), &now.InitContainers[i], &old.Spec.InitContainers[i])
		}
		for i := range now.Containers {
			was, is := &old.Spec.Containers[i], &now.Containers[i]
			checkNotRemoved(p.child("containers").index(i).child("resources"), "resource", &is.Resources, &was.Resources)
			restoreAmounts(&is.Resources, &was.Resources)
			if !equality.Semantic.DeepEqual(*is, *was) {
				p.forbidden("", "only cpu and memory resources are mutable")
			}
		}
		if len(*p.errs) == 0 && !equality.Semantic.DeepEqual(*now, old.Spec) {
			p.forbidden("", "only cpu and memory resources are mutable")
		}
	})
}

func checkInitResize(p place, is, was *corev1.Container) {
	checkNotRemoved(p.child("resources"), "resource", &is.Resources, &was.Resources)
	changed := !equality.Semantic.DeepEqual(*is, *was)
	restoreAmounts(&is.Resources, &was.Resources)
	if !equality.Semantic.DeepEqual(*is, *was) {
		p.forbidden("", "only cpu and memory resources for init or sidecar containers are mutable")
	}
	if changed && !isSidecar(is) && slices.ContainsFunc(is.ResizePolicy, restartsToResize) {
		p.forbidden("", "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
	}
}

// nodeResizes tells whether the pod's node reports resources, as those do that can
// resize; a pod that does not run yet may be resized.
func nodeResizes(p *corev1.Pod) bool {
	for i := range p.Status.ContainerStatuses {
		if c := &p.Status.ContainerStatuses[i]; c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

func sameContainers(p place, name string, now, old []corev1.Container) bool {
	if len(now) != len(old) {
		p.forbidden(name, name+" may not be added or removed on resize")
		return false
	}
	same := true
	for i := range now {
		if now[i].Name != old[i].Name {
			p.child(name).index(i).forbidden("name", name+" may not be renamed or reordered on resize")
			same = false
		}
	}
	return same
}

// checkNotRemoved refuses to unset a request or a limit.
func checkNotRemoved(p place, what string, is, was *corev1.ResourceRequirements) {
	removed := func(is, was corev1.ResourceList) bool {
		for name := range was {
			if _, ok := is[name]; !ok {
				return true
			}
		}
		return false
	}
	if removed(is.Requests, was.Requests) {
		p.forbidden("requests", what+" requests cannot be removed")
	}
	if removed(is.Limits, was.Limits) {
		p.forbidden("limits", what+" limits cannot be removed")
	}
}

// checkWholeResize checks the resources of the pod as a whole, and sets back in
// now what may change.
func checkWholeResize(p place, now, old *corev1.PodSpec) {
	filled := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	if !filled(now.Resources) && !filled(old.Resources) {
		return
	}
	if now.Resources == nil {
		p.forbidden("resources", "pod-level resources cannot be removed")
		return
	}
	if old.Resources != nil {
		checkNotRemoved(p.child("resources"), "pod-level resource", now.Resources, old.Resources)
		restoreAmounts(now.Resources, old.Resources)
	} else {
		restoreAmounts(now.Resources, &corev1.ResourceRequirements{})
		if len(now.Resources.Requests)+len(now.Resources.Limits)+len(now.Resources.Claims) == 0 {
			now.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(now.Resources, old.Resources) {
		p.forbidden("", "only cpu and memory resources are mutable at pod-level")
	}
}

// restoreAmounts puts the amounts of CPU and memory of was into is, a copy.
func restoreAmounts(is, was *corev1.ResourceRequirements) {
	restore := func(is *corev1.ResourceList, was corev1.ResourceList) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(*is, name)
			if q, ok := was[name]; ok {
				addIfMissing(is, name, q)
			}
		}
	}
	restore(&is.Requests, was.Requests)
	restore(&is.Limits, was.Limits)
}

// validatePodStatus refuses changes of status that do not happen in normal operation.
func validatePodStatus(pod, old *corev1.Pod) field.ErrorList {
	return collect(nil, func(root place) {
		annotations := root.child("metadata").child("annotations")
		if len(pod.Annotations)+len(old.Annotations) > 0 {
			checkAnnotationChanges(annotations, pod.Annotations, old.Annotations)
			checkPodAnnotations(annotations, pod.Annotations, &pod.Spec, leniencyTo(&old.Spec, &old.ObjectMeta))
		}
		p, s := root.child("status"), &pod.Status
		checkPodConditions(p.child("conditions"), s.Conditions)
		if n := s.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
			p.dnsSubdomain("nominatedNodeName", n)
			if old.Spec.NodeName != "" {
				p.forbidden("nominatedNodeName", "may not be set on pods that are already bound to a node")
			}
		}
		if s.ObservedGeneration < 0 {
			p.invalid("observedGeneration", s.ObservedGeneration, "must be a non-negative integer")
		}
		if s.QOSClass != old.Status.QOSClass {
			p.invalid("qosClass", s.QOSClass, "field is immutable")
		}
		spec := &old.Spec
		if !restartsAll(spec) {
			checkTransitions(p.child("containerStatuses"), s.ContainerStatuses, old.Status.ContainerStatuses, spec, spec.Containers)
			checkTransitions(p.child("initContainerStatuses"), s.InitContainerStatuses, old.Status.InitContainerStatuses, spec, spec.InitContainers)
		}
		checkTransitions(p.child("ephemeralContainerStatuses"), s.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, spec, nil)
		checkClaimStatuses(p, pod)
		checkAddresses(p, pod, old)
		checkContainerStatuses(p.child("containerStatuses"), s.ContainerStatuses, pod, pod.Spec.Containers)
		checkContainerStatuses(p.child("initContainerStatuses"), s.InitContainerStatuses, pod, pod.Spec.InitContainers)
		for i := range s.EphemeralContainerStatuses {
			at, c := p.child("ephemeralContainerStatuses").index(i), &s.EphemeralContainerStatuses[i]
			checkContainerUser(at.child("user"), c.User, pod.Spec.OS)
			if len(c.AllocatedResourcesStatus) > 0 {
				at.forbidden("allocatedResourcesStatus", "must not be specified in container status")
			}
		}
	})
}

func checkPodConditions(p place, list []corev1.PodCondition) {
	for i := range list {
		c := &list[i]
		if c.ObservedGeneration < 0 {
			p.index(i).invalid("observedGeneration", c.ObservedGeneration, "must be a non-negative integer")
		}
		if c.Type != corev1.PodScheduled && c.Type != corev1.PodReady && c.Type != corev1.PodInitialized {
			p.index(i).qualifiedName("Type", string(c.Type))
		}
	}
}

// restartsAll tells whether the exit of one container may restart all of them.
func restartsAll(s *corev1.PodSpec) bool {
	for c := range containersOf(s) {
		for i := range c.RestartPolicyRules {
			if c.RestartPolicyRules[i].Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// checkTransitions: a container that has ended and is not to restart stays so.
// list is empty for ephemeral containers, which never restart.
func checkTransitions(p place, now, old []corev1.ContainerStatus, s *corev1.PodSpec, list []corev1.Container) {
	for i := range old {
		end := old[i].State.Terminated
		if end == nil {
			continue
		}
		j := slices.IndexFunc(now, func(c corev1.ContainerStatus) bool { return c.Name == old[i].Name })
		if j < 0 || now[j].State.Terminated != nil {
			continue
		}
		k := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == old[i].Name })
		if k < 0 || !mayRestart(&list[k], s.RestartPolicy, end.ExitCode) {
			p.index(i).forbidden("state", "may not be transitioned to non-terminated state")
		}
	}
}

// mayRestart: rules first, then the container's policy, then the pod's.
func mayRestart(c *corev1.Container, ofPod corev1.RestartPolicy, exit int32) bool {
	policy := string(ofPod)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
		for _, r := range c.RestartPolicyRules {
			if r.ExitCodes != nil && slices.Contains(r.ExitCodes.Values, exit) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
	}
	switch policy {
	case string(corev1.RestartPolicyNever):
		return false
	case string(corev1.RestartPolicyOnFailure):
		return exit != 0
	}
	return true
}

func checkClaimStatuses(p place, pod *corev1.Pod) {
	list := pod.Status.ResourceClaimStatuses
	for i := range list {
		at := p.child("resourceClaimStatuses").index(i)
		if !hasClaim(pod.Spec.ResourceClaims, list[i].Name) {
			at.invalid("name", list[i].Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if slices.ContainsFunc(list[:i], func(b corev1.PodResourceClaimStatus) bool { return b.Name == list[i].Name }) {
			at.duplicate("name", list[i].Name)
		}
		if list[i].ResourceClaimName != nil {
			at.dnsSubdomain("resourceClaimName", *list[i].ResourceClaimName)
		}
	}
	if e := pod.Status.ExtendedResourceClaimStatus; e != nil {
		checkExtendedClaim(p.child("extendedResourceClaimStatus"), e, &pod.Spec)
	}
}

func checkExtendedClaim(p place, e *corev1.PodExtendedResourceClaimStatus, s *corev1.PodSpec) {
	if len(e.RequestMappings) == 0 {
		p.required("requestMappings", "at least one request mapping is required")
	}
	for i, m := range e.RequestMappings {
		at := p.child("requestMappings").index(i)
		asks, found := false, false
		for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
			for j := range list {
				if list[j].Name == m.ContainerName {
					found = true
					_, asks = list[j].Resources.Requests[corev1.ResourceName(m.ResourceName)]
				}
			}
		}
		switch {
		case !found:
			at.invalid("containerName", m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		case !asks:
			at.invalid("resourceName", m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		p.dnsLabel("requestName", m.RequestName)
		if slices.Contains(e.RequestMappings[:i], m) {
			at.duplicate("containerName", m.ContainerName)
			at.duplicate("resourceName", m.ResourceName)
			at.duplicate("requestName", m.RequestName)
		}
	}
	if p.wants("resourceClaimName", e.ResourceClaimName) {
		p.dnsSubdomain("resourceClaimName", e.ResourceClaimName)
	}
}

// checkAddresses checks the pod's and the node's addresses; stored ones are
// taken as they are.
func checkAddresses(p place, pod, old *corev1.Pod) {
	var pods, oldPods, hosts, oldHosts []string
	for _, ip := range pod.Status.PodIPs {
		pods = append(pods, ip.IP)
	}
	for _, ip := range old.Status.PodIPs {
		oldPods = append(oldPods, ip.IP)
	}
	for _, ip := range pod.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	for _, ip := range old.Status.HostIPs {
		oldHosts = append(oldHosts, ip.IP)
	}
	for i, ip := range pods {
		p.add(ValidateLegacyIP(p.path.Child("podIPs").Index(i), ip, oldPods)...)
	}
	checkFamilies(p, "podIPs", pod.Status.PodIPs, pods)
	switch {
	case (pod.Status.PodIP == "") != (len(pods) == 0):
		p.invalid("podIPs", pod.Status.PodIPs, "podIP and podIPs must either both be set or both be unset")
	case len(pods) > 0 && pod.Status.PodIP != pods[0]:
		p.child("podIPs").index(0).invalid("ip", pods[0], "must be equal to `podIP`")
	}
	if len(hosts) > 0 && pod.Status.HostIP != hosts[0] {
		p.child("hostIPs").index(0).invalid("ip", hosts[0], "must be equal to `hostIP`")
	}
	for i, ip := range hosts {
		p.add(ValidateLegacyIP(p.path.Child("hostIPs").Index(i), ip, oldHosts)...)
	}
	checkFamilies(p, "hostIPs", pod.Status.HostIPs, hosts)
}

func checkContainerStatuses(p place, statuses []corev1.ContainerStatus, pod *corev1.Pod, list []corev1.Container) {
	for i := range statuses {
		c, at := &statuses[i], p.index(i)
		checkContainerUser(at.child("user"), c.User, pod.Spec.OS)
		k := slices.IndexFunc(list, func(d corev1.Container) bool { return d.Name == c.Name })
		for j := range c.AllocatedResourcesStatus {
			r, at := &c.AllocatedResourcesStatus[j], at.child("allocatedResourcesStatus").index(j)
			if k >= 0 {
				checkAllocatedName(at, r.Name, &list[k], pod.Status.ExtendedResourceClaimStatus)
			}
			checkResourceHealth(at.child("resources"), r.Resources)
		}
	}
}

func checkContainerUser(p place, u *corev1.ContainerUser, os *corev1.PodOS) {
	if u == nil || u.Linux == nil {
		return
	}
	if os != nil && os.Name == corev1.Windows {
		p.forbidden("linux", "cannot be set for a windows pod")
		return
	}
	at := p.child("linux")
	if id := u.Linux.UID; id < 0 || id > math.MaxUint32 {
		at.invalid("uid", id, "must be between 0 and 4294967295, inclusive")
	}
	at.invalidEach("gid", u.Linux.GID, validation.IsValidGroupID(u.Linux.GID))
	for i, id := range u.Linux.SupplementalGroups {
		at.child("supplementalGroups").index(i).invalidEach("", id, validation.IsValidGroupID(id))
	}
}

// checkAllocatedName: what a node reports on is a resource of the container, or
// one of its claims as "claim:name/request".
func checkAllocatedName(p place, name corev1.ResourceName, c *corev1.Container, e *corev1.PodExtendedResourceClaimStatus) {
	text, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, ok := c.Resources.Requests[name]; !ok {
			p.invalid("name", name, "must match one of the container's resource requests")
		}
		return
	}
	claim, request, _ := strings.Cut(text, "/")
	found := slices.ContainsFunc(c.Resources.Claims, func(r corev1.ResourceClaim) bool {
		return r.Name == claim && r.Request == request && text == strings.TrimSuffix(claim+"/"+request, "/")
	})
	if !found && e != nil && claim == e.ResourceClaimName && request != "" {
		for _, m := range e.RequestMappings {
			q := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]
			found = found || m.ContainerName == c.Name && m.RequestName == request && !q.IsZero()
		}
	}
	if !found {
		p.invalid("name", name, "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty")
	}
}

func checkResourceHealth(p place, list []corev1.ResourceHealth) {
	for i, r := range list {
		at := p.index(i)
		oneOf(at, "health", r.Health, corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)
		if r.Message != nil && *r.Message == "" {
			at.required("message", "must be non-empty if specified")
		} else if r.Message != nil && len(*r.Message) > corev1.ResourceHealthMessageMaxLength {
			at.tooLong("message", corev1.ResourceHealthMessageMaxLength)
		}
		if slices.ContainsFunc(list[:i], func(b corev1.ResourceHealth) bool { return b.ResourceID == r.ResourceID }) {
			at.duplicate("resourceID", r.ResourceID)
		}
	}
}
