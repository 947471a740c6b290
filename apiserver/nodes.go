package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// NodeDialer opens connections to node agents and to pods. cluster gives one
// that knows the network; nil in FrontConfig means plain TCP to the addresses
// that the objects name. Implementations are safe for concurrent use.
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

// nodes makes connections to agents. A name in a URL is never resolved: it is
// the node's own, and what it leads to has to prove that it is that node.
type nodes struct {
	dialer      NodeDialer
	certificate func() (*tls.Certificate, error)
	cas         func() *x509.CertPool
	// find returns the node that a name stands for; set by the server.
	find func(ctx context.Context, name string) (*corev1.Node, error)
	// transport speaks HTTP/1.1 (exec and its like upgrade it) to agents. Its
	// connections are already encrypted and verified when it gets them, so its
	// URLs say http.
	transport *http.Transport
}

func newNodes(c FrontConfig, find func(context.Context, string) (*corev1.Node, error)) *nodes {
	n := &nodes{dialer: c.Nodes, certificate: c.NodeCertificate, cas: c.NodeCAs, find: find}
	if n.dialer == nil {
		n.dialer = directDialer{}
	}
	n.transport = &http.Transport{
		DialContext:           n.dial,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		DisableCompression:    true,
	}
	return n
}

func (n *nodes) close() { n.transport.CloseIdleConnections() }

// dial is the transport's: address is "<node name>:80".
func (n *nodes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	node, err := n.find(ctx, name)
	if err != nil {
		return nil, err
	}
	conn, private, err := n.dialer.DialNode(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", name, err)
	}
	if private {
		return conn, nil
	}
	secure, err := n.handshake(ctx, conn, name)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("dial node %s: %w", name, err)
	}
	return secure, nil
}

// handshake returns when the other side has proved to be the node. TLS sends
// the client's certificate only after the server's has been verified.
func (n *nodes) handshake(ctx context.Context, conn net.Conn, name string) (net.Conn, error) {
	if n.cas == nil || n.certificate == nil {
		return nil, errors.New("this server has no certificate for nodes")
	}
	secure := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		// Verified below: the certificate names the node, not its addresses.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return verifyNode(state.PeerCertificates, n.cas(), name) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.certificate()
		},
	})
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, nil
}

// verifyNode checks that a serving certificate is the node's: signed by the
// cluster, for serving, in the name that only the node's agent is given.
func verifyNode(chain []*x509.Certificate, roots *x509.CertPool, name string) error {
	if len(chain) == 0 {
		return errors.New("the agent has shown no certificate")
	}
	leaf := chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("the agent's certificate: %w", err)
	}
	if want := "system:node:" + name; leaf.Subject.CommonName != want || !slices.Contains(leaf.Subject.Organization, "system:nodes") {
		return fmt.Errorf("the agent's certificate is for %q, not for %q", leaf.Subject.CommonName, want)
	}
	return nil
}

// directDialer dials the addresses that objects name.
type directDialer struct{}

// addressOrder is which of a node's addresses is tried.
var addressOrder = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeHostName}

func (directDialer) DialNode(ctx context.Context, node *corev1.Node) (net.Conn, bool, error) {
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	for _, kind := range addressOrder {
		for _, a := range node.Status.Addresses {
			if a.Type == kind {
				conn, err := dialAllowed(ctx, a.Address, port)
				return conn, false, err
			}
		}
	}
	return nil, false, fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
}

func (directDialer) DialPod(ctx context.Context, pod *corev1.Pod, port int32) (net.Conn, error) {
	return dialAllowed(ctx, pod.Status.PodIP, port)
}

// dialAllowed dials a host that an object names, but never this machine's own
// loopback nor what is only reachable from this link: the address is checked
// after a name has been resolved, at the moment of connecting.
func dialAllowed(ctx context.Context, host string, port int32) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ip, _, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		return allowedTarget(ip)
	}}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

// allowedTarget refuses addresses that no node or pod of a cluster can have.
func allowedTarget(address string) error {
	if ip := net.ParseIP(address); ip == nil || !ip.IsGlobalUnicast() {
		return errors.New("address not allowed")
	}
	return nil
}
