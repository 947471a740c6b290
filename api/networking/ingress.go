package networking

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// classAnnotation is how a class was named before spec.ingressClassName.
const classAnnotation = "kubernetes.io/ingress.class"

// Ingress is networking.k8s.io/v1 Ingress.
var Ingress = kind.Of(kind.Spec[*networkingv1.Ingress]{
	NameOnUpdate: true,
	New:          func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList:      func() runtime.Object { return &networkingv1.IngressList{} },
	Create:       func(i *networkingv1.Ingress) { i.Status = networkingv1.IngressStatus{} },
	Update:       func(i, old *networkingv1.Ingress) { i.Status = old.Status },
	Intent:       func(i *networkingv1.Ingress) any { return &i.Spec },
	Validate:     validateIngressCreate,
	ValidateUpdate: func(i, old *networkingv1.Ingress) field.ErrorList {
		return validateIngress(&i.Spec, stored{
			secretNames: slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(secretName(t.SecretName)) > 0 }),
			wildcards:   slices.ContainsFunc(old.Spec.Rules, badWildcard),
		})
	},
	Subs: map[string]kind.Sub[*networkingv1.Ingress]{"status": {
		Update:   func(i, old *networkingv1.Ingress) { i.Spec = old.Spec },
		Validate: validateIngressStatus,
	}},
	Warn: func(i, old *networkingv1.Ingress) []string {
		if _, ok := i.Annotations[classAnnotation]; ok && old == nil && i.Spec.IngressClassName == nil {
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Class", "The name of the IngressClass resource that should be used for additional configuration"),
		column.String("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
		column.String("Address", "Address is a list containing ingress points for the load-balancer"),
		column.String("Ports", "Ports of TLS configurations that open"),
		column.Age,
	},
	Row: func(i *networkingv1.Ingress) []any {
		ports := "80"
		if len(i.Spec.TLS) > 0 {
			ports = "80, 443"
		}
		return []any{i.Name, column.Or(i.Spec.IngressClassName, "<none>"), hostsCell(i.Spec.Rules), addressCell(&i.Status.LoadBalancer), ports, column.Since(i.CreationTimestamp)}
	},
})

func hostsCell(rules []networkingv1.IngressRule) string {
	var hosts []string
	for _, r := range rules {
		if len(hosts) == 3 {
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-3)
		}
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	return strings.Join(hosts, ",")
}

func addressCell(s *networkingv1.IngressLoadBalancerStatus) string {
	var list []string
	for _, p := range s.Ingress {
		if a := p.IP; a != "" {
			list = append(list, a)
		} else if p.Hostname != "" {
			list = append(list, p.Hostname)
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ",")
}

// stored says which of today's rules the stored ingress broke already.
type stored struct{ secretNames, wildcards bool }

func validateIngressCreate(i *networkingv1.Ingress) field.ErrorList {
	errs := validateIngress(&i.Spec, stored{})
	if class, ok := i.Annotations[classAnnotation]; ok && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngress(s *networkingv1.IngressSpec, lax stored) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		r, at := &s.Rules[i], path.Child("rules").Index(i)
		if r.Host != "" {
			if netutils.ParseIPSloppy(r.Host) != nil {
				errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
			}
			errs = append(errs, validateHost(r.Host, at.Child("host"))...)
		}
		if r.HTTP != nil && !(lax.wildcards && strings.Contains(r.Host, "*")) {
			errs = append(errs, validatePaths(r.HTTP, at.Child("http", "paths"))...)
		}
	}
	for i, t := range s.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range t.Hosts {
			errs = append(errs, validateHost(host, at.Child("hosts").Index(j))...)
		}
		if !lax.secretNames {
			errs = append(errs, check.Each(at.Child("secretName"), t.SecretName, secretName(t.SecretName))...)
		}
	}
	if c := s.IngressClassName; c != nil {
		errs = append(errs, check.Each(path.Child("ingressClassName"), *c, validation.NameIsDNSSubdomain(*c, false))...)
	}
	return errs
}

func secretName(name string) []string {
	if name == "" {
		return nil
	}
	return validation.NameIsDNSSubdomain(name, false)
}

func badWildcard(r networkingv1.IngressRule) bool {
	return strings.Contains(r.Host, "*") && r.HTTP != nil && len(validatePaths(r.HTTP, nil)) > 0
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return check.Each(path, host, utilvalidation.IsWildcardDNS1123Subdomain(host))
	}
	return check.Each(path, host, utilvalidation.IsDNS1123Subdomain(host))
}

func validatePaths(h *networkingv1.HTTPIngressRuleValue, path *field.Path) (errs field.ErrorList) {
	if len(h.Paths) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	for i := range h.Paths {
		errs = append(errs, validatePath(&h.Paths[i], path.Index(i))...)
	}
	return errs
}

func validatePath(p *networkingv1.HTTPIngressPath, path *field.Path) (errs field.ErrorList) {
	at := path.Child("path")
	if p.PathType == nil {
		return append(errs, field.Required(path.Child("pathType"), "pathType must be specified"))
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, validateBackend(&p.Backend, path.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, path *field.Path) (errs field.ErrorList) {
	switch {
	case b.Resource != nil && b.Service != nil:
		return append(errs, field.Invalid(path, "", "cannot set both resource and service backends"))
	case b.Resource != nil:
		return validateReference(b.Resource, path.Child("resource"))
	case b.Service == nil:
		return append(errs, field.Invalid(path, "", "resource or service backend is required"))
	}
	if name := path.Child("service", "name"); b.Service.Name == "" {
		errs = append(errs, field.Required(name, ""))
	} else {
		errs = append(errs, check.Each(name, b.Service.Name, validation.NameIsDNSLabel(b.Service.Name, false))...)
	}
	port, at := b.Service.Port, path.Child("service", "port")
	switch {
	case port.Name != "" && port.Number != 0:
		return append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		return append(errs, check.Each(at.Child("name"), port.Name, utilvalidation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		return append(errs, check.Each(at.Child("number"), port.Number, utilvalidation.IsValidPortNum(int(port.Number)))...)
	}
	return append(errs, field.Required(path, "port name or number is required"))
}

func validateReference(r *corev1.TypedLocalObjectReference, path *field.Path) (errs field.ErrorList) {
	if g := r.APIGroup; g != nil {
		errs = append(errs, check.Each(path.Child("apiGroup"), *g, utilvalidation.IsDNS1123Subdomain(*g))...)
	}
	errs = append(errs, requiredSegment(r.Kind, path.Child("kind"))...)
	return append(errs, requiredSegment(r.Name, path.Child("name"))...)
}

// requiredSegment wants something that can stand in a URL's path.
func requiredSegment(s string, path *field.Path) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.Each(path, s, content.IsPathSegmentName(s))
}

func validateIngressStatus(i, old *networkingv1.Ingress) (errs field.ErrorList) {
	var known []string
	for _, p := range old.Status.LoadBalancer.Ingress {
		if p.IP != "" {
			known = append(known, p.IP)
		}
	}
	for n, p := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if p.IP != "" {
			errs = append(errs, core.ValidateLegacyIP(at.Child("ip"), p.IP, known)...)
		}
		if p.Hostname != "" {
			errs = append(errs, check.Each(at.Child("hostname"), p.Hostname, utilvalidation.IsDNS1123Subdomain(p.Hostname))...)
			if netutils.ParseIPSloppy(p.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), p.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
