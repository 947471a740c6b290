// Package skifftest is a cluster as a value in a Go test: API server, controllers,
// scheduler and simulated nodes in the test's process, in memory. It opens no
// port, writes no file and needs no root; inside a testing/synctest bubble its
// time is virtual.
//
//	func TestMyOperator(t *testing.T) {
//		c := skifftest.New(t)
//		clientset := kubernetes.NewForConfigOrDie(c.RESTConfig())
//		…
//	}
package skifftest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/cluster/pki"
	"skiff/store"
)

// Config says what the cluster has. Its zero value is a cluster of one node.
type Config struct {
	// Nodes is how many simulated nodes there are; 0 means one, -1 none.
	Nodes int
	// NoControllers and NoScheduler leave them out.
	NoControllers, NoScheduler bool
	// Listen opens a port on 127.0.0.1 as well, for other processes (kubectl). Not
	// in a synctest bubble.
	Listen bool
	// Logger; nil: warnings and errors go to the test's log.
	Logger *slog.Logger
}

// Cluster is a running cluster. It ends with the test.
type Cluster struct {
	t       testing.TB
	keys    *cluster.Keys
	memory  *cluster.MemoryListener
	address string // with Listen: host:port
	plane   *cluster.ControlPlane
	nodes   *cluster.SimulatedNodes
	admin   *tls.Certificate
}

// New starts a cluster and returns when it can be used: the API answers, and the
// nodes are ready. At most one Config may be given.
func New(t testing.TB, config ...Config) *Cluster {
	t.Helper()
	var c Config
	if len(config) > 0 {
		c = config[0]
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	k, err := start(t, c)
	if err != nil {
		t.Fatalf("skifftest: %v", err)
	}
	return k
}

func start(t testing.TB, c Config) (*Cluster, error) {
	keys, err := cluster.NewKeys()
	if err != nil {
		return nil, err
	}
	k := &Cluster{t: t, keys: keys, memory: cluster.NewMemoryListener()}
	listeners := []net.Listener{k.memory}
	if c.Listen {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		k.address = l.Addr().String()
		listeners = append(listeners, l)
	}
	k.admin, err = keys.CA.Issue(pki.Leaf{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true}, time.Now())
	if err != nil {
		return nil, err
	}
	backing := store.OpenMemory(store.MemoryConfig{})
	k.nodes = cluster.NewSimulatedNodes()
	k.plane, err = cluster.NewControlPlane(cluster.ControlPlaneConfig{
		Store: backing, Keys: keys, Listeners: listeners, Nodes: k.nodes,
		Identity: "skifftest", NoControllers: c.NoControllers, NoScheduler: c.NoScheduler, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.plane.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("skifftest: the cluster ended with: %v", err)
		}
		if err := backing.Close(); err != nil {
			t.Errorf("skifftest: close store: %v", err)
		}
	})
	select {
	case <-k.plane.Ready():
	case err := <-done:
		done <- err
		return nil, fmt.Errorf("start: %w", err)
	}
	if c.Nodes == 0 {
		c.Nodes = 1
	}
	if c.Nodes > 0 {
		if err := k.nodes.Start(ctx, k.plane, c.Nodes, c.Logger); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// RESTConfig is how client-go's clients reach the cluster, as its administrator,
// within the process.
func (k *Cluster) RESTConfig() *rest.Config {
	c := k.config("kubernetes.default.svc")
	c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return k.memory.Dial(ctx) }
	return c
}

// User is how a user of that name and these groups reaches the cluster by its
// port, with a client certificate: for programs that run as one of the cluster's
// components. It needs Config.Listen.
func (k *Cluster) User(name string, groups ...string) *rest.Config {
	k.t.Helper()
	k.needsPort("User")
	cert, err := k.keys.CA.Issue(pki.Leaf{CommonName: name, Organizations: groups, Client: true}, time.Now())
	k.ok(err)
	return k.configOf(cert, k.address)
}

func (k *Cluster) needsPort(who string) {
	k.t.Helper()
	if k.address == "" {
		k.t.Fatalf("skifftest: %s needs Config.Listen", who)
	}
}

func (k *Cluster) config(host string) *rest.Config { return k.configOf(k.admin, host) }

func (k *Cluster) configOf(cert *tls.Certificate, host string) *rest.Config {
	k.t.Helper()
	key, err := pki.EncodeTLSKey(cert)
	k.ok(err)
	return &rest.Config{
		Host: "https://" + host,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: k.keys.CA.PEM(), CertData: pki.EncodeCertificate(cert.Certificate[0]), KeyData: key,
		},
		QPS: -1, // the server has its own limits
	}
}

// Node is a simulated node. The nodes are called node-1, node-2 and so on.
type Node struct {
	cluster *Cluster
	name    string
}

// Node returns the node of that name; the test fails if the cluster has none.
func (k *Cluster) Node(name string) *Node {
	k.t.Helper()
	n := &Node{k, name}
	n.Running()
	return n
}

// CutOff pulls the node's plug to the network: it does not reach the API server,
// and nobody reaches it, but its pods run on. After less than a minute the cluster takes it for
// unreachable, and its pods come up elsewhere as their tolerations say. Return
// plugs it in again.
func (n *Node) CutOff() { n.cluster.ok(n.cluster.nodes.CutOff(n.name)) }

// Return undoes CutOff.
func (n *Node) Return() { n.cluster.ok(n.cluster.nodes.Return(n.name)) }

// Running lists the pods that have running containers on the node itself, as
// namespace/name, in order: also those that the API server knows nothing of.
func (n *Node) Running() []string {
	n.cluster.t.Helper()
	pods, err := n.cluster.nodes.Running(context.Background(), n.name)
	n.cluster.ok(err)
	return pods
}

func (k *Cluster) ok(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("skifftest: %v", err)
	}
}

// Compact makes the cluster forget the past, as servers do after some minutes:
// watches and lists that go on from an earlier revision are told that it is
// expired.
func (k *Cluster) Compact() {
	k.t.Helper()
	k.ok(k.plane.Forget(context.Background()))
}

// Kubeconfig writes a kubeconfig for other processes into the test's temporary
// directory and returns its path. It needs Config.Listen.
func (k *Cluster) Kubeconfig() string {
	k.t.Helper()
	k.needsPort("Kubeconfig")
	c := k.config(k.address)
	a := local.Access{Server: c.Host, CA: c.CAData, Certificate: c.CertData, Key: c.KeyData}
	data, err := clientcmd.Write(*a.Kubeconfig("test"))
	if err != nil {
		k.t.Fatalf("skifftest: encode kubeconfig: %v", err)
	}
	path := filepath.Join(k.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		k.t.Fatalf("skifftest: write kubeconfig: %v", err)
	}
	return path
}
