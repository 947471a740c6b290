package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"
)

// HTTPConfig says how the server listens, who it is, and how much it takes.
type HTTPConfig struct {
	// Certificate is asked at each handshake, so that a renewed certificate
	// needs no restart. Nil: Serve takes only plain (in-memory) listeners.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs is asked at each handshake, too: certificates that clients present
	// are requested when it is set; whether they hold is for authentication. Nil: none is asked for.
	ClientCAs func() *x509.CertPool

	// NodeCertificate is what the server shows to node agents, and NodeCAs what
	// their serving certificates must be signed by. Both are asked at each dial.
	NodeCertificate func() (*tls.Certificate, error)
	NodeCAs         func() *x509.CertPool

	// RequestTimeout of requests that are not long-running; 0 means a minute.
	RequestTimeout time.Duration
	// MaxReads and MaxWrites are how many requests may be in flight; 0 means 400
	// and 200, as Kubernetes has it.
	MaxReads, MaxWrites int
}

// Handler serves the API over HTTP, without TLS: whoever calls it says who
// the clients are (Authenticator in Config).
func (s *Server) Handler() http.Handler { return nil }

// Serve answers connections of l until ctx ends, then lets requests finish. With
// secure it speaks TLS (HTTP/2 and 1.1), else plain HTTP, for listeners in memory.
func (s *Server) Serve(ctx context.Context, l net.Listener, secure bool) error { return nil }
