// Package pki makes and keeps the cluster's keys: its certificate authorities, on
// disk, and the leaf certificates under them, in memory and renewed before they
// end. cluster calls it at start and hands the results to the components, which
// never see a file.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// caLife is how long a certificate authority holds.
const caLife = 10 * 365 * 24 * time.Hour

// Authority signs certificates. Safe for concurrent use.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// NewAuthority makes an authority that exists in memory only.
func NewAuthority(commonName string, now time.Time) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", commonName, err)
	}
	return authorityOf(key, commonName, now)
}

// authorityOf signs the key's own certificate.
func authorityOf(key crypto.Signer, commonName string, now time.Time) (*Authority, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-time.Hour), // clocks of nodes may be behind
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{commonName},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", commonName, err)
	}
	return &Authority{Certificate: cert, Key: key}, nil
}

// LoadAuthority reads dir/name.crt and dir/name.key, or makes them (the key
// readable by its owner only) where they are not there. The key is made first: a
// key without a certificate is one whose making was cut off, and gets one; a
// certificate without its key is a loss.
func LoadAuthority(dir, name, commonName string, now time.Time) (*Authority, error) {
	keyPath, certPath := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	certPEM, certErr := os.ReadFile(certPath) // before the key is looked for: another process may be making both
	_, keyErr := os.Stat(keyPath)
	if keyErr != nil && !errors.Is(certErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("read authority %s: %w", name, errors.Join(keyErr, certErr))
	}
	key, err := LoadKey(keyPath)
	if err != nil {
		return nil, fmt.Errorf("authority %s in %s: %w", name, dir, err)
	}
	if errors.Is(certErr, fs.ErrNotExist) {
		a, err := authorityOf(key, commonName, now)
		if err != nil {
			return nil, err
		}
		if certPEM, err = keep(certPath, a.PEM(), 0o644); err != nil {
			return nil, err
		}
	} else if certErr != nil {
		return nil, fmt.Errorf("read authority %s: %w", name, certErr)
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read authority %s in %s: %w", name, dir, err)
	}
	return &Authority{Certificate: pair.Leaf, Key: key}, nil
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return EncodeCertificate(a.Certificate.Raw) }

// Pool returns a pool that holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// Hash is the HashOf the authority's certificate.
func (a *Authority) Hash() string { return HashOf(a.Certificate) }

// HashOf is the SHA-256 of a certificate's public key in hexadecimal, by which a
// join token pins an authority (as kubeadm's --discovery-token-ca-cert-hash does).
func HashOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Leaf says what a certificate is for.
type Leaf struct {
	CommonName    string   // of a client: the user's name
	Organizations []string // of a client: the user's groups
	DNSNames      []string
	IPs           []net.IP
	Client        bool
	Server        bool
	Life          time.Duration // 0: a year
	// WithAuthority shows the authority's own certificate after this one, for
	// clients that know the authority only by its Hash.
	WithAuthority bool
}

// Issue makes a key and a certificate for it.
func (a *Authority) Issue(l Leaf, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of %s: %w", l.CommonName, err)
	}
	der, err := a.Sign(l, key.Public(), now)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if l.WithAuthority {
		cert.Certificate = append(cert.Certificate, a.Certificate.Raw)
	}
	cert.Leaf, err = x509.ParseCertificate(der)
	return cert, err
}

// Sign makes a certificate (DER) for a key that somebody else holds. It never
// outlives the authority.
func (a *Authority) Sign(l Leaf, public crypto.PublicKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	life := l.Life
	if life == 0 {
		life = 365 * 24 * time.Hour
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: l.CommonName, Organization: l.Organizations},
		NotBefore:             now.Add(-5 * time.Minute), // clocks of nodes may be behind
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		DNSNames:              l.DNSNames,
		IPAddresses:           l.IPs,
	}
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	if l.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if l.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", l.CommonName, err)
	}
	return der, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial, nil
}

// EncodeCertificate turns DER into PEM.
func EncodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// EncodeKey turns a private key into PEM (PKCS #8).
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newKey makes an ECDSA P-256 key, which is made and signs in microseconds.
func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// LoadKey reads the key at path, or makes one where there is none, for good: what
// is signed with it is of use after a power cut, too.
func LoadKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		if data, err = EncodeKey(key); err != nil {
			return nil, err
		}
		if data, err = keep(path, data, 0o600); err != nil {
			return nil, err
		}
		return ParseKey(data)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return ParseKey(data)
}

// ParseKey reads a PEM key (PKCS #8, PKCS #1 or SEC 1).
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the key is not PEM")
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", parsed)
	}
	return key, nil
}

// EncodeTLSKey turns the key of an issued certificate into PEM.
func EncodeTLSKey(cert *tls.Certificate) ([]byte, error) {
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the certificate's key cannot be encoded")
	}
	return EncodeKey(key)
}
