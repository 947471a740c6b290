package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/api/column"
)

// validateService checks a service; old is nil on create. What is allocated may
// be unset still.
func validateService(s, old *corev1.Service) field.ErrorList {
	return collect(nil, func(root place) { checkService(root, s, old) })
}

func checkService(root place, s, old *corev1.Service) {
	hints, h := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, m := s.Annotations[corev1.AnnotationTopologyMode]
	if h && m && hints != mode {
		root.child("metadata").child("annotations").key(corev1.AnnotationTopologyMode).invalid("", mode,
			"must match annotations["+corev1.DeprecatedAnnotationTopologyAwareHints+"] when both are specified")
	}
	p, spec := root.child("spec"), &s.Spec
	if len(spec.Ports) == 0 && !headless(spec) && spec.Type != corev1.ServiceTypeExternalName {
		p.required("ports", "")
	}
	checkServiceType(p, spec)
	checkServicePorts(p.child("ports"), spec)
	if spec.Selector != nil {
		p.add(metav1validation.ValidateLabels(spec.Selector, p.at("selector"))...)
	}
	checkSessionAffinity(p, spec)
	if spec.Type != corev1.ServiceTypeExternalName {
		checkClusterIPs(p, s, old)
	}
	var known []string
	if old != nil {
		known = old.Spec.ExternalIPs
	}
	for i, ip := range spec.ExternalIPs {
		at := p.path.Child("externalIPs").Index(i)
		errs := ValidateLegacyIP(at, ip, known)
		if len(errs) == 0 {
			errs = ValidateEndpointIP(ip, at)
		}
		p.add(errs...)
	}
	setOneOf(p, "type", spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	checkPortClashes(p.child("ports"), spec)
	checkSourceRanges(root, s, old)
	checkLoadBalancer(root, spec)
	checkTraffic(p, spec)
}

func checkServiceType(p place, s *corev1.ServiceSpec) {
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(s) {
			p.child("clusterIPs").index(0).invalid("", corev1.ClusterIPNone, "may not be set to 'None' for "+string(s.Type)+" services")
		}
	case corev1.ServiceTypeExternalName:
		const why = "may not be set for ExternalName services"
		if len(s.ClusterIPs) > 0 {
			p.forbidden("clusterIPs", why)
		}
		if len(s.IPFamilies) > 0 {
			p.forbidden("ipFamilies", why)
		}
		if s.IPFamilyPolicy != nil {
			p.forbidden("ipFamilyPolicy", why)
		}
		if name := strings.TrimSuffix(s.ExternalName, "."); p.wants("externalName", name) {
			p.dnsSubdomain("externalName", name)
		}
	}
}

func checkServicePorts(p place, s *corev1.ServiceSpec) {
	for i := range s.Ports {
		port, at := &s.Ports[i], p.index(i)
		switch {
		case port.Name != "":
			at.dnsLabel("name", port.Name)
			if slices.ContainsFunc(s.Ports[:i], func(b corev1.ServicePort) bool { return b.Name == port.Name }) {
				at.duplicate("name", port.Name)
			}
		case len(s.Ports) > 1:
			at.required("name", "")
		}
		at.invalidEach("port", port.Port, validation.IsValidPortNum(int(port.Port)))
		checkProtocol(at, port.Protocol)
		checkPort(at, "targetPort", port.TargetPort)
		if port.AppProtocol != nil {
			at.qualifiedName("appProtocol", *port.AppProtocol)
		}
	}
}

// checkPortClashes: no two ports are the same, by protocol.
func checkPortClashes(p place, s *corev1.ServiceSpec) {
	for i, port := range s.Ports {
		if port.NodePort == 0 {
			continue
		}
		if s.Type == corev1.ServiceTypeClusterIP {
			p.index(i).forbidden("nodePort", "may not be used when `type` is 'ClusterIP'")
		}
		if slices.ContainsFunc(s.Ports[:i], func(b corev1.ServicePort) bool { return b.Protocol == port.Protocol && b.NodePort == port.NodePort }) {
			p.index(i).duplicate("nodePort", port.NodePort)
		}
	}
	for i, port := range s.Ports {
		if slices.ContainsFunc(s.Ports[:i], func(b corev1.ServicePort) bool { return b.Protocol == port.Protocol && b.Port == port.Port }) {
			p.index(i).duplicate("", corev1.ServicePort{Protocol: port.Protocol, Port: port.Port})
		}
	}
}

func checkSessionAffinity(p place, s *corev1.ServiceSpec) {
	setOneOf(p, "sessionAffinity", s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config, at := s.SessionAffinityConfig, p.child("sessionAffinityConfig")
	const when = "when session affinity type is ClientIP"
	switch {
	case s.SessionAffinity == corev1.ServiceAffinityNone:
		if config != nil {
			at.forbidden("", "must not be set when session affinity is None")
		}
	case s.SessionAffinity != corev1.ServiceAffinityClientIP:
	case config == nil:
		at.required("", when)
	case config.ClientIP == nil:
		at.required("clientIP", when)
	case config.ClientIP.TimeoutSeconds == nil:
		at.child("clientIP").required("timeoutSeconds", when)
	default:
		if t := *config.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			at.child("clientIP").invalid("timeoutSeconds", t, "must be greater than 0 and less than 86400")
		}
	}
}

// checkClusterIPs checks the service's addresses and families against each other.
func checkClusterIPs(p place, svc, old *corev1.Service) {
	s, list := &svc.Spec, p.child("clusterIPs")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		list.invalid("", s.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		list.required("", "")
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		list.invalid("", s.ClusterIPs, "first value must match `clusterIP`")
	}
	for i, f := range s.IPFamilies {
		at := p.child("ipFamilies").index(i)
		oneOf(at, "", f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if slices.Contains(s.IPFamilies[:i], f) {
			at.duplicate("", f)
		}
	}
	if s.IPFamilyPolicy != nil {
		oneOf(p, "ipFamilyPolicy", *s.IPFamilyPolicy, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	valid := true
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				valid = false
				list.invalid("", s.ClusterIPs, "'None' must be the first and only value")
			}
			continue
		}
		errs := ValidateLegacyIP(list.path.Index(i), ip, known)
		valid = valid && len(errs) == 0
		p.add(errs...)
	}
	if len(s.ClusterIPs) > 2 {
		list.invalid("", s.ClusterIPs, "may only hold up to 2 values")
	}
	if !valid {
		return
	}
	if len(s.ClusterIPs) > 1 {
		both, err := netutils.IsDualStackIPStrings(s.ClusterIPs)
		if err != nil { // a stored address that is not valid was taken above
			list.add(field.InternalError(list.path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		}
		if !both {
			list.invalid("", s.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	if headless(s) {
		return
	}
	for i := range min(len(s.ClusterIPs), len(s.IPFamilies)) {
		ip, six := s.ClusterIPs[i], netutils.IsIPv6String(s.ClusterIPs[i])
		if want := s.IPFamilies[i]; want == corev1.IPv4Protocol && six || want == corev1.IPv6Protocol && !six {
			list.index(i).invalid("", ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", want, i))
		}
	}
}

const sourceRangesAnnotation = corev1.AnnotationLoadBalancerSourceRangesKey

// checkSourceRanges checks who may reach the load balancer. Blanks around a range
// are part of the API since these came from an annotation.
func checkSourceRanges(root place, s, old *corev1.Service) {
	const onlyLB = "may only be used when `type` is 'LoadBalancer'"
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		p := root.child("spec").child("LoadBalancerSourceRanges")
		if !balanced {
			p.forbidden("", onlyLB)
		}
		var known []string
		if old != nil {
			for _, r := range old.Spec.LoadBalancerSourceRanges {
				known = append(known, strings.TrimSpace(r))
			}
		}
		for i, r := range s.Spec.LoadBalancerSourceRanges {
			p.add(ValidateLegacyCIDR(p.path.Index(i), strings.TrimSpace(r), known)...)
		}
		return
	}
	text, ok := s.Annotations[sourceRangesAnnotation]
	if !ok {
		return
	}
	p := root.child("metadata").child("annotations").key(sourceRangesAnnotation)
	if !balanced {
		p.forbidden("", onlyLB)
	}
	if text = strings.TrimSpace(text); text == "" || old != nil && old.Annotations[sourceRangesAnnotation] == s.Annotations[sourceRangesAnnotation] {
		return
	}
	for r := range strings.SplitSeq(text, ",") {
		p.add(ValidateLegacyCIDR(p.path, strings.TrimSpace(r), nil)...)
	}
}

func checkLoadBalancer(root place, s *corev1.ServiceSpec) {
	const onlyLB = "may only be used when `type` is 'LoadBalancer'"
	p := root.child("spec")
	if s.Type != corev1.ServiceTypeLoadBalancer {
		if s.AllocateLoadBalancerNodePorts != nil {
			p.forbidden("allocateLoadBalancerNodePorts", onlyLB)
		}
		if s.LoadBalancerClass != nil {
			p.forbidden("loadBalancerClass", onlyLB)
		}
		return
	}
	if s.AllocateLoadBalancerNodePorts == nil {
		root.required("allocateLoadBalancerNodePorts", "")
	}
	if s.LoadBalancerClass != nil {
		p.qualifiedName("loadBalancerClass", *s.LoadBalancerClass)
	}
}

func checkTraffic(p place, s *corev1.ServiceSpec) {
	if reachedFromOutside(s) {
		setOneOf(p, "externalTrafficPolicy", s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.ExternalTrafficPolicy != "" {
		p.invalid("externalTrafficPolicy", s.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	if port := s.HealthCheckNodePort; port != 0 && !needsHealthCheck(s) {
		p.invalid("healthCheckNodePort", port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	} else if port != 0 {
		p.invalidEach("healthCheckNodePort", port, validation.IsValidPortNum(int(port)))
	}
	if i := s.InternalTrafficPolicy; i != nil {
		oneOf(p, "internalTrafficPolicy", *i, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	} else if s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeClusterIP {
		p.required("internalTrafficPolicy", "")
	}
	if d := s.TrafficDistribution; d != nil {
		oneOf(p, "trafficDistribution", *d, corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}

// validateServiceUpdate: addresses and families of a service stay, but a second
// one may come and go.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	return collect(nil, func(root place) {
		p, now, was := root.child("spec"), &s.Spec, &old.Spec
		if now.Type != corev1.ServiceTypeExternalName && was.Type != corev1.ServiceTypeExternalName {
			if !headless(now) || !headless(was) {
				checkAddressChange(p, now, was)
			}
			if !headless(now) && !headless(was) {
				checkFamilyChange(p, now, was)
			}
		}
		if now.Type == corev1.ServiceTypeLoadBalancer && was.Type == corev1.ServiceTypeLoadBalancer && !samePtr(now.LoadBalancerClass, was.LoadBalancerClass) {
			p.invalid("loadBalancerClass", now.LoadBalancerClass, "may not change once set")
		}
		if needsHealthCheck(now) && needsHealthCheck(was) && now.HealthCheckNodePort != was.HealthCheckNodePort {
			p.forbidden("healthCheckNodePort", "field is immutable")
		}
		checkService(root, s, old)
	})
}

func singleStack(s *corev1.ServiceSpec) bool {
	return column.Or(s.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack
}

func checkAddressChange(p place, now, was *corev1.ServiceSpec) {
	changed := func(i int) { p.child("clusterIPs").index(i).invalid("", now.ClusterIPs, "may not change once set") }
	if len(now.ClusterIPs) == len(was.ClusterIPs) {
		for i := range was.ClusterIPs {
			if was.ClusterIPs[i] != now.ClusterIPs[i] {
				changed(i)
			}
		}
		return
	}
	if len(now.ClusterIPs) == 0 {
		p.child("clusterIPs").index(0).invalid("", now.ClusterIPs, "primary clusterIP can not be unset")
		return
	}
	if len(was.ClusterIPs) > 0 && was.ClusterIPs[0] != now.ClusterIPs[0] {
		changed(0)
	}
	if len(was.ClusterIPs) > len(now.ClusterIPs) && len(now.ClusterIPs) == 1 && !singleStack(now) {
		p.invalid("ipFamilyPolicy", now.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP")
	}
}

func checkFamilyChange(p place, now, was *corev1.ServiceSpec) {
	first := p.child("ipFamilies")
	if len(now.IPFamilies) == len(was.IPFamilies) {
		for i := range was.IPFamilies {
			if was.IPFamilies[i] != now.IPFamilies[i] {
				first.index(0).invalid("", now.IPFamilies, "may not change once set")
			}
		}
		return
	}
	fewer := len(was.IPFamilies) > len(now.IPFamilies)
	if fewer && len(now.ClusterIPs) == 0 {
		first.index(0).invalid("", now.IPFamilies, "primary ipFamily can not be unset")
	}
	if len(now.IPFamilies) > 0 && len(was.IPFamilies) > 0 && now.IPFamilies[0] != was.IPFamilies[0] {
		first.index(0).invalid("", now.ClusterIPs, "may not change once set")
	}
	if fewer && len(now.IPFamilies) == 1 && !singleStack(now) {
		p.invalid("ipFamilyPolicy", now.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily")
	}
}

// checkIngress checks the addresses that a load balancer gave the service.
func checkIngress(p place, s, old *corev1.Service) {
	list := s.Status.LoadBalancer.Ingress
	if len(list) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		p.forbidden("", "may only be used when `spec.type` is 'LoadBalancer'")
		return
	}
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			known = append(known, in.IP)
		}
	}
	for i, in := range list {
		at := p.index(i)
		if in.IP != "" {
			at.add(ValidateLegacyIP(at.path.Child("ip"), in.IP, known)...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			at.required("ipMode", "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			at.forbidden("ipMode", "may not be specified when `ip` is not set")
		case in.IPMode != nil:
			oneOf(at, "ipMode", *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if in.Hostname != "" {
			at.dnsSubdomain("hostname", in.Hostname)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				at.invalid("hostname", in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
}
