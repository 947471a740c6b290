package apiserver

import (
	"context"
	"net"

	corev1 "k8s.io/api/core/v1"
)

// NodeDialer opens connections to node agents and to pods. cluster gives one
// that knows the network; nil in Config means plain TCP to the addresses that
// the objects name. Implementations are safe for concurrent use.
type NodeDialer interface {
	// DialNode opens a connection to the agent's port. private says that the
	// connection never leaves this process (a simulated node, which has no
	// port): the server then speaks plain HTTP over it, else TLS, and proves who
	// it is only after the agent has proved to be that node.
	DialNode(ctx context.Context, node *corev1.Node) (conn net.Conn, private bool, err error)

	// DialPod opens a connection to a port of a running pod. The server has
	// already refused addresses that no pod can have.
	DialPod(ctx context.Context, pod *corev1.Pod, port int32) (net.Conn, error)
}
