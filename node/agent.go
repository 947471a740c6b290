// Package node is the node agent: it registers a node, runs the pods that are
// bound to it and answers for them. It puts its parts together and starts them in
// order; each part has a package of its own:
//
//	pod       the pods' state machines and what they ask for
//	runtime   what runs containers: runtime/cri (containerd, CRI-O), runtime/simulated
//	volume    directories and files for containers
//	reference config maps and secrets that pods name
//	image     pulls, credentials, collection of unused images
//	probe     startup, liveness and readiness
//	cgroup    the pods' control groups
//	status    the Node object and its lease
//	stats     usage of node and pods
//	server    the HTTPS interface that the API server speaks to
//
// Only package cluster makes an Agent. The agent sees the cluster through a
// client.Client and nothing else; it never opens the store. Containers go on when
// the agent ends: the next one adopts them.
//
// A real node:
//
//	rt, err := cri.New(cri.Config{Endpoint: "/run/containerd/containerd.sock"})
//	a, err := node.New(node.Config{NodeName: "n1", Client: c, Runtime: rt, RootDir: "/var/lib/skiff/n1", CgroupParent: "/skiff/n1",
//		Addresses: …, ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local",
//		Serving: node.Serving{Listener: l, Certificate: …, ClientCAs: …, Authorize: …}})
//	err = a.Run(ctx)
//
// A simulated one needs no directory, no root and no port:
//
//	a, err := node.New(node.Config{NodeName: "n1", Client: c, Runtime: simulated.New(simulated.Config{Pods: prefix}), Simulated: true})
//
// Its server is reached through Agent.Handler.
package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"skiff/client"
	"skiff/node/cgroup"
	"skiff/node/image"
	"skiff/node/pod"
	"skiff/node/probe"
	"skiff/node/reference"
	"skiff/node/runtime"
	"skiff/node/runtime/simulated"
	"skiff/node/server"
	"skiff/node/stats"
	"skiff/node/status"
	"skiff/node/volume"
)

// Config says what the node is. NodeName, Client and Runtime are required, and
// RootDir unless Simulated.
type Config struct {
	NodeName string
	// Client acts as system:node:<NodeName>, of the group system:nodes.
	Client  client.Client
	Runtime runtime.Runtime

	// Simulated: the runtime only pretends. There are no files, cgroups, mounts
	// and ports; probes are answered by Check.
	Simulated bool
	// Check does the probes. Nil: over the network and through the runtime; for
	// a simulated node: all succeed.
	Check probe.Checker

	// RootDir holds the pods' files and the journal. It must be mounted where the
	// runtime sees it.
	RootDir string
	// LogDir holds the containers' logs. Empty: RootDir/logs.
	LogDir string
	// CgroupParent is the group below which the node's pods are: "/skiff/one/n1". Empty: the root.
	CgroupParent string
	// CgroupDriver is "cgroupfs" or "systemd", for runtimes that do not say which
	// they use. Empty: cgroupfs.
	CgroupDriver string

	// Addresses of the node. Pods' status names the internal ones. Empty: the
	// simulated node's own invention.
	Addresses []corev1.NodeAddress
	// PodCIDRs are written into the node's spec at registration. Empty: a
	// controller assigns them.
	PodCIDRs   []string
	ProviderID string

	ClusterDNS    []string // addresses that pods ask; empty: those of ResolvConf
	ClusterDomain string   // empty: cluster.local
	ResolvConf    string   // empty: /etc/resolv.conf
	// NoServiceEnv: containers get no variables about services. True for simulated
	// nodes, which nobody reads them on.
	NoServiceEnv bool

	MaxPods int // 0 means 110
	// Capacity replaces what the machine has, per resource.
	Capacity corev1.ResourceList
	// Reserved is kept from pods: allocatable is capacity less this. Nil: 100Mi of memory.
	Reserved corev1.ResourceList

	Labels      map[string]string
	Annotations map[string]string
	Taints      []corev1.Taint // at registration

	// Version is the node's kubeletVersion. Empty: "v1.37.2-skiff".
	Version string
	// ParallelPulls bounds image pulls. 0 means 4.
	ParallelPulls int
	// Eviction says when pods are evicted for want of memory or disk. Zero: never.
	Eviction Eviction
	// ImageGCPercent is how full the disk of images may be before unused images
	// are removed. 0 means 85; 100 never removes any.
	ImageGCPercent int
	// Resync is the time between full lists of the runtime's containers. 0 means 5 minutes.
	Resync time.Duration
	// Recorder records events. Nil: the agent has its own. Many simulated nodes
	// may share one.
	Recorder record.EventRecorder
	// Serving is how the agent's server is reached over the network.
	Serving Serving
	Logger  *slog.Logger // nil: slog.Default()
}

// Serving is the agent's HTTPS server. Listener nil: there is none, and the
// server is reached through Agent.Handler only.
type Serving struct {
	Listener net.Listener
	// Certificate gives the current serving certificate; it may change.
	Certificate func() (*tls.Certificate, error)
	// ClientCAs gives the authorities whose client certificates are believed.
	ClientCAs func() *x509.CertPool
	// Authorize decides whether a client may act. Nil: members of system:masters
	// and the user kube-apiserver (any spelling below) may do all, nobody else anything.
	Authorize server.Authorizer
}

// Agent is one node's agent.
type Agent struct {
	c           Config
	log         *slog.Logger
	capacity    corev1.ResourceList
	allocatable corev1.ResourceList

	reporter *status.Reporter
	reclaim  *reclaimer
	warden   *warden // nil: nothing is ever evicted
	handler  *lazyHandler
}

// New checks the configuration and starts nothing.
func New(c Config) (*Agent, error) {
	if c.NodeName == "" || c.Client == nil || c.Runtime == nil {
		return nil, errors.New("node agent: NodeName, Client and Runtime are required")
	}
	if c.RootDir == "" && !c.Simulated {
		return nil, errors.New("node agent: RootDir is required for a node that runs containers")
	}
	if c.Simulated {
		c.RootDir, c.LogDir = "", ""
		if c.Check == nil {
			c.Check = simulated.Check
		}
		if len(c.Addresses) == 0 {
			c.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: c.NodeName}}
		}
		c.NoServiceEnv = true
	} else if c.Check == nil {
		c.Check = probe.Network(c.Runtime)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.Version == "" {
		c.Version = "v1.37.2-skiff"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	a := &Agent{c: c, log: c.Logger.With("node", c.NodeName), handler: &lazyHandler{}}
	if err := a.measure(); err != nil {
		return nil, err
	}
	return a, a.newReporter()
}

// measure finds what the node has to give.
func (a *Agent) measure() error {
	if a.c.Simulated {
		a.capacity = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
			corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"), corev1.ResourcePods: *resource.NewQuantity(int64(a.c.MaxPods), resource.DecimalSI),
		}
	} else {
		if err := os.MkdirAll(a.c.RootDir, 0o750); err != nil {
			return fmt.Errorf("make the node's directory: %w", err)
		}
		machine, err := status.Machine(a.c.RootDir, a.c.MaxPods)
		if err != nil {
			return err
		}
		a.capacity = machine
	}
	maps.Copy(a.capacity, a.c.Capacity)
	reserved := a.c.Reserved
	if reserved == nil && !a.c.Simulated {
		reserved = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi")}
	}
	a.allocatable = a.capacity.DeepCopy()
	for name, q := range reserved {
		if have, ok := a.allocatable[name]; ok {
			have.Sub(q)
			a.allocatable[name] = have
		}
	}
	for _, list := range []corev1.ResourceList{a.capacity, a.allocatable} {
		for name, q := range list {
			_ = q.String() // quantities write to themselves when first printed: do it before they are shared
			list[name] = q
		}
	}
	return nil
}

func (a *Agent) newReporter() error {
	var pressure func() status.Pressure
	if a.c.Eviction != (Eviction{}) && !a.c.Simulated {
		a.warden = &warden{eviction: a.c.Eviction, root: a.c.RootDir, log: a.log, free: machineFree}
		pressure = a.warden.pressure
	}
	a.reclaim = newReclaimer(a.c)
	info := status.Info(a.c.Version)
	port := int32(0)
	if l := a.c.Serving.Listener; l != nil {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			port = int32(tcp.Port)
		}
	}
	r, err := status.New(status.Config{
		NodeName: a.c.NodeName, Client: a.c.Client, Runtime: a.c.Runtime, Recorder: a.c.Recorder,
		Labels: a.c.Labels, Annotations: a.c.Annotations, Taints: a.c.Taints, PodCIDRs: a.c.PodCIDRs, ProviderID: a.c.ProviderID,
		Addresses: a.c.Addresses, Port: port, Capacity: a.capacity, Allocatable: a.allocatable, Info: info,
		Pressure: pressure, Changed: a.reclaim.changed, Logger: a.log,
	})
	a.reporter = r
	return err
}

// Handler is the agent's server without a socket, for callers in this process. It
// does not ask who calls: whoever has it may do all.
func (a *Agent) Handler() http.Handler { return a.handler }

// Registered is closed once the API has the node.
func (a *Agent) Registered() <-chan struct{} { return a.reporter.Registered() }

// Run runs the node until ctx ends. Containers stay as they are then.
func (a *Agent) Run(ctx context.Context) error {
	if a.c.Recorder == nil {
		r, stop := startRecorder(ctx, a.c.Client, scheme.Scheme, a.c.NodeName)
		defer stop()
		a.c.Recorder = r
		a.reporter.SetRecorder(r)
	}
	g, ctx := errgroup.WithContext(ctx)
	parts, err := a.build(ctx)
	if err != nil {
		return fmt.Errorf("node %s: %w", a.c.NodeName, err)
	}
	defer parts.close()
	g.Go(func() error { return a.reporter.Run(ctx) })
	g.Go(func() error { return a.reclaim.run(ctx) })
	g.Go(func() error { return parts.pods.Run(ctx) })
	for _, run := range parts.others {
		g.Go(func() error { return run(ctx) })
	}
	if a.c.Serving.Listener != nil {
		g.Go(func() error { return parts.server.Serve(ctx, a.c.Serving.Listener) })
	}
	return g.Wait()
}

// parts is what Run starts.
type parts struct {
	pods   *pod.Manager
	server *server.Server
	others []func(context.Context) error
	close  func()
}

// build makes the parts, in the order in which they need each other.
func (a *Agent) build(ctx context.Context) (*parts, error) {
	out := &parts{close: func() {}}
	layout := pod.Layout{Root: a.c.RootDir, Logs: a.c.LogDir}
	host := pod.Host{IPs: a.internalIPs(), RuntimeName: a.runtimeName(ctx)}
	facts := func(p *corev1.Pod) pod.Facts {
		return pod.Facts{Pod: p, NodeName: a.c.NodeName, HostIPs: host.IPs, Allocatable: a.allocatable}
	}

	var journal pod.Journal = noJournal{}
	if a.c.RootDir != "" {
		j, err := openJournal(a.c.RootDir, a.log)
		if err != nil {
			return nil, err
		}
		out.close = func() {
			if err := j.close(); err != nil {
				a.log.Error("close the node's journal", "err", err)
			}
		}
		journal = j
	}
	changed := make(chan string, 64)
	refs := reference.New(ctx, reference.Config{Client: a.c.Client, OnDemand: a.c.Simulated, Changed: func(namespace string) {
		select {
		case changed <- namespace:
		case <-ctx.Done():
		}
	}})
	var volumes pod.Volumes = volume.Virtual{References: refs}
	var groups pod.Cgroups = noCgroups{}
	var files *volume.Manager
	if !a.c.Simulated {
		files = volume.New(volume.Config{Client: a.c.Client, References: refs, TrustBundles: refs.TrustBundles, Layout: layout, Facts: facts, Logger: a.log})
		volumes = files
		out.others = append(out.others, files.Run)
		tree, err := a.cgroups(ctx)
		if err != nil {
			out.close()
			return nil, err
		}
		groups = tree
	}
	images := image.New(image.Config{Runtime: a.c.Runtime, Secrets: refs, Parallel: a.c.ParallelPulls})
	services, follow := a.services()
	if follow != nil {
		out.others = append(out.others, follow)
	}
	var err error
	out.pods, err = pod.New(pod.Config{
		NodeName: a.c.NodeName, Client: a.c.Client, Runtime: a.c.Runtime, Volumes: volumes, References: refs, Images: images, Cgroups: groups,
		Journal: journal, Recorder: a.c.Recorder, Check: a.c.Check,
		Admit: func(p *corev1.Pod, others []*corev1.Pod) (string, string) {
			return admit(a.reporter.Node(), a.allocatable, p, others)
		},
		Host: func() pod.Host { return host }, Allocatable: func() corev1.ResourceList { return a.allocatable },
		Services: services, DNS: pod.DNS{Servers: a.c.ClusterDNS, Domain: a.c.ClusterDomain, ResolvConf: a.c.ResolvConf},
		Layout: layout, Resync: a.c.Resync, Logger: a.log,
	})
	if err != nil {
		out.close()
		return nil, err
	}
	out.others = append(out.others, func(ctx context.Context) error { return spread(ctx, refs, changed, out.pods, files) })
	a.buildServer(out, layout)
	if !a.c.Simulated {
		a.buildKeepers(out, layout, images)
	}
	return out, nil
}

// spread tells those that use config maps and secrets that some have changed.
func spread(ctx context.Context, refs *reference.Keeper, changed <-chan string, pods *pod.Manager, files *volume.Manager) error {
	for {
		select {
		case <-ctx.Done():
			refs.Wait()
			return nil
		case namespace := <-changed:
			pods.Poke(namespace)
			if files != nil {
				files.Changed(namespace)
			}
		}
	}
}

// buildKeepers adds what keeps the node's disk from filling up.
func (a *Agent) buildKeepers(out *parts, layout pod.Layout, images *image.Store) {
	logs := &rotator{runtime: a.c.Runtime, layout: layout, views: out.pods.Views, size: 10 << 20, files: 5, every: 10 * time.Second, log: a.log}
	out.others = append(out.others, logs.run)
	if a.c.ImageGCPercent == 100 {
		return
	}
	collector := &image.Collector{Store: images, High: a.c.ImageGCPercent, Logger: a.log}
	out.others = append(out.others, func(ctx context.Context) error {
		collector.Run(ctx, func(reason, message string) {
			a.c.Recorder.Event(a.nodeRef(), corev1.EventTypeWarning, reason, message)
		})
		return nil
	})
}

func (a *Agent) buildServer(out *parts, layout pod.Layout) {
	source := stats.New(stats.Config{NodeName: a.c.NodeName, Runtime: a.c.Runtime, Pods: out.pods.Views, Cgroup: a.c.CgroupParent, Root: a.c.RootDir, Simulated: a.c.Simulated})
	out.server = server.New(server.Config{
		Runtime: a.c.Runtime, Pods: out.pods, Layout: layout, Stats: source,
		Certificate: a.c.Serving.Certificate, ClientCAs: a.c.Serving.ClientCAs, Authorize: a.c.Serving.Authorize, Logger: a.log,
	})
	a.handler.set(out.server.Handler())
	if w := a.warden; w != nil {
		w.views, w.stats, w.evict, w.changed = out.pods.Views, source, out.pods.Evict, a.reporter.Poke
		w.warn = func(message string) {
			a.c.Recorder.Event(a.nodeRef(), corev1.EventTypeWarning, "EvictionThresholdMet", message)
		}
		out.others = append(out.others, w.run)
	}
}

func (a *Agent) nodeRef() *corev1.ObjectReference {
	// Events about nodes carry the name as uid: kubectl describe looks for that.
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: a.c.NodeName, UID: types.UID(a.c.NodeName)}
}

func (a *Agent) internalIPs() []string {
	var out []string
	for _, addr := range a.c.Addresses {
		if addr.Type == corev1.NodeInternalIP {
			out = append(out, addr.Address)
		}
	}
	return out
}

// runtimeName is the prefix of container ids; the runtime may need a moment to answer.
func (a *Agent) runtimeName(ctx context.Context) string {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Second) {
		v, err := a.c.Runtime.Version(ctx)
		if err == nil {
			return v.RuntimeName
		}
		a.log.Warn("container runtime does not answer", "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	return ""
}

func (a *Agent) cgroups(ctx context.Context) (*cgroup.Tree, error) {
	driver, err := a.c.Runtime.CgroupDriver(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime for its cgroup driver: %s", runtime.Message(err))
	}
	if driver == "" {
		driver = a.c.CgroupDriver
	}
	return cgroup.New(cgroup.Config{Parent: a.c.CgroupParent, Systemd: driver == "systemd", NodeMemory: a.capacity.Memory().Value()})
}

// noCgroups are those of simulated nodes.
type noCgroups struct{}

func (noCgroups) Parent(*corev1.Pod) string { return "" }
func (noCgroups) Ensure(*corev1.Pod) error  { return nil }
func (noCgroups) Remove(*corev1.Pod) error  { return nil }
func (noCgroups) Memory() int64             { return 0 }
func (noCgroups) Hugepages() bool           { return false }

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}
