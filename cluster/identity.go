package cluster

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/api"
	"skiff/client"
	"skiff/cluster/pki"
)

// signed is a certificate that the cluster signs at this node's request, kept in a
// file with its key, and asked for anew before it ends. Safe for concurrent use.
type signed struct {
	file    string // PEM, certificate and key; readable by its owner only
	signer  string
	usages  []certificatesv1.KeyUsage
	request *x509.CertificateRequest // what is asked for
	life    time.Duration            // that is asked for; 0: what the cluster gives
	log     *slog.Logger
	renewed func() // called when there is a new one; nil: nobody

	mu      sync.Mutex
	current *tls.Certificate // nil: there is none yet; guarded by mu
}

var errUnsigned = errors.New("the cluster has not signed this node's certificate yet")

// Get returns the certificate of now.
func (s *signed) Get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, errUnsigned
	}
	return s.current, nil
}

// ForClient has the form of tls.Config.GetClientCertificate.
func (s *signed) ForClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.Get() }

func (s *signed) set(c *tls.Certificate) {
	s.mu.Lock()
	s.current = c
	s.mu.Unlock()
	if s.renewed != nil {
		s.renewed()
	}
}

// load takes the certificate from its file, if that has one which is good now and
// for what is asked for.
func (s *signed) load(now time.Time) (ok bool, err error) {
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.file, err)
	}
	if cert.Leaf.Subject.CommonName != s.request.Subject.CommonName {
		return false, fmt.Errorf("%s is a certificate of %s: give that node's name, or another data directory", s.file, cert.Leaf.Subject.CommonName)
	}
	for _, ip := range s.request.IPAddresses {
		if cert.Leaf.VerifyHostname(ip.String()) != nil {
			return false, nil // the node has another address now
		}
	}
	if !now.Before(cert.Leaf.NotAfter) {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = &cert
	return true, nil
}

// renewAt is between 70 and 90 hundredths of the certificate's life, so that nodes
// which joined together do not renew together.
func renewAt(c *x509.Certificate) time.Time {
	part := 70.0
	if n, err := rand.Int(rand.Reader, big.NewInt(2000)); err == nil {
		part += float64(n.Int64()) / 100
	}
	return c.NotBefore.Add(time.Duration(float64(c.NotAfter.Sub(c.NotBefore)) * part / 100))
}

// keep asks for a certificate whenever there is none or it ends soon, until ctx ends.
func (s *signed) keep(ctx context.Context, c client.Client) error {
	pause := time.Second
	for ctx.Err() == nil {
		wait := time.Duration(0)
		if cert, err := s.Get(); err == nil {
			wait = time.Until(renewAt(cert.Leaf))
		}
		if !sleep(ctx, wait) {
			return nil
		}
		if err := s.obtain(ctx, c); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("no new certificate yet", "signer", s.signer, "error", err)
			}
			sleep(ctx, pause)
			pause = min(2*pause, time.Minute)
			continue
		}
		pause = time.Second
	}
	return nil
}

// obtain asks for a certificate once, and waits until it is signed.
func (s *signed) obtain(ctx context.Context, c client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, s.request, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	asked := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: s.signer, Usages: s.usages,
		},
	}
	if s.life > 0 {
		seconds := int32(s.life / time.Second)
		asked.Spec.ExpirationSeconds = &seconds
	}
	csr, err := client.Create(ctx, c, asked)
	if err != nil {
		return fmt.Errorf("ask %s for a certificate: %w", s.signer, err)
	}
	cert, err := awaitSigned(ctx, c, csr.Name)
	if err != nil {
		return err
	}
	return s.take(cert, key)
}

// take keeps a certificate for key.
func (s *signed) take(cert []byte, key crypto.Signer) error {
	encoded, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	both := append(append([]byte{}, cert...), encoded...)
	pair, err := tls.X509KeyPair(both, both)
	if err != nil {
		return fmt.Errorf("the signed certificate: %w", err)
	}
	if err := writeWhole(s.file, both, 0o600); err != nil {
		return err
	}
	s.set(&pair)
	return nil
}

// awaitSigned returns what was signed on a request.
func awaitSigned(ctx context.Context, c client.Client, name string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	feed := c.Follow(ctx, client.Source{
		Resource: api.For[*certificatesv1.CertificateSigningRequest](), Fields: fields.OneTermEqualSelector("metadata.name", name),
	})
	for batch := range feed.C {
		for _, change := range batch.Changes {
			csr, ok := change.New.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				return nil, fmt.Errorf("certificate request %s was deleted", name)
			}
			for _, cond := range csr.Status.Conditions {
				if cond.Type == certificatesv1.CertificateDenied || cond.Type == certificatesv1.CertificateFailed {
					return nil, fmt.Errorf("certificate request %s: %s: %s", name, cond.Type, cond.Message)
				}
			}
			if len(csr.Status.Certificate) > 0 {
				return csr.Status.Certificate, nil
			}
		}
	}
	return nil, fmt.Errorf("certificate request %s has not been approved: see `kubectl get csr`, `kubectl certificate approve %s`", name, name)
}

// sleep waits, and tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
