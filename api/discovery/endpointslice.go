// Package discovery says what Kubernetes documents about the kinds of
// discovery.k8s.io/v1: one variable per kind, which api/catalogue.go puts into its
// rows. It never does I/O, and never looks at other objects.
package discovery

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
	maxTopology  = 16
	maxHints     = 8
)

// EndpointSlice is discovery.k8s.io/v1 EndpointSlice.
var EndpointSlice = kind.Of(kind.Spec[*discoveryv1.EndpointSlice]{
	NameOnUpdate: true,
	New:          func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
	NewList:      func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Default: func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			if s.Ports[i].Name == nil {
				s.Ports[i].Name = new("")
			}
			if s.Ports[i].Protocol == nil {
				s.Ports[i].Protocol = new(corev1.ProtocolTCP)
			}
		}
	},
	Create: func(s *discoveryv1.EndpointSlice) { dropTopology(s, nil) },
	Update: func(s, old *discoveryv1.EndpointSlice) {
		if !equality.Semantic.DeepEqual(intent(s), intent(old)) {
			s.Generation = old.Generation + 1 // also where what was changed is dropped now
		}
		if !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
			dropTopology(s, old)
		}
	},
	Intent:   intent,
	Validate: func(s *discoveryv1.EndpointSlice) field.ErrorList { return validateSlice(s, nil) },
	ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
		return append(validateSlice(s, old), check.Unchanged(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
	},
	Warn: warnSlice,
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("AddressType", discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"]),
		column.String("Ports", discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"]),
		column.String("Endpoints", discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"]),
		column.Age,
	},
	Row: func(s *discoveryv1.EndpointSlice) []any {
		var ports, addresses []string
		for _, p := range s.Ports {
			switch {
			case p.Port != nil:
				ports = append(ports, strconv.Itoa(int(*p.Port)))
			case p.Name != nil:
				ports = append(ports, *p.Name)
			default:
				ports = append(ports, "*")
			}
		}
		for i := range s.Endpoints {
			addresses = append(addresses, s.Endpoints[i].Addresses...)
		}
		return []any{s.Name, string(s.AddressType), column.FirstThree(ports), column.FirstThree(addresses), column.Since(s.CreationTimestamp)}
	},
})

func intent(s *discoveryv1.EndpointSlice) any {
	return []any{s.AddressType, s.Endpoints, s.Ports, s.Labels}
}

// dropTopology clears deprecatedTopology, which v1 does not write. A node name in
// it that was there before is kept as the endpoint's own.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	known := map[string]bool{}
	if old != nil {
		for i := range old.Endpoints {
			known[old.Endpoints[i].DeprecatedTopology[corev1.LabelHostname]] = true
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if node := e.DeprecatedTopology[corev1.LabelHostname]; e.NodeName == nil && node != "" && known[node] &&
			len(validation.NameIsDNSSubdomain(node, false)) == 0 {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

func validateSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := check.SetOneOf(s.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	endpoints := validateEndpoints(s, field.NewPath("endpoints"))
	// Older versions took what is refused now; unchanged, it may stay. Comparing is
	// slow, so it is done only after something was refused.
	if len(endpoints) > 0 && old != nil && equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return errs
	}
	return append(errs, endpoints...)
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) (errs field.ErrorList) {
	if len(ports) > maxPorts {
		return append(errs, field.TooMany(path, len(ports), maxPorts))
	}
	names := make([]string, 0, len(ports))
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		name := column.Or(p.Name, "")
		if name != "" {
			errs = append(errs, check.DNSLabel(name, at.Child("name"))...)
		}
		if slices.Contains(names, name) {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names = append(names, name)
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, check.QualifiedName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}

func validateEndpoints(s *discoveryv1.EndpointSlice, path *field.Path) (errs field.ErrorList) {
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, t discoveryv1.AddressType, path *field.Path) (errs field.ErrorList) {
	addresses := path.Child("addresses")
	if n := len(e.Addresses); n == 0 {
		errs = append(errs, field.Required(addresses, ""))
	} else if n > maxAddresses {
		errs = append(errs, field.TooMany(addresses, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(a, t, addresses, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, check.Each(path.Child("nodeName"), *e.NodeName, validation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	topology := path.Child("deprecatedTopology")
	if n := len(e.DeprecatedTopology); n > maxTopology {
		errs = append(errs, field.TooMany(topology, n, maxTopology))
	}
	errs = append(errs, metav1validation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if e.Hostname != nil {
		errs = append(errs, check.DNSLabel(*e.Hostname, path.Child("hostname"))...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
	}
	return errs
}

func validateAddress(a string, t discoveryv1.AddressType, addresses *field.Path, i int) (errs field.ErrorList) {
	at := addresses.Index(i)
	switch t {
	case discoveryv1.AddressTypeIPv4:
		if errs = core.ValidateLegacyIP(at, a, nil); len(errs) == 0 && !netutils.IsIPv4String(a) {
			errs = append(errs, field.Invalid(addresses, a, "must be an IPv4 address"))
		} else if len(errs) > 0 {
			return errs
		}
		return append(errs, core.ValidateEndpointIP(a, at)...)
	case discoveryv1.AddressTypeIPv6:
		if errs = utilvalidation.IsValidIP(at, a); len(errs) == 0 && !netutils.IsIPv6String(a) {
			errs = append(errs, field.Invalid(addresses, a, "must be an IPv6 address"))
		} else if len(errs) > 0 {
			return errs
		}
		return append(errs, core.ValidateEndpointIP(a, at)...)
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(at, a)
	}
	return nil
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) (errs field.ErrorList) {
	zones := path.Child("forZones")
	if n := len(h.ForZones); n > maxHints {
		return append(errs, field.TooMany(zones, n, maxHints))
	}
	for i, z := range h.ForZones {
		at := zones.Index(i).Child("name")
		if slices.Contains(h.ForZones[:i], z) {
			errs = append(errs, field.Duplicate(at, z.Name))
		}
		errs = append(errs, check.Each(at, z.Name, utilvalidation.IsValidLabelValue(z.Name))...)
	}
	nodes := path.Child("forNodes")
	if n := len(h.ForNodes); n > maxHints {
		return append(errs, field.TooMany(nodes, n, maxHints))
	}
	for i, node := range h.ForNodes {
		at := nodes.Index(i).Child("name")
		if slices.Contains(h.ForNodes[:i], node) {
			errs = append(errs, field.Duplicate(at, node.Name))
		}
		errs = append(errs, check.Each(at, node.Name, validation.NameIsDNSSubdomain(node.Name, false))...)
	}
	return errs
}

// Controllers that write only addresses in canonical form; theirs are not read again.
const (
	sliceController    = "endpointslice-controller.k8s.io"
	mirroredController = "endpointslicemirroring-controller.k8s.io"
)

func warnSlice(s, old *discoveryv1.EndpointSlice) (texts []string) {
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		texts = append(texts, "spec.addressType: FQDN endpoints are deprecated")
	}
	if by := s.Labels[discoveryv1.LabelManagedBy]; by == sliceController || by == mirroredController {
		return texts
	}
	for i := range s.Endpoints {
		for j, a := range s.Endpoints[i].Addresses {
			at := field.NewPath("endpoints").Index(i).Child("addresses").Index(j)
			texts = append(texts, utilvalidation.GetWarningsForIP(at, a)...)
		}
	}
	return texts
}
