// Package local keeps a whole cluster on one machine: what is recorded of it, the
// supervisor that starts its processes and starts them again, the network that
// its nodes stand in, and the user's kubeconfig. cmd/skiff calls it; what runs in
// the processes is package cluster's matter.
package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// specVersion is what this program writes; it refuses anything newer.
const specVersion = 1

// Spec is what is recorded of a cluster, in cluster.json in its data directory.
type Spec struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Runtime string `json:"runtime"` // Containerd or Simulated
	Block   int    `json:"block"`   // which address ranges are its own, see Ranges
	APIPort int    `json:"apiPort"` // on 127.0.0.1, and on the bridge
	// RegistryPort is where images are pushed, on 127.0.0.1, and pulled, on the bridge.
	RegistryPort int    `json:"registryPort"`
	Nodes        []Node `json:"nodes"`
	// Kubeconfig is the file that the cluster was merged into last.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// RuntimeEndpoint is a CRI socket that somebody else serves; empty: each node has its own containerd.
	RuntimeEndpoint string `json:"runtimeEndpoint,omitempty"`
	// Mirrors are registries that are asked instead of others: HOST=URL, see registry.ParseMirror.
	Mirrors []string `json:"registryMirrors,omitempty"`
}

// Node is one node of the cluster.
type Node struct {
	Name    string `json:"name"`
	Number  int    `json:"number"` // 1 and up; its addresses follow from it
	Stopped bool   `json:"stopped,omitempty"`
}

// The runtimes.
const (
	Containerd = "containerd"
	Simulated  = "simulated"
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// CheckName tells what is wrong with a cluster's or node's name.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("name %q: use up to 32 lower case letters, digits and '-', beginning and ending with a letter or digit", name)
	}
	return nil
}

// Ranges are the addresses of a cluster's block: disjoint from those of all
// other blocks.
type Ranges struct {
	Nodes    netip.Prefix // host is .1, node n is .1+n
	Pods     netip.Prefix // node n has the n-th /24
	Services netip.Prefix
}

// blocks is how many local clusters a machine can have.
const blocks = 32

// RangesOf returns the ranges of block i.
func RangesOf(i int) Ranges {
	return Ranges{
		Nodes:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 63, byte(i), 0}), 24),
		Pods:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i), 0, 0}), 16),
		Services: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i), 0, 0}), 16),
	}
}

// Host is the machine's own address among the nodes.
func (r Ranges) Host() netip.Addr { return r.Nodes.Addr().Next() }

// Node is the address of node n.
func (r Ranges) Node(n int) netip.Addr {
	a := r.Nodes.Addr().As4()
	a[3] = byte(1 + n)
	return netip.AddrFrom4(a)
}

// PodsOf is the range of the pods of node n.
func (r Ranges) PodsOf(n int) netip.Prefix {
	a := r.Pods.Addr().As4()
	a[2] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// DNS is the address of the cluster's name service.
func (r Ranges) DNS() netip.Addr {
	a := r.Services.Addr().As4()
	a[3] = 10
	return netip.AddrFrom4(a)
}

// All lists the ranges.
func (r Ranges) All() []netip.Prefix { return []netip.Prefix{r.Nodes, r.Pods, r.Services} }

// mostNodes of one cluster: their numbers are one byte of an address.
const mostNodes = 200

// Ranges of the cluster.
func (s *Spec) Ranges() Ranges { return RangesOf(s.Block) }

// Find returns the node of that name, or nil.
func (s *Spec) Find(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// AddNode adds a node, with the lowest number that is free. An empty name
// becomes <cluster>-<number>.
func (s *Spec) AddNode(name string) (*Node, error) {
	number := 1
	for slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Number == number }) {
		number++
	}
	if number > mostNodes {
		return nil, fmt.Errorf("cluster %s has %d nodes, and cannot have more", s.Name, len(s.Nodes))
	}
	if name == "" {
		name = fmt.Sprintf("%s-%d", s.Name, number)
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if s.Find(name) != nil {
		return nil, fmt.Errorf("cluster %s has a node %s already", s.Name, name)
	}
	s.Nodes = append(s.Nodes, Node{Name: name, Number: number})
	return &s.Nodes[len(s.Nodes)-1], nil
}

// DefaultDir is where a cluster's data is if the user does not say.
func DefaultDir(name string) (string, error) {
	base, err := baseDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, name), nil
}

// baseDir holds the data of all clusters of this user.
func baseDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/skiff", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find your home directory, or name a --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "skiff"), nil
}

const specFile = "cluster.json"

// ErrNone says that there is no such cluster.
var ErrNone = errors.New("there is no such cluster; `skiff up` makes one")

// Load reads the cluster in dir.
func Load(dir string) (*Spec, error) {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster: %w", err)
	}
	s := &Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, specFile), err)
	}
	if s.Version > specVersion {
		return nil, fmt.Errorf("the cluster in %s was made by a newer skiff (version %d, this one knows %d): use that one, or another --data-dir", dir, s.Version, specVersion)
	}
	return s, nil
}

// Save records the cluster in dir: whole or not at all.
func (s *Spec) Save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode cluster: %w", err)
	}
	return writeWhole(filepath.Join(dir, specFile), append(data, '\n'), 0o644)
}

// writeWhole replaces a file's content; after a crash it is the old or the new.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// New makes the record of a cluster that is not there yet, with a free block of
// addresses and a free port, and n nodes.
func New(name, runtime string, n int) (*Spec, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if name == "server" || name == "agent" {
		return nil, fmt.Errorf("name %q: below the base directory that is where `skiff %s` has its data: choose another", name, name)
	}
	if runtime != Containerd && runtime != Simulated {
		return nil, fmt.Errorf("runtime %q: use %s or %s", runtime, Containerd, Simulated)
	}
	s := &Spec{Version: specVersion, Name: name, Runtime: runtime}
	for range n {
		if _, err := s.AddNode(""); err != nil {
			return nil, err
		}
	}
	var err error
	if s.Block, err = freeBlock(); err != nil {
		return nil, err
	}
	if s.APIPort, err = freePort(); err != nil {
		return nil, err
	}
	s.RegistryPort, err = freePort()
	return s, err
}

// freePort finds a port of 127.0.0.1 that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// freeBlock finds a block that no recorded cluster has and no route of this
// machine touches.
func freeBlock() (int, error) {
	taken, err := recordedBlocks()
	if err != nil {
		return 0, err
	}
	routes, err := hostRoutes()
	if err != nil {
		return 0, err
	}
	for i := range blocks {
		overlaps := slices.ContainsFunc(routes, func(route netip.Prefix) bool {
			return slices.ContainsFunc(RangesOf(i).All(), route.Overlaps)
		})
		if !taken[i] && !overlaps {
			return i, nil
		}
	}
	return 0, errors.New("no addresses are free: all blocks belong to other clusters or to routes of this machine (see `ip route`, and `skiff down` a cluster that you do not need)")
}

// recordedBlocks are those of the clusters below the base directory.
func recordedBlocks() (map[int]bool, error) {
	base, err := baseDir()
	if err != nil {
		return nil, err
	}
	names, err := Names(base)
	if err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, name := range names {
		if s, err := Load(filepath.Join(base, name)); err == nil {
			taken[s.Block] = true
		}
	}
	return taken, nil
}

// Names lists the clusters below base.
func Names(base string) (names []string, err error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(base, e.Name(), specFile)); err == nil && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
