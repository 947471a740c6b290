package endpoints

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// group is endpoints that share family and ports, and so may share slices.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// packing is what must be done for slices to hold what they should.
type packing struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// packer puts endpoints into slices. Whoever watches slices pays for each one that
// changes, so the fewest are touched: endpoints stay where they are, new ones go
// first into slices that change anyway, then into one that holds them all, and
// only then into new ones. Slices are not merged as long as none of them changes.
type packer struct {
	most int // endpoints in a slice
	// empty returns a slice with metadata and nothing in it.
	empty func(family discoveryv1.AddressType) *discoveryv1.EndpointSlice
	// mine tells whether a slice may be changed; others are removed.
	mine func(*discoveryv1.EndpointSlice) bool
	// families that have a slice even when there are no endpoints.
	families []discoveryv1.AddressType
}

// pack compares what is with what is wanted. Groups have distinct family and ports.
func (p packer) pack(have []*discoveryv1.EndpointSlice, want []group) (out packing) {
	kept := map[string][]*discoveryv1.EndpointSlice{}
	var spare []*discoveryv1.EndpointSlice // to be removed, but may be written anew instead
	byPorts := map[string]bool{}
	for _, g := range want {
		byPorts[portsKey(g.family, g.ports)] = true
	}
	for _, s := range have {
		key := portsKey(s.AddressType, s.Ports)
		switch {
		case !p.mine(s):
			out.remove = append(out.remove, s)
		case byPorts[key]:
			kept[key] = append(kept[key], s)
		default:
			spare = append(spare, s)
		}
	}
	filled := map[discoveryv1.AddressType]int{} // slices that will hold something
	for _, g := range want {
		plan := p.packGroup(kept[portsKey(g.family, g.ports)], g)
		filled[g.family] += plan.stay
		out.create = append(out.create, plan.create...)
		out.update = append(out.update, plan.update...)
		spare = append(spare, plan.remove...)
	}
	for _, family := range p.families {
		if filled[family] == 0 {
			s := p.empty(family)
			s.Ports, s.Endpoints = []discoveryv1.EndpointPort{}, []discoveryv1.Endpoint{}
			out.create = append(out.create, s)
		}
	}
	p.reuse(&out, spare)
	return out
}

// reuse writes slices that were to go anew instead of creating others.
func (p packer) reuse(out *packing, spare []*discoveryv1.EndpointSlice) {
	slices.SortFunc(spare, byName)
	for _, old := range spare {
		i := slices.IndexFunc(out.create, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == old.AddressType })
		if i < 0 {
			out.remove = append(out.remove, old)
			continue
		}
		next := old.DeepCopy()
		next.Labels, next.Ports, next.Endpoints = out.create[i].Labels, out.create[i].Ports, out.create[i].Endpoints
		p.annotate(next)
		out.create = slices.Delete(out.create, i, i+1)
		if !same(next, old) {
			out.update = append(out.update, next)
		}
	}
}

// annotate gives a slice the annotations that it should have, and leaves others.
func (p packer) annotate(s *discoveryv1.EndpointSlice) {
	for k, v := range p.empty(s.AddressType).Annotations {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[k] = v
	}
}

func same(a, b *discoveryv1.EndpointSlice) bool {
	return apiequality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) && apiequality.Semantic.DeepEqual(a.Ports, b.Ports) &&
		apiequality.Semantic.DeepEqual(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.Annotations, b.Annotations)
}

// groupPlan is a packing of one group; stay counts the slices that will be there.
type groupPlan struct {
	packing
	stay int
}

func (p packer) packGroup(have []*discoveryv1.EndpointSlice, g group) (out groupPlan) {
	missing := map[string]*discoveryv1.Endpoint{}
	var order []string
	for i := range g.endpoints {
		key := endpointKey(&g.endpoints[i])
		if missing[key] == nil {
			order = append(order, key)
		}
		missing[key] = &g.endpoints[i]
	}
	var changed, unchanged []*discoveryv1.EndpointSlice
	for _, old := range have {
		next := old.DeepCopy()
		next.Endpoints = nil
		for i := range old.Endpoints {
			key := endpointKey(&old.Endpoints[i])
			if e := missing[key]; e != nil {
				next.Endpoints = append(next.Endpoints, *e)
				delete(missing, key)
			}
		}
		next.Labels = p.empty(g.family).Labels
		p.annotate(next)
		switch {
		case same(next, old) && len(next.Endpoints) > 0:
			unchanged = append(unchanged, next)
		case len(next.Endpoints) == 0:
			out.remove = append(out.remove, old)
		default:
			changed = append(changed, next)
		}
	}
	var left []discoveryv1.Endpoint
	for _, key := range order {
		if e := missing[key]; e != nil {
			left = append(left, *e)
		}
	}
	slices.SortStableFunc(changed, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(len(b.Endpoints), len(a.Endpoints)) })
	for _, s := range changed {
		left = p.fill(s, left)
	}
	if s := p.roomFor(unchanged, len(left)); s != nil {
		left = p.fill(s, left)
		changed = append(changed, s)
		unchanged = slices.DeleteFunc(unchanged, func(u *discoveryv1.EndpointSlice) bool { return u == s })
	}
	for len(left) > 0 {
		s := p.empty(g.family)
		s.Ports = g.ports
		left = p.fill(s, left)
		out.create = append(out.create, s)
	}
	out.update = changed
	out.stay = len(changed) + len(unchanged) + len(out.create)
	return out
}

// fill moves as many endpoints into the slice as fit, and returns the rest.
func (p packer) fill(s *discoveryv1.EndpointSlice, left []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	n := min(max(0, p.most-len(s.Endpoints)), len(left))
	s.Endpoints = append(s.Endpoints, left[:n]...)
	return left[n:]
}

// roomFor returns the slice that n more endpoints fill best, or nil.
func (p packer) roomFor(among []*discoveryv1.EndpointSlice, n int) (best *discoveryv1.EndpointSlice) {
	if n == 0 {
		return nil
	}
	for _, s := range among {
		if len(s.Endpoints)+n <= p.most && (best == nil || len(s.Endpoints) > len(best.Endpoints)) {
			best = s
		}
	}
	return best
}

func byName(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) }

// endpointKey tells endpoints apart that share ports.
func endpointKey(e *discoveryv1.Endpoint) string {
	key := strings.Join(e.Addresses, ",")
	if ref := e.TargetRef; ref != nil {
		key += "|" + ref.Kind + "/" + ref.Namespace + "/" + ref.Name + "/" + string(ref.UID)
	}
	if e.TargetRef == nil && e.Hostname != nil {
		key += "|" + *e.Hostname
	}
	return key
}

// portsKey is the same for the same family and ports in whatever order.
func portsKey(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	texts := []string{string(family)}
	for _, p := range ports {
		texts = append(texts, fmt.Sprintf("%s %s %s %s", orNone(p.Name), orNone(p.Port), orNone(p.Protocol), orNone(p.AppProtocol)))
	}
	slices.Sort(texts[1:])
	return strings.Join(texts, ";")
}

func orNone[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("%q", fmt.Sprint(*p))
}
