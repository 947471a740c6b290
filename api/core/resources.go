package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resources whose amount counts objects.
var countedResources = sets.New(
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)

// quotaResources are the names without a prefix that a quota may limit.
var quotaResources = countedResources.Union(sets.New(
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage))

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func isQuotaHugePages(name corev1.ResourceName) bool {
	return isHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isNative tells Kubernetes' own resources from those of device plugins.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func isExtended(name corev1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// mayOvercommit tells whether limits may exceed requests.
func mayOvercommit(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

// checkResourceName checks a name of any resource; it tells whether it is one.
func checkResourceName(p place, name corev1.ResourceName) bool {
	if msgs := validation.IsQualifiedName(string(name)); len(msgs) > 0 {
		p.invalidEach("", name, msgs)
		return false
	}
	known := quotaResources.Has(name) || name == corev1.ResourceStorage || isQuotaHugePages(name)
	if !known && !strings.Contains(string(name), "/") {
		p.invalid("", name, "must be a standard resource type or fully qualified")
		return false
	}
	return true
}

func checkContainerResourceName(p place, name corev1.ResourceName) {
	checkResourceName(p, name)
	switch {
	case !strings.Contains(string(name), "/"):
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !isHugePages(name) {
			p.invalid("", name, "must be a standard resource for containers")
		}
	case !isNative(name) && !isExtended(name):
		p.invalid("", name, "doesn't follow extended resource name standard")
	}
}

func checkPodResourceName(p place, name corev1.ResourceName) {
	if checkResourceName(p, name) && !resourcehelper.IsSupportedPodLevelResource(name) {
		p.add(field.NotSupported(p.path, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
}

func checkQuotaResourceName(p place, name corev1.ResourceName) {
	checkResourceName(p, name)
	if !strings.Contains(string(name), "/") && !quotaResources.Has(name) && !isQuotaHugePages(name) {
		p.invalid("", name, "must be a standard resource for quota")
	}
}

// checkQuantity checks an amount of a resource. q is a copy: String writes to it.
func checkQuantity(p place, name corev1.ResourceName, q resource.Quantity) {
	if q.Sign() < 0 {
		p.invalid("", q.String(), "must be greater than or equal to 0")
	}
	if (countedResources.Has(name) || isExtended(name)) && q.MilliValue()%1000 != 0 {
		p.invalid("", q, "must be an integer")
	}
}

func checkPositiveQuantity(p place, q resource.Quantity) bool {
	if q.Sign() <= 0 {
		p.invalid("", q.String(), "must be greater than zero")
		return false
	}
	return true
}

// checkWholeQuantity refuses negative amounts of what is measured in bytes.
func checkWholeQuantity(p place, q resource.Quantity) bool {
	if q.Value() < 0 {
		p.invalid("", q.Value(), "must be a valid resource quantity")
		return false
	}
	return true
}

// requirementsCheck says how requests and limits are checked: those of containers
// and those of whole pods differ.
type requirementsCheck struct {
	name     func(place, corev1.ResourceName)
	claims   []corev1.PodResourceClaim // what resources.claims may name
	anyPages bool                      // takes huge pages that are no multiple of the page size
}

func (c requirementsCheck) run(p place, r *corev1.ResourceRequirements) {
	compute, huge := false, false
	one := func(at place, name corev1.ResourceName, q resource.Quantity) {
		c.name(at, name)
		checkQuantity(at, name, q)
		if isHugePages(name) {
			huge = true
			if !c.anyPages && !wholePages(name, q) {
				at.invalid("", q.String(), q.String()+" is not positive integer multiple of "+string(name))
			}
		}
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	if len(r.Limits) > 0 {
		limits := p.child("limits")
		for _, name := range sortedKeys(r.Limits) {
			one(limits.key(string(name)), name, r.Limits[name])
		}
	}
	if len(r.Requests) > 0 {
		requests := p.child("requests")
		for _, name := range sortedKeys(r.Requests) {
			q := r.Requests[name]
			one(requests.key(string(name)), name, q)
			checkRequest(p, requests, name, q, r.Limits)
		}
	}
	if huge && !compute {
		p.forbidden("", "HugePages require cpu or memory")
	}
	checkClaimUses(p, r.Claims, c.claims)
}

func checkRequest(p, requests place, name corev1.ResourceName, q resource.Quantity, limits corev1.ResourceList) {
	limit, ok := limits[name]
	switch {
	case !ok && !mayOvercommit(name):
		p.required("limits", "Limit must be set for non overcommitable resources")
	case !ok:
	case q.Cmp(limit) != 0 && !mayOvercommit(name):
		requests.invalid("", q.String(), "must be equal to "+string(name)+" limit of "+limit.String())
	case q.Cmp(limit) > 0:
		requests.invalid("", q.String(), "must be less than or equal to "+string(name)+" limit of "+limit.String())
	}
}

// wholePages tells whether q is a multiple of the page size that name carries.
func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

// checkClaimUses checks the device claims that a container uses: each is one of
// the pod's, and no request of it is named twice.
func checkClaimUses(p place, uses []corev1.ResourceClaim, claims []corev1.PodResourceClaim) {
	for i, use := range uses {
		at := p.child("claims").index(i)
		if !at.wants("", use.Name) {
			continue
		}
		before := uses[:i]
		switch {
		case slices.Contains(before, corev1.ResourceClaim{Name: use.Name}):
			at.duplicate("", use.Name)
		case use.Request == "":
			for _, b := range before {
				if b.Name == use.Name {
					at.duplicate("", use.Name)
				}
			}
		default:
			at.dnsLabel("request", use.Request)
			if slices.Contains(before, use) {
				at.duplicate("", use.Name+"/"+use.Request)
			}
		}
		checkClaimNamed(at, use.Name, claims)
	}
}

func checkClaimNamed(p place, name string, claims []corev1.PodResourceClaim) {
	if hasClaim(claims, name) {
		return
	}
	names := sets.New[string]()
	for _, c := range claims {
		if c.Name != "" {
			names.Insert(c.Name)
		}
	}
	err := field.NotFound(p.path, name)
	err.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
	if len(names) > 0 {
		err.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(names), ", ")
	}
	p.add(err)
}

func hasClaim(claims []corev1.PodResourceClaim, name string) bool {
	return slices.ContainsFunc(claims, func(c corev1.PodResourceClaim) bool { return c.Name == name })
}

// ValidateResourceRequirements checks limits and requests as a container has them
// (also a runtime class's overhead, as limits).
func ValidateResourceRequirements(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	return collect(path, func(p place) { requirementsCheck{name: checkContainerResourceName}.run(p, r) })
}

// ValidateContainerResourceName checks the name of a resource that a container
// may ask for.
func ValidateContainerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	return collect(path, func(p place) { checkContainerResourceName(p, name) })
}
