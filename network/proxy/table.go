//go:build linux

package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// What a table holds besides the services' chains. A packet passes, on its way
// in or out of a local program:
//
//	before      (filter, earlier than address translation) load balancers'
//	            source ranges; services without endpoints are refused
//	services    (nat) to the chain of a service, which chooses an endpoint
//	after       (filter) what still goes to a service address is rejected
//	postrouting (nat) what must come back this way is masqueraded
const (
	chainBefore   = "before"
	chainServices = "services"
	chainAfter    = "after"
	chainReject   = "reject-it"
	chainMark     = "mark-for-masquerade"

	mapServiceIPs       = "service-ips"       // address . protocol . port → chain
	mapNodePorts        = "service-nodeports" // protocol . port → chain
	mapRefusedIPs       = "refused-ips"       // no endpoints
	mapRefusedNodePorts = "refused-nodeports"
	mapFirewall         = "firewall-ips" // source ranges

	setClusterIPs    = "cluster-ips"
	setClusterCIDRs  = "cluster-cidrs"
	setServiceRanges = "service-ranges"
	setNodeIPs       = "node-ips"
	setHairpin       = "hairpin" // (endpoint, endpoint)
)

// mark is set on packets that will be masqueraded; the bit is upstream's.
const mark = "0x4000"

// table is one family's nftables table, and what was written to it.
type table struct {
	family knftables.Family
	nft    knftables.Interface
	c      *Config

	synced bool // parts is what the kernel has
	parts  map[types.NamespacedName]*part
	// claims are the elements that parts want. Two services may want one (an
	// external address): the first by name has it.
	claims map[element]map[types.NamespacedName]string
	stale  staleFlows // to be forgotten once the parts are written
}

func newTable(family knftables.Family, nft knftables.Interface, c *Config) *table {
	return &table{family: family, nft: nft, c: c, parts: map[types.NamespacedName]*part{}, claims: map[element]map[types.NamespacedName]string{},
		stale: staleFlows{}}
}

// forget makes the next write a full one.
func (t *table) forget() { t.synced = false }

// write brings the kernel's table to the parts that changed, in one transaction.
func (t *table) write(ctx context.Context, changed map[types.NamespacedName]*part) error {
	d := t.merge(changed)
	if !t.synced {
		if err := t.writeAll(ctx); err != nil {
			return err
		}
		t.synced = true
		return nil
	}
	tx := t.nft.NewTransaction()
	d.write(tx, t)
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := t.nft.Run(ctx, tx); err != nil {
		t.forget()
		return fmt.Errorf("change the services' %s table: %w", t.family, err)
	}
	return nil
}

// forgetFlows makes the kernel forget the UDP flows that are stale after a write.
func (t *table) forgetFlows(node nodeInfo) error {
	stale := t.stale
	t.stale = staleFlows{}
	return stale.flush(t.family, node)
}

// difference is what a merge changed.
type difference struct {
	chains, goneChains         map[string][]string // with their new rules; goneChains: nil
	affinities, goneAffinities map[string]time.Duration
	added, removed             map[element]string
}

// merge takes the parts in and returns what differs now.
func (t *table) merge(changed map[types.NamespacedName]*part) *difference {
	d := &difference{chains: map[string][]string{}, goneChains: map[string][]string{}, affinities: map[string]time.Duration{},
		goneAffinities: map[string]time.Duration{}, added: map[element]string{}, removed: map[element]string{}}
	touched := map[element]*string{} // the value before; nil: there was none
	for name, next := range changed {
		old := t.parts[name]
		if old == nil {
			old = &part{}
		}
		d.compareChains(old, next)
		for e := range old.elements {
			t.touch(touched, e)
		}
		for e := range next.elements {
			t.touch(touched, e)
		}
		t.claim(name, old, next)
		t.stale.compare(old, next)
		if next.chains == nil && next.elements == nil {
			delete(t.parts, name)
		} else {
			t.parts[name] = next
		}
	}
	for e, before := range touched {
		after, there := t.value(e)
		if before != nil && (!there || after != *before) {
			d.removed[e] = *before
		}
		if there && (before == nil || after != *before) {
			d.added[e] = after
		}
	}
	return d
}

func (d *difference) compareChains(old, next *part) {
	for name, rules := range next.chains {
		if was, ok := old.chains[name]; !ok || !slices.Equal(was, rules) {
			d.chains[name] = rules
		}
	}
	for name := range old.chains {
		if _, ok := next.chains[name]; !ok {
			d.goneChains[name] = nil
		}
	}
	for name, timeout := range next.affinities {
		if _, ok := old.affinities[name]; !ok {
			d.affinities[name] = timeout
		}
	}
	for name, timeout := range old.affinities {
		if _, ok := next.affinities[name]; !ok {
			d.goneAffinities[name] = timeout
		}
	}
}

// touch remembers the value of an element before its claims change.
func (t *table) touch(touched map[element]*string, e element) {
	if _, done := touched[e]; done {
		return
	}
	touched[e] = nil
	if v, there := t.value(e); there {
		touched[e] = &v
	}
}

func (t *table) claim(name types.NamespacedName, old, next *part) {
	for e := range old.elements {
		delete(t.claims[e], name)
		if len(t.claims[e]) == 0 {
			delete(t.claims, e)
		}
	}
	for e, v := range next.elements {
		if t.claims[e] == nil {
			t.claims[e] = map[types.NamespacedName]string{}
		}
		t.claims[e][name] = v
	}
}

// value is the value of an element: that of the first service by name.
func (t *table) value(e element) (value string, there bool) {
	var first types.NamespacedName
	for name, v := range t.claims[e] {
		if !there || strings.Compare(name.String(), first.String()) < 0 {
			first, value, there = name, v, true
		}
	}
	return value, there
}

// write turns the difference into operations. What is referred to is added
// first and removed last.
func (d *difference) write(tx *knftables.Transaction, t *table) {
	for _, name := range slices.Sorted(maps.Keys(d.affinities)) {
		tx.Add(t.affinitySet(name, d.affinities[name]))
	}
	writeChains(tx, d.chains)
	for _, e := range sortedElements(d.removed) {
		tx.Delete(e.object(""))
	}
	for _, e := range sortedElements(d.added) {
		tx.Add(e.object(d.added[e]))
	}
	gone := slices.Sorted(maps.Keys(d.goneChains))
	for _, name := range gone {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range gone {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(d.goneAffinities)) {
		tx.Delete(&knftables.Set{Name: name})
	}
}

func writeChains(tx *knftables.Transaction, chains map[string][]string) {
	names := slices.Sorted(maps.Keys(chains))
	for _, name := range names {
		tx.Add(&knftables.Chain{Name: name})
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range names {
		for _, rule := range chains[name] {
			tx.Add(&knftables.Rule{Chain: name, Rule: rule})
		}
	}
}

func sortedElements(m map[element]string) []element {
	return slices.SortedFunc(maps.Keys(m), func(a, b element) int { return strings.Compare(a.in+" "+a.key, b.in+" "+b.key) })
}

// object is the element as knftables has it.
func (e element) object(value string) *knftables.Element {
	o := &knftables.Element{Key: strings.Split(e.key, " . ")}
	switch e.in {
	case setClusterIPs, setNodeIPs, setHairpin:
		o.Set = e.in
	default:
		o.Map = e.in
		if value != "" {
			o.Value = []string{value}
		}
	}
	return o
}

func (t *table) affinitySet(name string, timeout time.Duration) *knftables.Set {
	return &knftables.Set{Name: name, Type: t.address(), Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag},
		Timeout: &timeout, Size: knftables.PtrTo[uint64](65535)}
}

func (t *table) address() string {
	if is4(t.family) {
		return "ipv4_addr"
	}
	return "ipv6_addr"
}

// writeAll writes the whole table. What an earlier run left is taken over, so
// that clients stay with their endpoints; a table that cannot be taken over is
// replaced.
func (t *table) writeAll(ctx context.Context) error {
	existing, err := t.existing(ctx)
	if err != nil {
		return err
	}
	tx := t.nft.NewTransaction()
	t.full(tx, existing)
	if err = t.nft.Run(ctx, tx); err == nil {
		return nil
	}
	tx = t.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	t.full(tx, nil)
	if err := t.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("write the services' %s table: %w", t.family, err)
	}
	return nil
}

// existing lists the objects of the table by type.
func (t *table) existing(ctx context.Context) (map[string][]string, error) {
	found := map[string][]string{}
	for _, kind := range []string{"chain", "set", "map"} {
		names, err := t.nft.List(ctx, kind)
		if err != nil && !knftables.IsNotFound(err) {
			return nil, fmt.Errorf("list what the services' %s table has: %w", t.family, err)
		}
		found[kind] = names
	}
	return found, nil
}

func (t *table) full(tx *knftables.Transaction, existing map[string][]string) {
	tx.Add(&knftables.Table{})
	keep := map[string]bool{}
	t.declare(tx, keep)
	all := map[string][]string{}
	for _, p := range t.parts {
		maps.Copy(all, p.chains)
		for name, timeout := range p.affinities {
			tx.Add(t.affinitySet(name, timeout))
			keep[name] = true
		}
	}
	for name := range all {
		keep[name] = true
	}
	writeChains(tx, all)
	t.baseRules(tx)
	elements := map[element]string{}
	for e := range t.claims {
		elements[e], _ = t.value(e)
	}
	for _, e := range sortedElements(elements) {
		tx.Add(e.object(elements[e]))
	}
	stale := func(kind string) (names []string) {
		for _, name := range existing[kind] {
			if !keep[name] {
				names = append(names, name)
			}
		}
		return names
	}
	for _, name := range stale("chain") {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range stale("map") {
		tx.Delete(&knftables.Map{Name: name})
	}
	for _, name := range stale("chain") {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range stale("set") {
		tx.Delete(&knftables.Set{Name: name})
	}
}

// declare adds the shared sets, maps and chains, empty.
func (t *table) declare(tx *knftables.Transaction, keep map[string]bool) {
	address := t.address()
	for _, m := range []struct{ name, of string }{
		{mapServiceIPs, address + " . inet_proto . inet_service : verdict"},
		{mapRefusedIPs, address + " . inet_proto . inet_service : verdict"},
		{mapFirewall, address + " . inet_proto . inet_service : verdict"},
		{mapNodePorts, "inet_proto . inet_service : verdict"},
		{mapRefusedNodePorts, "inet_proto . inet_service : verdict"},
	} {
		tx.Add(&knftables.Map{Name: m.name, Type: m.of})
		tx.Flush(&knftables.Map{Name: m.name})
		keep[m.name] = true
	}
	for _, s := range []struct {
		name, of string
		ranges   []netip.Prefix
	}{
		{setClusterIPs, address, nil}, {setNodeIPs, address, nil}, {setHairpin, address + " . " + address, nil},
		{setClusterCIDRs, address, disjoint(t.c.ClusterCIDRs, is4(t.family))},
		{setServiceRanges, address, disjoint(t.c.ServiceRanges, is4(t.family))},
	} {
		set := &knftables.Set{Name: s.name, Type: s.of}
		if s.name == setClusterCIDRs || s.name == setServiceRanges {
			set.Flags = []knftables.SetFlag{knftables.IntervalFlag}
		}
		tx.Add(set)
		tx.Flush(&knftables.Set{Name: s.name})
		for _, r := range s.ranges {
			tx.Add(&knftables.Element{Set: s.name, Key: []string{r.String()}})
		}
		keep[s.name] = true
	}
	for _, name := range []string{chainBefore, chainServices, chainAfter, chainReject, chainMark} {
		tx.Add(&knftables.Chain{Name: name})
		tx.Flush(&knftables.Chain{Name: name})
		keep[name] = true
	}
	for _, h := range hooks {
		tx.Add(&knftables.Chain{Name: h.name, Type: knftables.PtrTo(h.kind), Hook: knftables.PtrTo(h.hook), Priority: knftables.PtrTo(h.priority)})
		tx.Flush(&knftables.Chain{Name: h.name})
		keep[h.name] = true
	}
}

// hook is a base chain that leads to one of the shared chains.
type hook struct {
	name     string
	kind     knftables.BaseChainType
	hook     knftables.BaseChainHook
	priority knftables.BaseChainPriority
	rule     string
}

const beforeNAT = knftables.DNATPriority + "-10"

var hooks = []hook{
	{"filter-prerouting", knftables.FilterType, knftables.PreroutingHook, beforeNAT, "ct state new jump " + chainBefore},
	{"filter-output-before", knftables.FilterType, knftables.OutputHook, "-110", "ct state new jump " + chainBefore},
	{"nat-prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority, "jump " + chainServices},
	{"nat-output", knftables.NATType, knftables.OutputHook, "-100", "jump " + chainServices},
	{"filter-forward", knftables.FilterType, knftables.ForwardHook, knftables.FilterPriority, "ct state new jump " + chainAfter},
	{"filter-output", knftables.FilterType, knftables.OutputHook, knftables.FilterPriority, "ct state new jump " + chainAfter},
	{"nat-postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority, ""},
}

// baseRules fills the shared chains.
func (t *table) baseRules(tx *knftables.Transaction) {
	ip := "ip"
	if !is4(t.family) {
		ip = "ip6"
	}
	to, port := ip+" daddr . meta l4proto . th dport vmap @", ip+" daddr @"+setNodeIPs+" meta l4proto . th dport vmap @"
	rules := [][2]string{
		{chainBefore, to + mapFirewall},
		{chainBefore, to + mapRefusedIPs},
		{chainBefore, port + mapRefusedNodePorts},
		{chainServices, to + mapServiceIPs},
		{chainServices, port + mapNodePorts},
		{chainAfter, ip + " daddr @" + setClusterIPs + " fib daddr type != local goto " + chainReject},
		{chainAfter, ip + " daddr @" + setServiceRanges + " fib daddr type != local goto " + chainReject},
		{chainReject, "reject"},
		{chainMark, "meta mark set meta mark or " + mark},
		{"nat-postrouting", "ct status dnat " + ip + " saddr . " + ip + " daddr @" + setHairpin + " masquerade fully-random"},
		{"nat-postrouting", "meta mark & " + mark + " != 0 meta mark set meta mark xor " + mark + " masquerade fully-random"},
	}
	if len(disjoint(t.c.ClusterCIDRs, is4(t.family))) > 0 {
		outsider := ip + " daddr @" + setClusterIPs + " " + ip + " saddr != @" + setClusterCIDRs + " jump " + chainMark
		tx.Add(&knftables.Rule{Chain: chainServices, Rule: outsider})
	}
	for _, h := range hooks {
		if h.rule != "" {
			rules = append(rules, [2]string{h.name, h.rule})
		}
	}
	for _, r := range rules {
		tx.Add(&knftables.Rule{Chain: r[0], Rule: r[1]})
	}
}
