package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/node"
	"skiff/node/runtime/simulated"
)

// SimulatedNodes are agents within the process, whose pods only pretend to run. It
// is the way to them, too: they have no port.
type SimulatedNodes struct {
	mu    sync.Mutex
	ways  map[string]*MemoryListener // by node name; guarded by mu
	group errgroup.Group
}

// NewSimulatedNodes returns none; Start starts them.
func NewSimulatedNodes() *SimulatedNodes {
	return &SimulatedNodes{ways: map[string]*MemoryListener{}}
}

// Start runs the nodes node-1 … node-n until ctx ends, and returns when all are
// registered. Wait waits for their end.
func (s *SimulatedNodes) Start(ctx context.Context, p *ControlPlane, n int, log *slog.Logger) error {
	registered := make([]<-chan struct{}, n)
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		agent, err := node.New(node.Config{
			NodeName:     name,
			Client:       p.Client(&user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}, "skiff-agent"),
			Runtime:      simulated.New(simulated.Config{Pods: simulatedPods(i)}),
			Simulated:    true,
			NoServiceEnv: true,
			PodCIDRs:     []string{simulatedPods(i).String()},
			Logger:       log.With("node", name),
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		registered[i] = agent.Registered()
		way := NewMemoryListener()
		s.mu.Lock()
		s.ways[name] = way
		s.mu.Unlock()
		s.group.Go(func() error { return s.run(ctx, agent, way) })
	}
	for _, r := range registered {
		select {
		case <-r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// simulatedPods is the range of the i-th node's pods: a /24 of 10.0.0.0/8.
func simulatedPods(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
}

// run runs one agent and its server.
func (s *SimulatedNodes) run(ctx context.Context, agent *node.Agent, way *MemoryListener) error {
	server := &http.Server{Handler: agent.Handler()}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(way); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { return agent.Run(ctx) })
	return group.Wait()
}

// Wait returns when all nodes have ended.
func (s *SimulatedNodes) Wait() error { return s.group.Wait() }

// DialNode implements apiserver.NodeDialer.
func (s *SimulatedNodes) DialNode(ctx context.Context, n *corev1.Node) (net.Conn, bool, error) {
	s.mu.Lock()
	way := s.ways[n.Name]
	s.mu.Unlock()
	if way == nil {
		return nil, false, fmt.Errorf("node %s is not simulated in this process", n.Name)
	}
	conn, err := way.Dial(ctx)
	return conn, true, err
}

// DialPod implements apiserver.NodeDialer.
func (s *SimulatedNodes) DialPod(_ context.Context, pod *corev1.Pod, port int32) (net.Conn, error) {
	return nil, fmt.Errorf("pod %s/%s is simulated: nothing listens on its port %d", pod.Namespace, pod.Name, port)
}
