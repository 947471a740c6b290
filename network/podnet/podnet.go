//go:build linux

// Package podnet is a node's pod network. It owns the veth pairs of the node's
// pods, their addresses, host ports and masquerading (one nftables table), and
// the routes to the pods of other nodes. A pod has one end of a pair; the other
// stays in the node's namespace, and a /32 (or /128) route leads to it: there is
// no bridge, so a pod can only send what the node routes, from its own address.
//
// Exported: New(Config) and Network.Run, which the agent calls; Remove. The container
// runtime reaches it through the program cmd/skiff-cni and a unix socket.
//
// It never looks at pods or services, and it leaves everything in place when it
// stops, so that pods go on while the agent is away.
//
// Lock order: key locks (Network.keys) before Network.mu before firewall.mu.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/client"
)

// Config says what the pod network is made of.
type Config struct {
	NodeName string
	Client   client.Client // may get, list and watch nodes

	// PodCIDRs of this node. Empty: taken from the node's spec.podCIDRs, and no
	// pod gets an address before they are there.
	PodCIDRs []netip.Prefix

	// NodeIPs are this node's own addresses, one of each family at most. The
	// interfaces that hold them forward packets. Empty: taken from the node's
	// status.
	NodeIPs []netip.Addr

	// ClosedRanges are the cluster's ranges of pods and nodes. What no better
	// route serves in them is unreachable, and what goes to them is not
	// masqueraded.
	ClosedRanges []netip.Prefix

	// ServiceRanges are the ranges of service addresses. They lead to a device
	// that swallows packets, since a local program's packet must find some route
	// before the service proxy sees it; they are not masqueraded either.
	ServiceRanges []netip.Prefix

	Prefix    string // of names of interfaces and the nftables table; "" means "skiff"; at most 6 letters
	MTU       int    // of pods; 0 means that of the interface with the node's address, or 1500
	VXLANPort int    // 0 means 8472
	VXLANID   int    // 0 means 1

	StateDir   string // attachments are remembered here
	Socket     string // where the CNI program asks; at most 107 bytes
	ConfDir    string // the CNI configuration is written here; "" means nowhere
	ConfFile   string // its name; "" means ConfFile
	Plugin     string // the CNI program's name; "" means "skiff-cni"
	CNIVersion string // of the configuration; "" means "1.0.0", which containerd 1.6 knows

	Resync time.Duration // how often routes and leaked attachments are looked at; 0 means a minute
	Logger *slog.Logger  // nil means slog.Default()
}

// ConfFile is the usual name of the CNI configuration, in a runtime's directory for them.
const ConfFile = "10-skiff.conflist"

// Network is a node's pod network.
type Network struct {
	c        Config
	log      *slog.Logger
	firewall *firewall
	keys     keyLocks

	mu       sync.Mutex
	pool     *pool  // addresses; guarded by mu
	known    known  // guarded by mu
	ready    bool   // the CNI configuration has been written; guarded by mu
	writeErr string // the last failure to apply routes, so that it is logged once; guarded by mu
}

// New checks the configuration. Nothing is touched before Run.
func New(c Config) (*Network, error) {
	switch {
	case c.NodeName == "":
		return nil, errors.New("pod network: no node name")
	case c.Client == nil:
		return nil, errors.New("pod network: no client")
	case c.StateDir == "" || c.Socket == "":
		return nil, errors.New("pod network: no state directory or socket")
	case len(c.Socket) > 107:
		return nil, fmt.Errorf("pod network: the path of the socket is %d bytes long and may have 107: %s", len(c.Socket), c.Socket)
	case len(c.Prefix) > 6:
		return nil, fmt.Errorf("pod network: the prefix %q is longer than 6 letters", c.Prefix)
	}
	setDefault(&c.Prefix, "skiff")
	setDefault(&c.VXLANPort, 8472)
	setDefault(&c.VXLANID, 1)
	setDefault(&c.ConfFile, ConfFile)
	setDefault(&c.Plugin, "skiff-cni")
	setDefault(&c.CNIVersion, "1.0.0")
	setDefault(&c.Resync, time.Minute)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Network{c: c, log: c.Logger.With("component", "podnet")}, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run serves the CNI program and keeps routes until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	if err := n.restore(ctx); err != nil {
		return err
	}
	listener, err := listen(n.c.Socket)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { n.serve(ctx, listener) })
	n.settle(ctx)

	feed := n.c.Client.Follow(ctx, client.Source{Resource: api.For[*corev1.Node]()})
	view := client.NewView()
	resync := time.NewTicker(n.c.Resync)
	defer resync.Stop()
	for {
		select {
		case batch, open := <-feed.C:
			if !open {
				return nil
			}
			view.Apply(batch)
			n.hear(ctx, view)
		case <-resync.C:
			n.collectLeaks(ctx)
			n.settle(ctx)
		}
	}
}

// restore takes up what an earlier run left.
func (n *Network) restore(ctx context.Context) error {
	if err := os.MkdirAll(n.attachmentDir(), 0o700); err != nil {
		return fmt.Errorf("make the state directory of the pod network: %w", err)
	}
	attachments, err := loadAttachments(n.attachmentDir())
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.known = loadKnown(n.knownFile())
	if len(n.c.PodCIDRs) > 0 {
		n.known.PodCIDRs = n.c.PodCIDRs
	}
	if len(n.c.NodeIPs) > 0 {
		n.known.NodeIPs = n.c.NodeIPs
	}
	n.pool = newPool(n.known.PodCIDRs, attachments)
	inside := n.insideLocked()
	n.mu.Unlock()

	if n.firewall, err = newFirewall(n.c.Prefix + "-podnet"); err != nil {
		return err
	}
	if err := n.firewall.reset(ctx, inside, attachments); err != nil {
		return err
	}
	n.collectLeaks(ctx)
	return nil
}

func (n *Network) attachmentDir() string { return filepath.Join(n.c.StateDir, "attachments") }
func (n *Network) knownFile() string     { return filepath.Join(n.c.StateDir, "known.json") }
