package core

import (
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podCheck is the check of one pod spec. It writes to none of what it looks at.
type podCheck struct {
	spec    *corev1.PodSpec
	lenient podLeniency
	isPod   bool   // a Pod's spec, not a template's
	podName string // of a Pod: the prefix of its ephemeral volumes' claims
	mirror  bool   // the Pod mirrors a static one

	volumes map[string]*corev1.VolumeSource // the valid volumes, by name
}

// validateNewPod checks a Pod on create.
func validateNewPod(pod *corev1.Pod) field.ErrorList {
	return collect(nil, func(root place) {
		checkPod(root, pod, podLeniency{})
		spec := root.child("spec")
		if len(pod.Spec.EphemeralContainers) > 0 {
			spec.forbidden("ephemeralContainers", "cannot be set on create")
		}
		if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
			spec.forbidden("nodeName", "cannot be set until all schedulingGates have been cleared")
		}
		checkProfilesAgree(spec, pod.Annotations, &pod.Spec)
	})
}

// checkPod checks what every version of a Pod must fulfil.
func checkPod(root place, pod *corev1.Pod, lenient podLeniency) {
	checkPodAnnotations(root.child("metadata").child("annotations"), pod.Annotations, &pod.Spec, lenient)
	p := root.child("spec")
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	c := &podCheck{spec: &pod.Spec, lenient: lenient, isPod: true, podName: pod.Name, mirror: mirror}
	c.run(p)

	if pod.Spec.ServiceAccountName == "" {
		for i := range pod.Spec.Volumes {
			v := pod.Spec.Volumes[i].Projected
			for j := 0; v != nil && j < len(v.Sources); j++ {
				if v.Sources[j].ServiceAccountToken != nil {
					p.child("volumes").index(i).child("projected").child("sources").index(j).
						forbidden("serviceAccountToken", "must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		p.notNegative("terminationGracePeriodSeconds", *g)
	}
	for i := range pod.Spec.Containers {
		checkTrimmedImage(p.child("containers").index(i), pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.InitContainers {
		checkTrimmedImage(p.child("initContainers").index(i), pod.Spec.InitContainers[i].Image)
	}
}

// checkTrimmedImage is not done to templates: some put a blank there, for a
// controller of theirs to fill.
func checkTrimmedImage(p place, image string) {
	if image != strings.TrimSpace(image) {
		p.invalid("image", image, "must not have leading or trailing whitespace")
	}
}

// run checks the spec, in the order of Kubernetes' messages.
func (c *podCheck) run(p place) {
	s := c.spec
	if s.TerminationGracePeriodSeconds == nil {
		p.required("terminationGracePeriodSeconds", "")
	}
	c.checkVolumes(p.child("volumes"))
	c.checkResourceClaims(p.child("resourceClaims"))
	c.checkContainers(p.child("containers"))
	c.checkInitContainers(p.child("initContainers"))
	c.checkEphemeralContainers(p.child("ephemeralContainers"))
	c.checkPodResources(p)
	c.checkHostNetworkPorts(p.child("containers"))
	setOneOf(p, "restartPolicy", s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	setOneOf(p, "dnsPolicy", s.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	p.add(metav1validation.ValidateLabels(s.NodeSelector, p.path.Child("nodeSelector"))...)
	c.checkPodSecurity(p.child("securityContext"))
	if isTrue(s.ShareProcessNamespace) && s.HostPID {
		p.invalid("shareProcessNamespace", true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	c.checkAffinity(p.child("affinity"))
	checkDNSConfig(p, s.DNSConfig, s.DNSPolicy)
	for i, g := range s.ReadinessGates {
		p.child("readinessGates").index(i).qualifiedName("conditionType", string(g.ConditionType))
	}
	for i, g := range s.SchedulingGates {
		at := p.child("schedulingGates").index(i)
		at.qualifiedName("", g.Name)
		if slices.Contains(s.SchedulingGates[:i], g) {
			at.duplicate("", g.Name)
		}
	}
	c.checkTopologySpread(p.child("topologySpreadConstraints"))
	c.checkHostProcess(p)
	c.checkHostUsers(p)
	c.checkHostnames(p)
	c.checkNames(p)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		p.invalid("activeDeadlineSeconds", *d, utilvalidation.InclusiveRangeError(1, math.MaxInt32))
	}
	checkTolerations(p.child("tolerations"), s.Tolerations, c.lenient.tolerationOperators)
	for i := range s.HostAliases {
		at, a := p.child("hostAliases").index(i), &s.HostAliases[i]
		at.add(ValidateLegacyIP(at.path.Child("ip"), a.IP, nil)...)
		for j, name := range a.Hostnames {
			at.child("hostnames").index(j).dnsSubdomain("", name)
		}
	}
	if s.PreemptionPolicy != nil {
		setOneOf(p, "preemptionPolicy", *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if s.Overhead != nil {
		c.requirements(checkContainerResourceName).run(p.child("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead})
	}
	c.checkOS(p)
	c.checkSchedulingGroup(p.child("schedulingGroup"))
	c.checkFileKeyVolumes(p)
}

// requirements is the check of requests and limits of this pod.
func (c *podCheck) requirements(name func(place, corev1.ResourceName)) requirementsCheck {
	return requirementsCheck{name: name, claims: c.spec.ResourceClaims, anyPages: c.lenient.indivisibleHugePages}
}

// checkNames checks the names of other objects, and the pod's own names in DNS.
func (c *podCheck) checkNames(p place) {
	s := c.spec
	if s.ServiceAccountName != "" {
		p.dnsSubdomain("serviceAccountName", s.ServiceAccountName)
	}
	if s.DeprecatedServiceAccount != s.ServiceAccountName {
		p.invalid("deprecatedServiceAccount", s.DeprecatedServiceAccount,
			"must be the same as serviceAccountName: "+strconv.Quote(s.ServiceAccountName))
	}
	if s.NodeName != "" {
		p.dnsSubdomain("nodeName", s.NodeName)
	}
	if s.Hostname != "" {
		p.dnsLabel("hostname", s.Hostname)
	}
	if s.Subdomain != "" {
		p.dnsLabel("subdomain", s.Subdomain)
	}
	if s.PriorityClassName != "" {
		p.dnsSubdomain("priorityClassName", s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		p.dnsSubdomain("runtimeClassName", *s.RuntimeClassName)
	}
}

func (c *podCheck) checkHostnames(p place) {
	name := c.spec.HostnameOverride
	if name == nil {
		return
	}
	if isTrue(c.spec.SetHostnameAsFQDN) {
		p.forbidden("hostnameOverride", "may not be specified when setHostnameAsFQDN is true")
	}
	if c.spec.HostNetwork {
		p.forbidden("hostnameOverride", "may not be specified when hostNetwork is true")
	}
	if len(*name) > 64 {
		p.tooLong("hostnameOverride", 64)
	}
	p.dnsSubdomain("hostnameOverride", *name)
}

// Limits of the resolver library.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func checkDNSConfig(pod place, d *corev1.PodDNSConfig, policy corev1.DNSPolicy) {
	p := pod.child("dnsConfig")
	if policy == corev1.DNSNone {
		if d == nil {
			p.required("", "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(d.Nameservers) == 0 {
			p.required("nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > maxNameservers {
		p.invalid("nameservers", d.Nameservers, "must not have more than 3 nameservers")
	}
	for i, ip := range d.Nameservers {
		p.add(ValidateLegacyIP(p.path.Child("nameservers").Index(i), ip, nil)...)
	}
	if len(d.Searches) > maxSearches {
		p.invalid("searches", d.Searches, "must not have more than 32 search paths")
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchChars {
		p.invalid("searches", d.Searches, "must not have more than 2048 characters (including spaces) in the search list")
	}
	for i, search := range d.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			p.child("searches").index(i).invalidEach("", search, utilvalidation.IsDNS1123SubdomainWithUnderscore(search))
		}
	}
	for i, o := range d.Options {
		if o.Name == "" {
			p.child("options").index(i).required("", "must not be empty")
		}
	}
}

func (c *podCheck) checkResourceClaims(p place) {
	for i := range c.spec.ResourceClaims {
		claim, at := &c.spec.ResourceClaims[i], p.index(i)
		if c.mirror {
			at.add(field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
			continue
		}
		if at.wants("name", claim.Name) {
			if hasClaim(c.spec.ResourceClaims[:i], claim.Name) {
				at.duplicate("name", claim.Name)
			} else {
				at.dnsLabel("name", claim.Name)
			}
		}
		switch named, made := claim.ResourceClaimName, claim.ResourceClaimTemplateName; {
		case named != nil && made != nil:
			at.invalid("", *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case named == nil && made == nil:
			at.invalid("", *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if claim.ResourceClaimName != nil {
			at.dnsSubdomain("resourceClaimName", *claim.ResourceClaimName)
		}
		if claim.ResourceClaimTemplateName != nil {
			at.dnsSubdomain("resourceClaimTemplateName", *claim.ResourceClaimTemplateName)
		}
	}
}

// checkPodResources checks the requests and limits of the pod as a whole, which
// bound those of its containers.
func (c *podCheck) checkPodResources(pod place) {
	r := c.spec.Resources
	if r == nil {
		return
	}
	p := pod.child("resources")
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		p.forbidden("", "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		p.forbidden("claims", "claims may not be set for Resources at pod-level")
	}
	c.requirements(checkPodResourceName).run(p, r)

	whole := &corev1.Pod{Spec: *c.spec}
	asked := resourcehelper.AggregateContainerRequests(whole, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedKeys(asked) {
		sum := asked[name]
		if q, ok := r.Requests[name]; ok && sum.Cmp(q) > 0 {
			p.child("requests").key(string(name)).invalid("", q.String(),
				"must be greater than or equal to aggregate container requests of "+sum.String())
		}
	}
	limits := resourcehelper.AggregateContainerLimits(whole, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedKeys(limits) {
		sum := limits[name]
		if q, ok := r.Limits[name]; ok && isHugePages(name) && sum.Cmp(q) > 0 {
			p.child("limits").key(string(name)).invalid("", q.String(),
				"must be greater than or equal to aggregate container limits of "+sum.String())
		}
	}
	for i := range c.spec.Containers {
		list := c.spec.Containers[i].Resources.Limits
		for _, name := range sortedKeys(list) {
			q := list[name]
			if most, ok := r.Limits[name]; ok && q.Cmp(most) > 0 {
				p.child("containers").index(i).key(string(name)).invalid("limits", q.String(),
					"must be less than or equal to pod limits of "+most.String())
			}
		}
	}
}

// checkHostNetworkPorts: in the host's network a container's port is the host's.
// A template may leave it out, since defaults of the pod will set it.
func (c *podCheck) checkHostNetworkPorts(p place) {
	if !c.spec.HostNetwork {
		return
	}
	for i := range c.spec.Containers {
		for j, port := range c.spec.Containers[i].Ports {
			if (c.isPod || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				p.index(i).child("ports").index(j).invalid("hostPort", port.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func (c *podCheck) checkHostUsers(p place) {
	s := c.spec
	if s.HostUsers == nil || *s.HostUsers {
		return
	}
	const why = "when `hostUsers` is false"
	if s.HostNetwork && !c.lenient.hostUsersHostNetwork {
		p.forbidden("hostNetwork", why)
	}
	if s.HostPID {
		p.forbidden("HostPID", why)
	}
	if s.HostIPC {
		p.forbidden("HostIPC", why)
	}
	if !c.lenient.hostUsersDevices {
		for at, ctr := range containersAt(s, p) {
			if len(ctr.VolumeDevices) > 0 {
				at().forbidden("volumeDevices", why)
			}
		}
	}
}

func (c *podCheck) checkSchedulingGroup(p place) {
	switch g := c.spec.SchedulingGroup; {
	case g == nil:
		return
	case g.PodGroupName == nil:
		p.invalid("podGroupName", g.PodGroupName, "must specify one of: `podGroupName`")
	default:
		p.dnsSubdomain("podGroupName", *g.PodGroupName)
	}
	if len(c.spec.EvictionResponders) > 0 {
		p.forbidden("", "may not be set when evictionResponders is set")
	}
}

// checkFileKeyVolumes: the files that variables come from lie in an emptyDir.
func (c *podCheck) checkFileKeyVolumes(p place) {
	for at, ctr := range containersAt(c.spec, p) {
		for i := range ctr.Env {
			from := ctr.Env[i].ValueFrom
			if from == nil || from.FileKeyRef == nil {
				continue
			}
			name := from.FileKeyRef.VolumeName
			j := slices.IndexFunc(c.spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
			ref := at().child("env").index(i).child("valueFrom").child("fileKeyRef")
			switch {
			case j < 0:
				ref.notFound("volumeName", name)
			case c.spec.Volumes[j].EmptyDir == nil:
				ref.invalid("volumeName", name, "referenced volume must be of type emptyDir")
			}
		}
	}
}

// containersAt goes through all containers, each with its place, which costs only
// when it is asked for.
func containersAt(s *corev1.PodSpec, p place) func(func(func() place, *corev1.Container) bool) {
	return func(yield func(func() place, *corev1.Container) bool) {
		for i := range s.InitContainers {
			if !yield(func() place { return p.child("initContainers").index(i) }, &s.InitContainers[i]) {
				return
			}
		}
		for i := range s.Containers {
			if !yield(func() place { return p.child("containers").index(i) }, &s.Containers[i]) {
				return
			}
		}
		for i := range s.EphemeralContainers {
			ctr := (*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(func() place { return p.child("ephemeralContainers").index(i) }, ctr) {
				return
			}
		}
	}
}

// containersOf goes through all containers of a pod.
func containersOf(s *corev1.PodSpec) func(func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for _, ctr := range containersAt(s, place{}) {
			if !yield(ctr) {
				return
			}
		}
	}
}

// ValidatePodTemplate checks the template of a new object.
func ValidatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return ValidatePodTemplateUpdate(t, nil, path)
}

// ValidatePodTemplateUpdate checks the template of an object whose stored
// template is old (nil on create). Rules that are younger than stored objects
// are not held against what was stored before them.
func ValidatePodTemplateUpdate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return collect(path, func(p place) {
		var lenient podLeniency
		if old != nil {
			lenient = leniencyTo(&old.Spec, &old.ObjectMeta)
		}
		p.add(metav1validation.ValidateLabels(t.Labels, path.Child("labels"))...)
		p.add(validation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
		checkPodAnnotations(p.child("annotations"), t.Annotations, &t.Spec, lenient)
		c := &podCheck{spec: &t.Spec, lenient: lenient}
		c.run(p.child("spec"))
		checkProfilesAgree(p.child("spec"), t.Annotations, &t.Spec)
		if len(t.Spec.EphemeralContainers) > 0 {
			p.child("spec").forbidden("ephemeralContainers", "ephemeral containers not allowed in pod template")
		}
	})
}

// podLeniency names the rules that are not held against a pod, because its stored
// form broke them already.
type podLeniency struct {
	deletionCost              bool // the annotation is no number
	selectorValues            bool // invalid label values in pod affinity
	nodeAffinityValues        bool // invalid label values in required node affinity
	indivisibleHugePages      bool
	spreadSelector            bool // an invalid selector in a spread constraint
	spreadMatchLabelKeys      bool
	tokenPath                 bool // a projected token's path leaves the volume
	hostSysctls               bool // sysctls of a namespace that is the host's
	restartToResizeInit       bool // an init container that is no sidecar restarts to resize
	hostUsersHostNetwork      bool
	hostUsersDevices          bool
	tolerationOperators       bool // Lt and Gt
	emptyImageVolume          bool
	sysAdminWithoutEscalation bool
}

// leniencyTo looks at a stored pod or template.
func leniencyTo(s *corev1.PodSpec, meta *metav1.ObjectMeta) podLeniency {
	breaks := func(check func(*podCheck, place)) bool {
		var errs field.ErrorList
		check(&podCheck{spec: s}, place{nil, &errs})
		return len(errs) > 0
	}
	userns := s.HostUsers != nil && !*s.HostUsers
	l := podLeniency{
		deletionCost:         !validDeletionCost(meta.Annotations),
		hostUsersHostNetwork: userns && s.HostNetwork,
		spreadMatchLabelKeys: slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
			var errs field.ErrorList
			checkMatchLabelKeys(place{nil, &errs}, t.MatchLabelKeys, nil, t.LabelSelector)
			return len(errs) > 0
		}),
		spreadSelector: slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
			return len(metav1validation.ValidateLabelSelector(t.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
		}),
		tolerationOperators: slices.ContainsFunc(s.Tolerations, func(t corev1.Toleration) bool {
			return t.Operator == corev1.TolerationOpLt || t.Operator == corev1.TolerationOpGt
		}),
		hostSysctls: s.SecurityContext != nil && slices.ContainsFunc(s.SecurityContext.Sysctls, func(c corev1.Sysctl) bool {
			return hostSysctl(s, c.Name) != ""
		}),
		restartToResizeInit: slices.ContainsFunc(s.InitContainers, func(c corev1.Container) bool {
			return !isSidecar(&c) && slices.ContainsFunc(c.ResizePolicy, restartsToResize)
		}),
	}
	if s.Affinity != nil {
		l.selectorValues = breaks(func(c *podCheck, p place) { c.checkPodAffinityValues(p) })
		l.nodeAffinityValues = breaks(func(c *podCheck, p place) { c.checkRequiredNodeAffinityValues(p) })
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		l.emptyImageVolume = l.emptyImageVolume || v.Image != nil && v.Image.Reference == ""
		for j := 0; v.Projected != nil && j < len(v.Projected.Sources); j++ {
			if t := v.Projected.Sources[j].ServiceAccountToken; t != nil {
				l.tokenPath = l.tokenPath || breaks(func(_ *podCheck, p place) { checkProjectedPath(p, "", t.Path) })
			}
		}
	}
	for c := range containersOf(s) {
		l.hostUsersDevices = l.hostUsersDevices || userns && len(c.VolumeDevices) > 0
		l.indivisibleHugePages = l.indivisibleHugePages || brokenPages(c.Resources.Limits) || brokenPages(c.Resources.Requests)
		if sc := c.SecurityContext; sc != nil && !isTrue(sc.AllowPrivilegeEscalation) && addsSysAdmin(sc) {
			l.sysAdminWithoutEscalation = true
		}
	}
	return l
}

func brokenPages(list corev1.ResourceList) bool {
	for name, q := range list {
		if isHugePages(name) && !wholePages(name, q) {
			return true
		}
	}
	return false
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func restartsToResize(p corev1.ContainerResizePolicy) bool {
	return p.RestartPolicy == corev1.RestartContainer
}
