package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node"
	"skiff/node/runtime/simulated"
)

// SimulatedNodes are agents within the process, whose pods only pretend to run. It
// is the way to them, too: they have no port.
type SimulatedNodes struct {
	mu    sync.Mutex
	nodes map[string]*simulatedNode // by name; guarded by mu
	group errgroup.Group
}

// simulatedNode is one of them: how it is reached, how it reaches the API server,
// and what it runs.
type simulatedNode struct {
	way     *MemoryListener
	link    *link
	runtime *simulated.Runtime
}

// NewSimulatedNodes returns none; Start starts them.
func NewSimulatedNodes() *SimulatedNodes {
	return &SimulatedNodes{nodes: map[string]*simulatedNode{}}
}

// Start runs the nodes node-1 … node-n until ctx ends, and returns when all are
// registered. Wait waits for their end.
func (s *SimulatedNodes) Start(ctx context.Context, p *ControlPlane, n int, log *slog.Logger) error {
	registered := make([]<-chan struct{}, n)
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		one := &simulatedNode{NewMemoryListener(), newLink(), simulated.New(simulated.Config{Pods: simulatedPods(i)})}
		api := p.Client(&user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}, "skiff-agent")
		agent, err := node.New(node.Config{
			NodeName:     name,
			Client:       linkedClient{api, one.link},
			Runtime:      one.runtime,
			Simulated:    true,
			NoServiceEnv: true,
			PodCIDRs:     []string{simulatedPods(i).String()},
			Logger:       log,
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		registered[i] = agent.Registered()
		s.mu.Lock()
		s.nodes[name] = one
		s.mu.Unlock()
		s.group.Go(func() error { return s.run(ctx, agent, one.way) })
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
	one, err := s.find(n.Name)
	if err != nil {
		return nil, false, err
	}
	if ctx, done, err := one.link.through(ctx); err == nil {
		defer done()
		conn, err := one.way.Dial(ctx)
		return conn, true, err
	}
	return nil, false, fmt.Errorf("dial node %s: %w", n.Name, errCutOff)
}

func (s *SimulatedNodes) find(name string) (*simulatedNode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.nodes[name]; one != nil {
		return one, nil
	}
	return nil, fmt.Errorf("node %s is not simulated in this process", name)
}

// CutOff cuts the node off from the control plane, both ways: what it asks fails,
// what it follows stands still, nobody reaches it. Its pods run on.
func (s *SimulatedNodes) CutOff(name string) error {
	one, err := s.find(name)
	if err == nil {
		one.link.sever()
	}
	return err
}

// Return undoes CutOff.
func (s *SimulatedNodes) Return(name string) error {
	one, err := s.find(name)
	if err == nil {
		one.link.restore()
	}
	return err
}

// Running lists the pods (namespace/name) that have running containers on the
// node, whatever the API server knows of them, in order.
func (s *SimulatedNodes) Running(ctx context.Context, name string) ([]string, error) {
	one, err := s.find(name)
	if err != nil {
		return nil, err
	}
	sandboxes, err := one.runtime.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := one.runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for _, c := range containers {
		running[c.PodSandboxId] = running[c.PodSandboxId] || c.State == cri.ContainerState_CONTAINER_RUNNING
	}
	var pods []string
	for _, s := range sandboxes {
		if running[s.Id] {
			pods = append(pods, s.Metadata.Namespace+"/"+s.Metadata.Name)
		}
	}
	slices.Sort(pods)
	return pods, nil
}

// DialPod implements apiserver.NodeDialer.
func (s *SimulatedNodes) DialPod(_ context.Context, pod *corev1.Pod, port int32) (net.Conn, error) {
	return nil, fmt.Errorf("pod %s/%s is simulated: nothing listens on its port %d", pod.Namespace, pod.Name, port)
}
