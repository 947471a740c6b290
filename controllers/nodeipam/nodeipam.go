// Package nodeipam gives each node that comes without one a range of pod
// addresses (spec.podCIDRs) out of the cluster's. Nodes that bring their own keep
// it. All nodes are one key: which range is free depends on all of them.
package nodeipam

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Range is one of the cluster's ranges, of one family, and how large a node's part
// of it is.
type Range struct {
	Cluster netip.Prefix
	Bits    int // of a node's prefix; 0: 24 for IPv4, 64 for IPv6
}

func (r Range) bits() int {
	switch {
	case r.Bits > 0:
		return r.Bits
	case r.Cluster.Addr().Is4():
		return 24
	}
	return 64
}

var all = loop.Key{Name: "all nodes"}

// atOnce bounds how many nodes one plan serves.
const atOnce = 100

// Controller is the row of the table.
func Controller(ranges []Range) loop.Controller {
	return loop.Controller{
		Name:   "node-controller",
		Reads:  []*api.Resource{api.For[*corev1.Node]()},
		Writes: []string{"nodes"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if c.New == nil || len(c.New.(*corev1.Node).Spec.PodCIDRs) == 0 && (c.Old == nil || c.Old.GetUID() != c.New.GetUID()) {
				return []loop.Key{all} // a range is wanted, or one became free
			}
			return nil
		},
		Decide: func(v *client.View, _ loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
			return decide(v, ranges, now, m)
		},
	}
}

// told is the memory: nodes whose users know that there is no range left.
type told map[types.UID]bool

func decide(v *client.View, ranges []Range, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	var plan loop.Plan
	if len(ranges) == 0 {
		return plan, nil
	}
	free := freeOf(v, ranges)
	before, _ := m.(told)
	after := told{}
	for node := range client.All[*corev1.Node](v, "") {
		if len(node.Spec.PodCIDRs) > 0 || node.Spec.PodCIDR != "" || node.DeletionTimestamp != nil {
			continue
		}
		given, ok := take(free)
		switch {
		case !ok:
			if !before[node.UID] {
				plan.Events = append(plan.Events, loop.Normal(node, "CIDRNotAvailable", fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name)))
			}
			after[node.UID] = true
		case len(plan.Writes) < atOnce:
			plan.Writes = append(plan.Writes, patch(node, given))
		default:
			plan.WakeAt = now // the rest, when these are seen
		}
	}
	if len(after) == 0 {
		return plan, nil
	}
	return plan, after
}

// free are the parts of a range that no node has, by number, lowest first.
type free struct {
	Range
	used []span // in order
	next uint64
}

// span of numbers of parts, both ends included.
type span struct{ from, to uint64 }

func freeOf(v *client.View, ranges []Range) []*free {
	out := make([]*free, len(ranges))
	for i, r := range ranges {
		out[i] = &free{Range: r}
	}
	for node := range client.All[*corev1.Node](v, "") {
		for _, text := range node.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				continue // validation does not let it in
			}
			for _, f := range out {
				if f.Cluster.Overlaps(p) {
					f.used = append(f.used, f.spanOf(p.Masked()))
				}
			}
		}
	}
	for _, f := range out {
		slices.SortFunc(f.used, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	}
	return out
}

// spanOf returns the parts that p touches; p overlaps the range.
func (r Range) spanOf(p netip.Prefix) span {
	if p.Bits() <= r.Cluster.Bits() {
		return span{0, r.parts() - 1}
	}
	if p.Bits() >= r.bits() {
		n := r.number(p.Addr())
		return span{n, n}
	}
	from := r.number(p.Addr())
	return span{from, from + 1<<(r.bits()-p.Bits()) - 1}
}

func (r Range) parts() uint64 { return 1 << (r.bits() - r.Cluster.Bits()) }

// number of the part that addr is in.
func (r Range) number(addr netip.Addr) (n uint64) {
	bytes := addr.AsSlice()
	for bit := r.Cluster.Bits(); bit < r.bits(); bit++ {
		n = n<<1 | uint64(bytes[bit/8]>>(7-bit%8)&1)
	}
	return n
}

// part is the prefix with that number.
func (r Range) part(n uint64) netip.Prefix {
	bytes := r.Cluster.Masked().Addr().AsSlice()
	for bit := r.bits() - 1; bit >= r.Cluster.Bits(); bit-- {
		bytes[bit/8] |= byte(n&1) << (7 - bit%8)
		n >>= 1
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, r.bits())
}

// take takes a part of each range; false: one of them has none left, and then
// nothing is taken.
func take(ranges []*free) (given []string, ok bool) {
	for _, f := range ranges {
		for len(f.used) > 0 && f.used[0].from <= f.next {
			f.next = max(f.next, f.used[0].to+1)
			f.used = f.used[1:]
		}
		if f.next >= f.parts() {
			return nil, false
		}
	}
	for _, f := range ranges {
		given = append(given, f.part(f.next).String())
		f.next++
	}
	return given, true
}

// patch gives ranges to exactly this node in exactly this state: had it brought
// its own meanwhile, the patch conflicts, and nothing needs to be done.
func patch(node *corev1.Node, given []string) loop.Write {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"podCIDR": given[0], "podCIDRs": given},
	})
	if err != nil {
		panic(fmt.Sprintf("ranges always have a JSON form: %v", err))
	}
	return loop.Patch(node, client.Patch{Type: types.MergePatchType, Data: data})
}
