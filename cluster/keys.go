package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"time"

	"skiff/cluster/pki"
)

// Keys are what a cluster's trust rests on. They are made once and kept with the
// cluster's data; everything else is issued under them when it is needed.
type Keys struct {
	// CA signs the certificates of the API server, of users and of nodes.
	CA *pki.Authority
	// FrontProxyCA signs those of proxies whose word is taken for who asks.
	FrontProxyCA *pki.Authority
	// ServiceAccounts signs service account tokens.
	ServiceAccounts crypto.Signer
}

// NewKeys makes keys that exist in memory only.
func NewKeys() (*Keys, error) {
	now := time.Now()
	ca, err := pki.NewAuthority("kubernetes", now)
	if err != nil {
		return nil, err
	}
	proxy, err := pki.NewAuthority("front-proxy-ca", now)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	return &Keys{CA: ca, FrontProxyCA: proxy, ServiceAccounts: key}, nil
}

// LoadKeys reads the keys in dir, or makes those that are not there.
func LoadKeys(dir string) (*Keys, error) {
	now := time.Now()
	ca, err := pki.LoadAuthority(dir, "ca", "kubernetes", now)
	if err != nil {
		return nil, err
	}
	proxy, err := pki.LoadAuthority(dir, "front-proxy-ca", "front-proxy-ca", now)
	if err != nil {
		return nil, err
	}
	key, err := pki.LoadKey(filepath.Join(dir, "sa.key"))
	if err != nil {
		return nil, err
	}
	return &Keys{CA: ca, FrontProxyCA: proxy, ServiceAccounts: key}, nil
}
