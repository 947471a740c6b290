//go:build linux

package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"

	mdns "github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/types"
)

// zone is the cluster's domain and the reverse names of its addresses.
type zone struct {
	domain  string // lower case, with its final dot
	ranges  []netip.Prefix
	servers []netip.Addr // of ns.dns.<domain>

	mu         sync.RWMutex
	opened     bool                               // the first state has been seen; guarded by mu
	owned      map[types.NamespacedName][]mdns.RR // records by service; guarded by mu
	names      map[string]*nameEntry              // lower case; guarded by mu
	namespaces map[string]bool                    // guarded by mu
}

// nameEntry is a name that exists: it has records, or names below it do.
type nameEntry struct {
	records []mdns.RR // never changed once answered from: replaced
	below   int       // records at and below this name; the entry goes when it is 0
}

func newZone(domain string, ranges []netip.Prefix, servers []netip.Addr) *zone {
	z := &zone{domain: domain, ranges: ranges, owned: map[types.NamespacedName][]mdns.RR{}, names: map[string]*nameEntry{}, namespaces: map[string]bool{}}
	fixed := []mdns.RR{
		z.soa(domain),
		&mdns.NS{Hdr: header(domain, mdns.TypeNS, serviceTTL), Ns: "ns.dns." + domain},
		&mdns.TXT{Hdr: header("dns-version."+domain, mdns.TypeTXT, serviceTTL), Txt: []string{"1.1.0"}},
	}
	for _, ip := range servers {
		z.servers = append(z.servers, ip)
		fixed = append(fixed, addressRecord("ns.dns."+domain, ip, serviceTTL))
	}
	z.set(types.NamespacedName{}, fixed)
	// These exist even while nothing is in them.
	for _, name := range []string{"svc." + domain, "pod." + domain} {
		z.names[name] = &nameEntry{below: 1}
	}
	return z
}

func (z *zone) soa(owner string) mdns.RR {
	return &mdns.SOA{Hdr: header(owner, mdns.TypeSOA, negativeTTL), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL}
}

// open says that the state is complete: what is not there does not exist.
func (z *zone) open() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.opened = true
}

func (z *zone) setNamespace(name string, exists bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if exists {
		z.namespaces[name] = true
	} else {
		delete(z.namespaces, name)
	}
}

// set replaces the records of a service.
func (z *zone) set(service types.NamespacedName, records []mdns.RR) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, r := range z.owned[service] {
		z.removeLocked(r)
	}
	delete(z.owned, service)
	for _, r := range records {
		z.addLocked(r)
	}
	if len(records) > 0 {
		z.owned[service] = records
	}
}

// path calls f for a name and the names above it, within the domain or the
// reverse tree.
func (z *zone) path(name string, f func(string)) {
	for name != "" && name != "." {
		f(name)
		if name == z.domain || strings.Count(name, ".") <= 2 && strings.HasSuffix(name, ".arpa.") {
			return
		}
		_, name, _ = strings.Cut(name, ".")
	}
}

func (z *zone) addLocked(r mdns.RR) {
	name := r.Header().Name
	z.path(name, func(n string) {
		if z.names[n] == nil {
			z.names[n] = &nameEntry{}
		}
		z.names[n].below++
	})
	e := z.names[name]
	e.records = append(e.records[:len(e.records):len(e.records)], r)
}

func (z *zone) removeLocked(r mdns.RR) {
	name := r.Header().Name
	if e := z.names[name]; e != nil {
		var left []mdns.RR
		for _, other := range e.records {
			if other != r {
				left = append(left, other)
			}
		}
		e.records = left
	}
	z.path(name, func(n string) {
		if e := z.names[n]; e != nil {
			if e.below--; e.below == 0 {
				delete(z.names, n)
			}
		}
	})
}

// answer fills r if the question is the cluster's to answer.
func (z *zone) answer(r *mdns.Msg, q mdns.Question) (ours bool) {
	name := strings.ToLower(q.Name)
	z.mu.RLock()
	defer z.mu.RUnlock()
	authority, ours := z.authorityLocked(name)
	if !ours {
		return false
	}
	r.Authoritative = true
	if !z.opened {
		r.Authoritative = false
		r.Rcode = mdns.RcodeServerFailure
		return true
	}
	records, exists := z.lookupLocked(name)
	r.Answer = pick(records, q)
	switch {
	case !exists:
		r.Rcode = mdns.RcodeNameError
		r.Ns = []mdns.RR{z.soa(authority)}
	case len(r.Answer) == 0:
		r.Ns = []mdns.RR{z.soa(authority)}
	case q.Qtype == mdns.TypeSRV:
		r.Extra = z.targetsLocked(r.Answer)
	}
	return true
}

// authorityLocked is the zone that a name is in: the cluster's, or the reverse
// one of a range or of an address that has a record.
func (z *zone) authorityLocked(name string) (string, bool) {
	if under(name, z.domain) {
		return z.domain, true
	}
	if !strings.HasSuffix(name, ".arpa.") {
		return "", false
	}
	if e := z.names[name]; e != nil && len(e.records) > 0 {
		return name, true
	}
	for _, r := range z.ranges {
		if zone := reverseZone(r); zone != "" && under(name, zone) {
			return zone, true
		}
	}
	return "", false
}

// reverseZone is the reverse name of the whole labels of a range.
func reverseZone(r netip.Prefix) string {
	reverse, err := mdns.ReverseAddr(r.Masked().Addr().String())
	if err != nil {
		return ""
	}
	perLabel, all := 8, 4
	if r.Addr().Is6() {
		perLabel, all = 4, 32
	}
	labels := strings.Split(reverse, ".")
	return strings.Join(labels[all-r.Bits()/perLabel:], ".")
}

// lookupLocked finds a name's records, and whether the name exists.
func (z *zone) lookupLocked(name string) (records []mdns.RR, exists bool) {
	if e := z.names[name]; e != nil {
		return e.records, true
	}
	return z.podLocked(name)
}

// podLocked makes the record of <dashed address>.<namespace>.pod.<domain>, and of
// namespaces, which exist whether or not something is in them.
func (z *zone) podLocked(name string) ([]mdns.RR, bool) {
	rest, isPod := strings.CutSuffix(name, ".pod."+z.domain)
	if !isPod {
		namespace, isService := strings.CutSuffix(name, ".svc."+z.domain)
		return nil, isService && z.namespaces[namespace]
	}
	label, namespace, found := strings.Cut(rest, ".")
	if !found {
		return nil, z.namespaces[rest]
	}
	ip, ok := undashed(label)
	if !ok || !z.namespaces[namespace] {
		return nil, false
	}
	return []mdns.RR{addressRecord(name, ip, serviceTTL)}, true
}

// pick copies the records of the type asked for, in random order, under the name
// as it was asked. An alias answers for every type.
func pick(records []mdns.RR, q mdns.Question) (out []mdns.RR) {
	for _, r := range records {
		kind := r.Header().Rrtype
		if kind == q.Qtype || q.Qtype == mdns.TypeANY || kind == mdns.TypeCNAME {
			r = mdns.Copy(r)
			r.Header().Name = q.Name
			out = append(out, r)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// targetsLocked are the addresses of SRV records' targets.
func (z *zone) targetsLocked(answer []mdns.RR) (extra []mdns.RR) {
	done := map[string]bool{}
	for _, r := range answer {
		srv, ok := r.(*mdns.SRV)
		if !ok || done[srv.Target] || z.names[srv.Target] == nil {
			continue
		}
		done[srv.Target] = true
		for _, at := range z.names[srv.Target].records {
			if kind := at.Header().Rrtype; kind == mdns.TypeA || kind == mdns.TypeAAAA {
				extra = append(extra, mdns.Copy(at))
			}
		}
	}
	return extra
}
