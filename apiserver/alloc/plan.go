package alloc

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Plan settles what svc is to have, before it is judged and anything is taken:
// the singular and the plural of its addresses, what it keeps of what old has
// (clients need not repeat what was chosen for them), and its address families.
// Its errors are Invalid Statuses.
func (s *Services) Plan(svc, old *corev1.Service) error {
	if old != nil {
		carryOver(svc, old)
	}
	alignAddresses(svc, old)
	return s.planFamilies(svc, old)
}

// carryOver fills what svc leaves empty with what old was given.
func carryOver(svc, old *corev1.Service) {
	if needsAddress(svc) && needsAddress(old) {
		if svc.Spec.ClusterIP == "" {
			svc.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(svc.Spec.ClusterIPs) == 0 && svc.Spec.ClusterIP == old.Spec.ClusterIP {
			svc.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if needsPorts(svc) && needsPorts(old) {
		carryPorts(svc, old)
	}
	if needsHealthPort(svc) && needsHealthPort(old) && svc.Spec.HealthCheckNodePort == 0 {
		svc.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// carryPorts gives ports that name no node port the one that the port of the
// same name had, unless the client gave that to another port.
func carryPorts(svc, old *corev1.Service) {
	taken := make(map[int32]bool)
	for i := range svc.Spec.Ports {
		taken[svc.Spec.Ports[i].NodePort] = true
	}
	byName := make(map[string]int32)
	for i := range old.Spec.Ports {
		byName[old.Spec.Ports[i].Name] = old.Spec.Ports[i].NodePort
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if had := byName[p.Name]; p.NodePort == 0 && !taken[had] {
			p.NodePort = had
			taken[had] = had != 0
		}
	}
}

// alignAddresses makes clusterIPs follow clusterIP where an old client, which
// knows only the singular, has written.
func alignAddresses(svc, old *corev1.Service) {
	switch {
	case old == nil:
		if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		}
	case svc.Spec.ClusterIP == old.Spec.ClusterIP:
		if len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	case slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs):
		svc.Spec.ClusterIPs = nil
		if svc.Spec.ClusterIP != "" {
			svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		}
	}
}

// planFamilies settles ipFamilyPolicy and ipFamilies.
func (s *Services) planFamilies(svc, old *corev1.Service) error {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || keepsPreference(svc, old) {
		return nil
	}
	selectorless := headless(svc) && len(svc.Spec.Selector) == 0
	if svc.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			policy = *old.Spec.IPFamilyPolicy
		case selectorless:
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		svc.Spec.IPFamilyPolicy = &policy
	}
	if err := s.reconcileFamilies(svc, old); err != nil {
		return err
	}
	if selectorless {
		if len(svc.Spec.IPFamilies) == 0 {
			svc.Spec.IPFamilies = []corev1.IPFamily{s.families()[0]}
		}
		if len(svc.Spec.IPFamilies) == 1 && *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, other(svc.Spec.IPFamilies[0]))
		}
		return nil
	}
	return s.configuredFamilies(svc)
}

// keepsPreference tells that a PreferDualStack service does not change: a
// cluster that became dual-stack, or ceased to be, does not change it either.
func keepsPreference(svc, old *corev1.Service) bool {
	if old == nil || svc.Spec.Type != old.Spec.Type {
		return false
	}
	prefers := func(x *corev1.Service) bool {
		return x.Spec.IPFamilyPolicy != nil && *x.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
	}
	return prefers(svc) && prefers(old) && slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs) &&
		slices.Equal(svc.Spec.IPFamilies, old.Spec.IPFamilies)
}

// reconcileFamilies makes policy, families and addresses say the same, or
// refuses them.
func (s *Services) reconcileFamilies(svc, old *corev1.Service) error {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	single := *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	refuse := func(text string) {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy, text))
	}
	switch {
	case old != nil && single:
		// Asking for a single stack is asking to give up the second.
		if slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs) && len(svc.Spec.ClusterIPs) > 1 {
			svc.Spec.ClusterIPs = svc.Spec.ClusterIPs[:1]
		}
		if slices.Equal(svc.Spec.IPFamilies, old.Spec.IPFamilies) && len(svc.Spec.IPFamilies) > 1 {
			svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1]
		}
	case old != nil:
		if len(svc.Spec.ClusterIPs) > 0 && len(svc.Spec.ClusterIPs) < len(old.Spec.ClusterIPs) {
			refuse("must be 'SingleStack' to release the secondary cluster IP")
		}
		if len(svc.Spec.IPFamilies) > 0 && len(svc.Spec.IPFamilies) < len(old.Spec.IPFamilies) {
			refuse("must be 'SingleStack' to release the secondary IP family")
		}
	}
	if single && len(svc.Spec.ClusterIPs) == 2 {
		refuse("must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified")
	}
	if single && len(svc.Spec.IPFamilies) == 2 {
		refuse("must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified")
	}
	for i, ip := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if ip == corev1.ClusterIPNone || err != nil {
			break // what is no address is for validation to refuse
		}
		family := familyOf(addr)
		switch {
		case i < len(svc.Spec.IPFamilies):
		case slices.Contains(s.families(), family):
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, family)
		default:
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(i), svc.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
		}
	}
	if len(errs) > 0 {
		return invalid(svc, errs...)
	}
	return nil
}

// configuredFamilies refuses families that the cluster has no network of, and
// fills those that are missing.
func (s *Services) configuredFamilies(svc *corev1.Service) error {
	var errs field.ErrorList
	spec, have := field.NewPath("spec"), s.families()
	policy := *svc.Spec.IPFamilyPolicy
	if policy == corev1.IPFamilyPolicyRequireDualStack && len(have) < 2 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range svc.Spec.IPFamilies {
		if !slices.Contains(have, family) {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return invalid(svc, errs...)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = []corev1.IPFamily{have[0]}
	}
	if policy != corev1.IPFamilyPolicySingleStack && len(svc.Spec.IPFamilies) == 1 && len(have) == 2 {
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, other(svc.Spec.IPFamilies[0]))
	}
	return nil
}

// families are those that the cluster has networks of, its own first. A cluster
// without any network (it is just being made) is taken to be IPv4.
func (s *Services) families() []corev1.IPFamily {
	var have []corev1.IPFamily
	for _, network := range s.cluster.Networks() {
		if family := familyOf(network.Addr()); !slices.Contains(have, family) {
			have = append(have, family)
		}
	}
	if len(have) == 0 {
		have = append(have, corev1.IPv4Protocol)
	}
	return have
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
