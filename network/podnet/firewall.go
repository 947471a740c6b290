//go:build linux

package podnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sigs.k8s.io/knftables"
)

// firewall is the pod network's nftables tables, one of each IP family. The sets:
//
//	inside      what is not masqueraded: the cluster's ranges and the nodes
//	pods        this node's pod ranges
//	hairpin     (pod, pod) of pods with host ports, which may reach themselves
//	hostports   (protocol, port) → (pod, port), on any address of the node
//	hostports-ip   the same for one address of the node
type firewall struct {
	mu     sync.Mutex
	tables []*table // guarded by mu
}

// table is the firewall of one family.
type table struct {
	family   knftables.Family
	is4      bool
	nft      knftables.Interface
	inside   []netip.Prefix // as last written
	pods     []netip.Prefix
	hairpins map[netip.Addr]int // pods with host ports, and how many
	keyOwner map[string]string  // element of a port map → attachment that holds it
}

func newFirewall(name string) (*firewall, error) {
	f := &firewall{}
	for _, family := range []knftables.Family{knftables.IPv4Family, knftables.IPv6Family} {
		nft, err := knftables.New(family, name)
		if err != nil {
			if family == knftables.IPv6Family {
				continue // a kernel without IPv6
			}
			return nil, fmt.Errorf("open nftables for the pod network: %w", err)
		}
		f.tables = append(f.tables, &table{family: family, is4: family == knftables.IPv4Family, nft: nft})
	}
	return f, nil
}

// reset writes the tables anew, in one transaction each.
func (f *firewall) reset(ctx context.Context, inside ranges, attachments []*attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tables {
		t.inside, t.pods = disjoint(inside.all, t.is4), disjoint(inside.pods, t.is4)
		t.hairpins, t.keyOwner = map[netip.Addr]int{}, map[string]string{}
		tx := t.nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		t.declare(tx)
		t.fill(tx, "inside", t.inside)
		t.fill(tx, "pods", t.pods)
		for _, a := range attachments {
			t.addPorts(tx, a)
		}
		if err := t.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("write the pod network's %s table: %w", t.family, err)
		}
	}
	return nil
}

// declare adds the chains and sets.
func (t *table) declare(tx *knftables.Transaction) {
	address, ip, multicast := "ipv4_addr", "ip", "224.0.0.0/4"
	notLoopback := "ip daddr != 127.0.0.0/8"
	if !t.is4 {
		address, ip, multicast, notLoopback = "ipv6_addr", "ip6", "ff00::/8", "ip6 daddr != ::1"
	}
	tx.Add(&knftables.Table{})
	for _, set := range []string{"inside", "pods"} {
		tx.Add(&knftables.Set{Name: set, Type: address, Flags: []knftables.SetFlag{knftables.IntervalFlag}})
	}
	tx.Add(&knftables.Set{Name: "hairpin", Type: address + " . " + address})
	tx.Add(&knftables.Map{Name: "hostports", Type: "inet_proto . inet_service : " + address + " . inet_service"})
	tx.Add(&knftables.Map{Name: "hostports-ip", Type: address + " . inet_proto . inet_service : " + address + " . inet_service"})
	tx.Add(&knftables.Chain{Name: "hostports"})
	for _, rule := range []string{
		"dnat " + ip + " to " + ip + " daddr . meta l4proto . th dport map @hostports-ip",
		"dnat " + ip + " to meta l4proto . th dport map @hostports",
	} {
		tx.Add(&knftables.Rule{Chain: "hostports", Rule: rule})
	}
	for _, hook := range []knftables.BaseChainHook{knftables.PreroutingHook, knftables.OutputHook} {
		tx.Add(&knftables.Chain{Name: string(hook), Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(hook),
			Priority: knftables.PtrTo(knftables.DNATPriority)})
		whose := "fib daddr type local "
		if hook == knftables.PreroutingHook || !t.is4 { // IPv6 never leads from localhost out of the machine
			whose += notLoopback + " "
		}
		tx.Add(&knftables.Rule{Chain: string(hook), Rule: whose + "jump hostports"})
	}
	if t.is4 {
		declareLoopback(tx)
	}
	tx.Add(&knftables.Chain{Name: "postrouting", Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority)})
	if t.is4 {
		tx.Add(&knftables.Rule{Chain: "postrouting", Rule: "oifname != lo ip saddr 127.0.0.0/8 ct status dnat masquerade fully-random"})
	}
	for _, rule := range []string{
		"ct status dnat " + ip + " saddr . " + ip + " daddr @hairpin masquerade fully-random",
		ip + " saddr @pods " + ip + " daddr != @inside " + ip + " daddr != " + multicast + " masquerade fully-random",
	} {
		tx.Add(&knftables.Rule{Chain: "postrouting", Rule: rule})
	}
}

// declareLoopback: pods with host ports may be led to from localhost (sysctls). Nothing from outside may be sent to localhost
// for that.
func declareLoopback(tx *knftables.Transaction) {
	tx.Add(&knftables.Chain{Name: "loopback", Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.PreroutingHook),
		Priority: knftables.PtrTo(knftables.RawPriority)})
	tx.Add(&knftables.Rule{Chain: "loopback", Rule: "iifname != lo ip daddr 127.0.0.0/8 drop"})
}

func (t *table) fill(tx *knftables.Transaction, set string, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		tx.Add(&knftables.Element{Set: set, Key: []string{p.String()}})
	}
}

// setRanges replaces what is inside the cluster.
func (f *firewall) setRanges(ctx context.Context, inside ranges) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tables {
		all, pods := disjoint(inside.all, t.is4), disjoint(inside.pods, t.is4)
		if slices.Equal(all, t.inside) && slices.Equal(pods, t.pods) {
			continue
		}
		tx := t.nft.NewTransaction()
		tx.Flush(&knftables.Set{Name: "inside"})
		tx.Flush(&knftables.Set{Name: "pods"})
		t.fill(tx, "inside", all)
		t.fill(tx, "pods", pods)
		if err := t.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("write the cluster's ranges to the pod network's table: %w", err)
		}
		t.inside, t.pods = all, pods
	}
	return nil
}

// addPorts opens an attachment's host ports. A port that another pod holds is
// left to that pod: the scheduler and the agent keep such pods apart.
func (f *firewall) addPorts(ctx context.Context, a *attachment) error {
	return f.changePorts(ctx, a, (*table).addPorts)
}

// removePorts closes them.
func (f *firewall) removePorts(ctx context.Context, a *attachment) error {
	return f.changePorts(ctx, a, (*table).removePorts)
}

func (f *firewall) changePorts(ctx context.Context, a *attachment, change func(*table, *knftables.Transaction, *attachment) (done func())) error {
	if len(a.Ports) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tables {
		tx := t.nft.NewTransaction()
		undo := change(t, tx, a)
		if tx.NumOperations() == 0 {
			continue
		}
		if err := t.nft.Run(ctx, tx); err != nil {
			undo()
			return fmt.Errorf("change host ports of %s: %w", a.nameOfPod(), err)
		}
	}
	return nil
}

func (t *table) addPorts(tx *knftables.Transaction, a *attachment) (undo func()) {
	pod, ok := t.address(a)
	if !ok {
		return func() {}
	}
	var taken []string
	for _, p := range a.Ports {
		mapName, key, ok := t.portKey(p)
		name := mapName + " " + strings.Join(key, " ")
		if !ok || t.keyOwner[name] != "" {
			continue
		}
		t.keyOwner[name] = a.key()
		taken = append(taken, name)
		tx.Add(&knftables.Element{Map: mapName, Key: key, Value: []string{pod.String(), strconv.Itoa(p.ContainerPort)}})
	}
	if len(taken) == 0 {
		return func() {}
	}
	tx.Add(&knftables.Element{Set: "hairpin", Key: []string{pod.String(), pod.String()}})
	t.hairpins[pod]++
	return func() {
		delete(t.hairpins, pod)
		for _, name := range taken {
			delete(t.keyOwner, name)
		}
	}
}

func (t *table) removePorts(tx *knftables.Transaction, a *attachment) (undo func()) {
	pod, ok := t.address(a)
	if !ok || t.hairpins[pod] == 0 {
		return func() {}
	}
	var freed []string
	for _, p := range a.Ports {
		mapName, key, ok := t.portKey(p)
		name := mapName + " " + strings.Join(key, " ")
		if !ok || t.keyOwner[name] != a.key() {
			continue
		}
		delete(t.keyOwner, name)
		freed = append(freed, name)
		tx.Delete(&knftables.Element{Map: mapName, Key: key})
	}
	tx.Delete(&knftables.Element{Set: "hairpin", Key: []string{pod.String(), pod.String()}})
	delete(t.hairpins, pod)
	return func() {
		t.hairpins[pod] = 1
		for _, name := range freed {
			t.keyOwner[name] = a.key()
		}
	}
}

func (t *table) address(a *attachment) (netip.Addr, bool) {
	for _, ip := range a.Addresses {
		if ip.Is4() == t.is4 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// portKey is the map and the key of a port mapping in this family.
func (t *table) portKey(p portMapping) (mapName string, key []string, ok bool) {
	protocol := strings.ToLower(p.Protocol)
	if protocol == "" {
		protocol = "tcp"
	}
	key = []string{protocol, strconv.Itoa(p.HostPort)}
	ip, err := netip.ParseAddr(p.HostIP)
	switch {
	case p.HostIP == "" || err == nil && ip.IsUnspecified() && ip.Is4() == t.is4:
		return "hostports", key, true
	case err != nil || ip.Is4() != t.is4:
		return "", nil, false
	}
	return "hostports-ip", append([]string{ip.String()}, key...), true
}

// ranges are what the firewall knows of the cluster.
type ranges struct {
	all  []netip.Prefix // the cluster's, and the nodes' addresses
	pods []netip.Prefix // this node's
}

// disjoint returns the prefixes of one family, masked and sorted, without those
// that lie in others: nftables takes no overlapping intervals.
func disjoint(prefixes []netip.Prefix, is4 bool) []netip.Prefix {
	var sorted, out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == is4 {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, p := range sorted {
		if len(out) > 0 && out[len(out)-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
	}
	return out
}
