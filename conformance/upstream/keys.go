package upstream

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/cluster/pki"
)

// keys are files of a control plane's trust, and what they are made of.
type keys struct {
	dir      string
	ca       *pki.Authority
	accounts crypto.Signer
}

func newKeys(dir string) (*keys, error) {
	k := &keys{dir: dir}
	var err error
	if k.ca, err = pki.NewAuthority("kubernetes", time.Now()); err != nil {
		return nil, err
	}
	proxy, err := pki.NewAuthority("front-proxy-ca", time.Now())
	if err != nil {
		return nil, err
	}
	if k.accounts, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.accounts.Public())
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	err = errors.Join(
		k.write("ca.crt", k.ca.PEM()), k.writeKey("ca.key", k.ca.Key), k.write("front-proxy-ca.crt", proxy.PEM()),
		k.writeKey("sa.key", k.accounts), k.write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		k.issue("apiserver", pki.Leaf{
			CommonName: "kube-apiserver", Server: true, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		}),
		// The API server's own, for what it forwards to nodes and to extensions.
		k.issue("to-nodes", pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"kubeadm:cluster-admins", "system:masters"}, Client: true}),
	)
	if err != nil {
		return nil, err
	}
	cert, err := proxy.Issue(pki.Leaf{CommonName: "front-proxy-client", Client: true}, time.Now())
	if err != nil {
		return nil, err
	}
	key, err := pki.EncodeTLSKey(cert)
	if err != nil {
		return nil, err
	}
	return k, errors.Join(k.write("front-proxy.crt", pki.EncodeCertificate(cert.Certificate[0])), k.write("front-proxy.key", key))
}

func (k *keys) path(name string) string { return filepath.Join(k.dir, name) }

func (k *keys) write(name string, data []byte) error { return os.WriteFile(k.path(name), data, 0o600) }

func (k *keys) writeKey(name string, key crypto.Signer) error {
	data, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	return k.write(name, data)
}

// issue writes a certificate and its key.
func (k *keys) issue(name string, leaf pki.Leaf) error {
	cert, key, err := k.pair(leaf)
	if err != nil {
		return err
	}
	return errors.Join(k.write(name+".crt", cert), k.write(name+".key", key))
}

func (k *keys) pair(leaf pki.Leaf) (cert, key []byte, err error) {
	issued, err := k.ca.Issue(leaf, time.Now())
	if err != nil {
		return nil, nil, err
	}
	key, err = pki.EncodeTLSKey(issued)
	return pki.EncodeCertificate(issued.Certificate[0]), key, err
}

// config is how a user reaches the server.
func (k *keys) config(server, user string, groups ...string) (*rest.Config, error) {
	cert, key, err := k.pair(pki.Leaf{CommonName: user, Organizations: groups, Client: true})
	if err != nil {
		return nil, err
	}
	return &rest.Config{Host: server, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: k.ca.PEM(), CertData: cert, KeyData: key}}, nil
}

// WriteKubeconfig writes a kubeconfig of who has this configuration.
func WriteKubeconfig(path string, c *rest.Config) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["c"] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthorityData: c.CAData}
	k.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: c.CertData, ClientKeyData: c.KeyData, Token: c.BearerToken}
	k.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	k.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*k, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
