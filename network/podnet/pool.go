//go:build linux

package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// attachment is one interface of one pod sandbox: a file of the state directory
// holds each. The files need not survive a loss of power, since no sandbox does.
type attachment struct {
	ContainerID string        `json:"containerID"`
	Interface   string        `json:"interface"` // in the pod
	Netns       string        `json:"netns"`
	Host        string        `json:"host"` // the interface's other end
	Addresses   []netip.Addr  `json:"addresses"`
	Ports       []portMapping `json:"ports,omitempty"`
	Pod         string        `json:"pod,omitempty"` // namespace/name, for people
}

// key names the attachment; it is its file's name too.
func (a *attachment) key() string { return key(a.ContainerID, a.Interface) }

func key(containerID, ifName string) string { return containerID + "_" + ifName }

// portMapping is a port of the node that leads to a port of the pod.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

var errNoRange = errors.New("the node has no pod range yet")

// pool gives out the addresses of the node's ranges, each next to the last one
// given, so that an address stays unused for as long as possible after its
// release.
type pool struct {
	ranges []netip.Prefix
	last   []netip.Addr           // per range: the last one given
	used   map[netip.Addr]string  // address → key of its attachment
	byKey  map[string]*attachment // invariant: used holds exactly the addresses of these
}

func newPool(ranges []netip.Prefix, attachments []*attachment) *pool {
	p := &pool{used: map[netip.Addr]string{}, byKey: map[string]*attachment{}}
	p.setRanges(ranges)
	for _, a := range attachments {
		p.keep(a)
	}
	return p
}

func (p *pool) setRanges(ranges []netip.Prefix) {
	p.ranges = ranges
	p.last = make([]netip.Addr, len(ranges))
}

func (p *pool) keep(a *attachment) {
	p.byKey[a.key()] = a
	for _, address := range a.Addresses {
		p.used[address] = a.key()
		for i, r := range p.ranges {
			if r.Contains(address) && p.last[i].Less(address) {
				p.last[i] = address
			}
		}
	}
}

// take gives the attachment one address of each range.
func (p *pool) take(a *attachment) error {
	if len(p.ranges) == 0 {
		return errNoRange
	}
	if p.byKey[a.key()] != nil {
		return fmt.Errorf("%s of container %s is attached already", a.Interface, a.ContainerID)
	}
	for i := range p.ranges {
		address, err := p.next(i)
		if err != nil {
			a.Addresses = nil
			return err
		}
		a.Addresses = append(a.Addresses, address)
	}
	p.keep(a)
	for i := range p.ranges {
		p.last[i] = a.Addresses[i]
	}
	return nil
}

// next finds a free address of range i, after the last one given. The first two
// (the network's and, by custom, a gateway's) and IPv4's last are never given.
func (p *pool) next(i int) (netip.Addr, error) {
	r := p.ranges[i]
	first := r.Masked().Addr().Next().Next()
	after := p.last[i]
	if !after.IsValid() {
		after = first.Prev()
	}
	// One round over the used addresses and the next one must find a free one.
	address := after
	for range len(p.used) + 4 {
		address = address.Next()
		if !address.IsValid() || !r.Contains(address) || address.Is4() && !r.Contains(address.Next()) {
			address = first
			if !r.Contains(first) {
				break
			}
		}
		if _, taken := p.used[address]; !taken && !(address.Is4() && !r.Contains(address.Next())) {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in %s: %d are in use", r, len(p.used))
}

// drop releases what the attachment had, and returns it, or nil if there is none.
func (p *pool) drop(key string) *attachment {
	a := p.byKey[key]
	if a == nil {
		return nil
	}
	delete(p.byKey, key)
	for _, address := range a.Addresses {
		if p.used[address] == key {
			delete(p.used, address)
		}
	}
	return a
}

func (p *pool) all() []*attachment {
	all := make([]*attachment, 0, len(p.byKey))
	for _, a := range p.byKey {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *attachment) int { return strings.Compare(a.key(), b.key()) })
	return all
}

// loadAttachments reads the state directory. A file that makes no sense was cut
// off by a loss of power: its sandbox is gone, and so is the file then.
func loadAttachments(dir string) ([]*attachment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	var all []*attachment
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read attachment: %w", err)
		}
		a := &attachment{}
		if err := json.Unmarshal(data, a); err != nil || a.key()+".json" != e.Name() {
			if err := os.Remove(file); err != nil {
				return nil, fmt.Errorf("remove unreadable attachment: %w", err)
			}
			continue
		}
		all = append(all, a)
	}
	return all, nil
}

func saveAttachment(dir string, a *attachment) error {
	return saveJSON(filepath.Join(dir, a.key()+".json"), a)
}

func forgetAttachment(dir, key string) error {
	if err := os.Remove(filepath.Join(dir, key+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget attachment: %w", err)
	}
	return nil
}

// known is what was last heard of the cluster, so that a restarted agent serves
// pods before the control plane answers.
type known struct {
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"` // this node's
	NodeIPs  []netip.Addr   `json:"nodeIPs,omitempty"`  // this node's
	Peers    []peer         `json:"peers,omitempty"`
}

func loadKnown(file string) known {
	var k known
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &k) != nil {
		return known{} // it will be heard again
	}
	return k
}

// saveJSON replaces a file as a whole.
func saveJSON(file string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(file), err)
	}
	return replaceFile(file, data, 0o600)
}

func replaceFile(file string, data []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(mode), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(file), err), os.Remove(temp.Name()))
	}
	return nil
}
