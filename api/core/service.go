package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// Service is the kind of a name and address for a set of pods. What is allocated
// (addresses, node ports, families) is apiserver's, and so is what an update keeps
// of that.
var Service = kind.Of(kind.Spec[*corev1.Service]{
	New:     func() *corev1.Service { return &corev1.Service{} },
	NewList: func() runtime.Object { return &corev1.ServiceList{} },
	Default: defaultService,
	Create:  func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} },
	Update: func(s, old *corev1.Service) {
		s.Status = old.Status
		dropOfOtherTypes(s, old)
	},
	ValidateName:   validation.NameIsDNSLabel,
	Validate:       func(s *corev1.Service) field.ErrorList { return validateService(s, nil) },
	ValidateUpdate: validateServiceUpdate,
	Subs: map[string]kind.Sub[*corev1.Service]{"status": {
		Update: func(s, old *corev1.Service) { s.Spec = old.Spec },
		Validate: func(s, old *corev1.Service) field.ErrorList {
			return collect(field.NewPath("status", "loadBalancer", "ingress"), func(p place) { checkIngress(p, s, old) })
		},
	}},
	Warn: warnService,
	Fields: func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	},
	AllowCreateOnUpdate: true,
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Type", corev1.ServiceSpec{}.SwaggerDoc()["type"]),
		column.String("Cluster-IP", corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"]),
		column.String("External-IP", corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"]),
		column.String("Port(s)", corev1.ServiceSpec{}.SwaggerDoc()["ports"]),
		column.Age,
		column.Wide("Selector", corev1.ServiceSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(s *corev1.Service) []any {
		ip := "<none>"
		if len(s.Spec.ClusterIPs) > 0 {
			ip = s.Spec.ClusterIPs[0]
		}
		return []any{s.Name, string(s.Spec.Type), ip, externalAddresses(s), portList(s.Spec.Ports), column.Since(s.CreationTimestamp), labels.FormatLabels(s.Spec.Selector)}
	},
})

func portList(ports []corev1.ServicePort) string {
	list := make([]string, len(ports))
	for i, p := range ports {
		if p.NodePort > 0 {
			list[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		} else {
			list[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		}
	}
	return orNone(strings.Join(list, ","))
}

func externalAddresses(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var list []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				list = append(list, in.IP)
			} else if in.Hostname != "" {
				list = append(list, in.Hostname)
			}
		}
		slices.Sort(list)
		list = append(slices.Compact(list), s.Spec.ExternalIPs...)
		if len(list) == 0 {
			return "<pending>"
		}
		return strings.Join(list, ",")
	}
	return "<unknown>"
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	setDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch c := spec.SessionAffinityConfig; {
	case spec.SessionAffinity == corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case spec.SessionAffinity != corev1.ServiceAffinityClientIP:
	case c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil:
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{
			TimeoutSeconds: new(corev1.DefaultClientIPServiceAffinitySeconds)}}
	}
	setDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		setDefault(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if reachedFromOutside(spec) {
		setDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || spec.Type == corev1.ServiceTypeClusterIP {
		setDefaultPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefaultPtr(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				setDefaultPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// reachedFromOutside tells whether traffic from outside the cluster comes in.
func reachedFromOutside(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
}

// needsHealthCheck tells whether load balancers ask nodes if they have endpoints.
func needsHealthCheck(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func needsNodePorts(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
}

func headless(s *corev1.ServiceSpec) bool {
	return len(s.ClusterIPs) == 1 && s.ClusterIPs[0] == corev1.ClusterIPNone
}

// dropOfOtherTypes clears what the service's new type has no use for, where the
// client did not change it at the same time.
func dropOfOtherTypes(s, old *corev1.Service) {
	now, was := &s.Spec, &old.Spec
	if now.Type == corev1.ServiceTypeExternalName && was.Type != corev1.ServiceTypeExternalName {
		if now.ClusterIP == was.ClusterIP && slices.Equal(now.ClusterIPs, was.ClusterIPs) {
			now.ClusterIP, now.ClusterIPs = "", nil
		}
		if slices.Equal(now.IPFamilies, was.IPFamilies) {
			now.IPFamilies = nil
		}
		if column.Or(now.IPFamilyPolicy, "") == column.Or(was.IPFamilyPolicy, "") {
			now.IPFamilyPolicy = nil
		}
	}
	if needsNodePorts(was) && !needsNodePorts(now) {
		added := slices.ContainsFunc(now.Ports, func(p corev1.ServicePort) bool {
			return p.NodePort != 0 && !slices.ContainsFunc(was.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort })
		})
		for i := range now.Ports {
			if !added {
				now.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthCheck(was) && !needsHealthCheck(now) && now.HealthCheckNodePort == was.HealthCheckNodePort {
		now.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && now.Type != corev1.ServiceTypeLoadBalancer {
		if a, b := now.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			now.AllocateLoadBalancerNodePorts = nil
		}
		if samePtr(now.LoadBalancerClass, was.LoadBalancerClass) {
			now.LoadBalancerClass = nil
		}
	}
	if reachedFromOutside(was) && !reachedFromOutside(now) && now.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		now.ExternalTrafficPolicy = ""
	}
	if now.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func samePtr[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

func warnService(s, _ *corev1.Service) []string {
	w, spec := warner{}, field.NewPath("spec")
	ips := func(path *field.Path, list []string) {
		for i, ip := range list {
			w.texts = append(w.texts, utilvalidation.GetWarningsForIP(path.Index(i), ip)...)
		}
	}
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		w.add("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	}
	none := s.Spec.ClusterIP == corev1.ClusterIPNone
	if s.Spec.ClusterIP != "" && !none {
		ips(spec.Child("clusterIPs"), s.Spec.ClusterIPs)
	}
	none = none && s.Spec.Type == corev1.ServiceTypeClusterIP
	if none && s.Spec.LoadBalancerIP != "" {
		w.add("spec.loadBalancerIP is ignored for headless services")
	}
	if none && len(s.Spec.ExternalIPs) > 0 {
		w.add("spec.externalIPs is ignored for headless services")
	}
	if none && s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
		w.add("spec.SessionAffinity is ignored for headless services")
	}
	ips(spec.Child("externalIPs"), s.Spec.ExternalIPs)
	external := s.Spec.Type == corev1.ServiceTypeExternalName
	if len(s.Spec.ExternalIPs) > 0 && !none && !external {
		w.add("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if ip := s.Spec.LoadBalancerIP; ip != "" {
		w.texts = append(w.texts, utilvalidation.GetWarningsForIP(spec.Child("loadBalancerIP"), ip)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		w.texts = append(w.texts, utilvalidation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if external && len(s.Spec.ExternalIPs) > 0 {
		w.add("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	}
	if !external && s.Spec.ExternalName != "" {
		w.add("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	}
	if column.Or(s.Spec.TrafficDistribution, "") == corev1.ServiceTrafficDistributionPreferClose {
		w.add("spec.trafficDistribution: %q is deprecated; use %q", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	}
	return w.texts
}
