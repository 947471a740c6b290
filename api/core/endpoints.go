package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// Endpoints is the kind that came before EndpointSlice.
var Endpoints = kind.Of(kind.Spec[*corev1.Endpoints]{
	NameOnUpdate: true,
	New:          func() *corev1.Endpoints { return &corev1.Endpoints{} },
	NewList:      func() runtime.Object { return &corev1.EndpointsList{} },
	Default: func(e *corev1.Endpoints) {
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				setDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	},
	Validate: validateEndpoints,
	ValidateUpdate: func(e, old *corev1.Endpoints) field.ErrorList {
		errs := validateEndpoints(e)
		if len(errs) > 0 && equality.Semantic.DeepEqual(e.Subsets, old.Subsets) {
			return nil // older servers took them so
		}
		return errs
	},
	Warn: func(e, _ *corev1.Endpoints) []string {
		if e.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
			return nil // writes often, and only good addresses
		}
		var texts []string
		path := field.NewPath("subsets")
		for i := range e.Subsets {
			for j, a := range e.Subsets[i].Addresses {
				texts = append(texts, validation.GetWarningsForIP(path.Index(i).Child("addresses").Index(j).Child("ip"), a.IP)...)
			}
			for j, a := range e.Subsets[i].NotReadyAddresses {
				texts = append(texts, validation.GetWarningsForIP(path.Index(i).Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
			}
		}
		return texts
	},
	AllowCreateOnUpdate: true,
	Columns:             []metav1.TableColumnDefinition{column.Name, column.String("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]), column.Age},
	Row: func(e *corev1.Endpoints) []any {
		return []any{e.Name, endpointList(e), column.Since(e.CreationTimestamp)}
	},
})

// endpointList shows three of the addresses.
func endpointList(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return "<none>"
	}
	var shown []string
	count := 0
	for i := range e.Subsets {
		s := &e.Subsets[i]
		for j := range max(len(s.Ports), 1) {
			count += len(s.Addresses)
			for k := 0; k < len(s.Addresses) && len(shown) < 3; k++ {
				text := s.Addresses[k].IP
				if len(s.Ports) > 0 {
					text = net.JoinHostPort(text, strconv.Itoa(int(s.Ports[j].Port)))
				}
				shown = append(shown, text)
			}
		}
	}
	if count > 3 {
		return fmt.Sprintf("%s + %d more...", strings.Join(shown, ","), count-3)
	}
	return strings.Join(shown, ",")
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	return collect(field.NewPath("subsets"), func(p place) {
		for i := range e.Subsets {
			s, at := &e.Subsets[i], p.index(i)
			if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
				at.required("", "must specify `addresses` or `notReadyAddresses`")
			}
			for j := range s.Addresses {
				checkEndpoint(at.child("addresses").index(j), &s.Addresses[j])
			}
			for j := range s.NotReadyAddresses {
				checkEndpoint(at.child("notReadyAddresses").index(j), &s.NotReadyAddresses[j])
			}
			for j := range s.Ports {
				checkEndpointPort(at.child("ports").index(j), &s.Ports[j], len(s.Ports) > 1)
			}
		}
	})
}

func checkEndpoint(p place, a *corev1.EndpointAddress) {
	ip := p.path.Child("ip")
	p.add(ValidateLegacyIP(ip, a.IP, nil)...)
	if a.Hostname != "" {
		p.dnsLabel("hostname", a.Hostname)
	}
	if a.NodeName != nil {
		p.dnsSubdomain("nodeName", *a.NodeName)
	}
	p.add(ValidateEndpointIP(a.IP, ip)...)
}

func checkEndpointPort(p place, port *corev1.EndpointPort, named bool) {
	if port.Name != "" {
		p.dnsLabel("name", port.Name)
	} else if named {
		p.required("name", "")
	}
	p.invalidEach("port", port.Port, validation.IsValidPortNum(int(port.Port)))
	checkProtocol(p, port.Protocol)
	if port.AppProtocol != nil {
		p.qualifiedName("appProtocol", *port.AppProtocol)
	}
}
