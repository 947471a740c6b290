package pki

import (
	"crypto/tls"
	"sync"
	"time"
)

// Renewed is a leaf certificate that is replaced by itself after two thirds of
// its life, when it is next asked for: no certificate ends while the program
// runs, and nothing has to be restarted. Safe for concurrent use.
type Renewed struct {
	issue func(now time.Time) (*tls.Certificate, error)

	mu      sync.Mutex
	current *tls.Certificate
	renewAt time.Time
}

// Renewed returns a certificate that is issued when it is first asked for.
func (a *Authority) Renewed(l Leaf) *Renewed {
	return &Renewed{issue: func(now time.Time) (*tls.Certificate, error) { return a.Issue(l, now) }}
}

// Get returns the certificate of now.
func (r *Renewed) Get() (*tls.Certificate, error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil && now.Before(r.renewAt) {
		return r.current, nil
	}
	cert, err := r.issue(now)
	if err != nil {
		if r.current != nil && now.Before(r.current.Leaf.NotAfter) {
			return r.current, nil // still good; the next call tries again
		}
		return nil, err
	}
	r.current = cert
	r.renewAt = now.Add(cert.Leaf.NotAfter.Sub(now) * 2 / 3)
	return cert, nil
}

// ForServer has the form of tls.Config.GetCertificate.
func (r *Renewed) ForServer(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.Get() }

// ForClient has the form of tls.Config.GetClientCertificate.
func (r *Renewed) ForClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.Get() }
