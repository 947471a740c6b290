//go:build linux

package dns

import (
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// How long clients may keep answers, in seconds. The address of a service hardly
// ever changes; endpoints come and go, and what is not there may come any moment.
const (
	serviceTTL  = 30
	endpointTTL = 5
	negativeTTL = 5
)

func header(name string, kind uint16, ttl uint32) mdns.RR_Header {
	return mdns.RR_Header{Name: strings.ToLower(name), Rrtype: kind, Class: mdns.ClassINET, Ttl: ttl}
}

func addressRecord(name string, ip netip.Addr, ttl uint32) mdns.RR {
	if ip.Is4() {
		return &mdns.A{Hdr: header(name, mdns.TypeA, ttl), A: ip.AsSlice()}
	}
	return &mdns.AAAA{Hdr: header(name, mdns.TypeAAAA, ttl), AAAA: ip.AsSlice()}
}

func reverseRecord(ip netip.Addr, name string, ttl uint32) []mdns.RR {
	reverse, err := mdns.ReverseAddr(ip.String())
	if err != nil {
		return nil
	}
	return []mdns.RR{&mdns.PTR{Hdr: header(reverse, mdns.TypePTR, ttl), Ptr: name}}
}

// recordsOf are all records of a service, in the order of their addresses.
func recordsOf(domain string, service *corev1.Service, parts []*discoveryv1.EndpointSlice) []mdns.RR {
	name := strings.ToLower(service.Name + "." + service.Namespace + ".svc." + domain)
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		target := mdns.CanonicalName(service.Spec.ExternalName)
		if _, ok := mdns.IsDomainName(target); !ok || target == "." || len(target) > 254 {
			return nil
		}
		return []mdns.RR{&mdns.CNAME{Hdr: header(name, mdns.TypeCNAME, endpointTTL), Target: target}}
	case service.Spec.ClusterIP == corev1.ClusterIPNone:
		return headlessRecords(name, parts)
	}
	return clusterRecords(name, service)
}

func clusterRecords(name string, service *corev1.Service) (records []mdns.RR) {
	ips := service.Spec.ClusterIPs
	if len(ips) == 0 && service.Spec.ClusterIP != "" {
		ips = []string{service.Spec.ClusterIP}
	}
	for _, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		records = append(records, addressRecord(name, ip, serviceTTL))
		records = append(records, reverseRecord(ip, name, serviceTTL)...)
	}
	if len(records) == 0 {
		return nil // it has no address yet
	}
	for _, port := range service.Spec.Ports {
		records = append(records, portRecord(name, name, port.Name, string(port.Protocol), uint16(port.Port), serviceTTL)...)
	}
	return records
}

// portRecord is the SRV record of a named port.
func portRecord(service, target, port, protocol string, number uint16, ttl uint32) []mdns.RR {
	if port == "" {
		return nil
	}
	if protocol == "" {
		protocol = "tcp"
	}
	return []mdns.RR{&mdns.SRV{Hdr: header("_"+port+"._"+protocol+"."+service, mdns.TypeSRV, ttl), Priority: 0, Weight: 100, Port: number, Target: target}}
}

// headlessRecords are those of a service whose endpoints speak for themselves.
func headlessRecords(name string, parts []*discoveryv1.EndpointSlice) (records []mdns.RR) {
	seen := map[string]bool{}
	add := func(more ...mdns.RR) {
		for _, r := range more {
			if !seen[r.String()] {
				seen[r.String()] = true
				records = append(records, r)
			}
		}
	}
	for _, slice := range parts {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				own := hostname(e, ip) + "." + name
				add(addressRecord(name, ip, endpointTTL), addressRecord(own, ip, endpointTTL))
				add(reverseRecord(ip, own, endpointTTL)...)
				for _, p := range slice.Ports {
					if p.Name != nil && p.Port != nil {
						add(portRecord(name, own, *p.Name, protocol(p), uint16(*p.Port), endpointTTL)...)
					}
				}
			}
		}
	}
	slices.SortStableFunc(records, func(a, b mdns.RR) int { return strings.Compare(a.String(), b.String()) })
	return records
}

func protocol(p discoveryv1.EndpointPort) string {
	if p.Protocol == nil {
		return "tcp"
	}
	return string(*p.Protocol)
}

// hostname is an endpoint's own name, or one made from its address.
func hostname(e discoveryv1.Endpoint, ip netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return dashed(ip)
}

func dashed(ip netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

// undashed reads an address from a pod's name: 10-64-1-2, or an IPv6 address
// with dashes for colons.
func undashed(label string) (netip.Addr, bool) {
	if ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil && ip.Is4() {
		return ip, true
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return ip, err == nil && ip.Is6()
}
