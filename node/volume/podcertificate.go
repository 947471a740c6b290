package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// credential is a private key, and the certificates that a signer has given a pod for it. The key never leaves the node.
type credential struct {
	key, chain []byte    // PEM; chain nil: not issued yet
	renewAt    time.Time // when another one is asked for
	asked      *asked    // the request under way; nil: none
	refused    string    // why there will never be one; "": nobody has said so
}

// asked is a PodCertificateRequest and the key that it is about.
type asked struct {
	name string
	key  []byte
}

// issueWait is how long one attempt to set a volume up waits for a signer. The next attempt waits for the same request.
const issueWait = 5 * time.Second

var errNotIssued = errors.New("credential bundle is not issued yet")

// certificate puts a pod's credentials into files, in the forms that the source wants.
func (m *Manager) certificate(ctx context.Context, files map[string]file, v *podVolumes, p *corev1.Pod, at string, s *corev1.PodCertificateProjection, mode os.FileMode) error {
	c := v.credentials[at]
	if c == nil {
		c = &credential{}
		v.credentials[at] = c
	}
	if err := m.bring(ctx, p, s, c); err != nil {
		if c.chain == nil || c.refused != "" {
			return err
		}
		// The old ones are still good for a while.
		m.c.Logger.Warn("pod certificate is not renewed", "pod", p.Namespace+"/"+p.Name, "err", err)
		m.setDue(v, time.Now().Add(time.Minute))
	}
	if time.Now().Before(c.renewAt) {
		m.setDue(v, c.renewAt)
	}
	put := func(path string, data []byte) {
		f := file{data: data, mode: mode, owner: commonUser(p)}
		if f.owner >= 0 || fsGroup(p) >= 0 {
			f.mode = 0o600
		}
		if path != "" {
			files[path] = f
		}
	}
	put(s.CredentialBundlePath, append(append([]byte{}, c.key...), c.chain...))
	put(s.KeyPath, c.key)
	put(s.CertificateChainPath, c.chain)
	return nil
}

// bring sees to it that c is issued and not due for renewal.
func (m *Manager) bring(ctx context.Context, p *corev1.Pod, s *corev1.PodCertificateProjection, c *credential) error {
	switch {
	case c.refused != "":
		return errors.New(c.refused)
	case c.chain != nil && time.Now().Before(c.renewAt):
		return nil
	}
	if c.asked == nil {
		a, err := m.ask(ctx, p, s)
		if err != nil {
			return fmt.Errorf("while creating PodCertificateRequest: %w", err)
		}
		c.asked = a
	}
	return m.collect(ctx, p, c)
}

// ask makes a key and requests certificates for it.
func (m *Manager) ask(ctx context.Context, p *corev1.Pod, s *corev1.PodCertificateProjection) (*asked, error) {
	account, err := client.Get[*corev1.ServiceAccount](ctx, m.c.Client, p.Namespace, p.Spec.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	node, err := client.Get[*corev1.Node](ctx, m.c.Client, "", p.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	key, proof, err := newKey(s.KeyType)
	if err != nil {
		return nil, err
	}
	made, err := client.Create(ctx, m.c.Client, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: s.SignerName, PodName: p.Name, PodUID: p.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID, MaxExpirationSeconds: s.MaxExpirationSeconds,
			StubPKCS10Request: proof, UnverifiedUserAnnotations: s.UserAnnotations,
		},
	})
	if err != nil {
		return nil, err
	}
	return &asked{name: made.Name, key: key}, nil
}

// collect waits for the request's end and takes what was issued.
func (m *Manager) collect(ctx context.Context, p *corev1.Pod, c *credential) error {
	ctx, cancel := context.WithTimeout(ctx, issueWait)
	defer cancel()
	// A node may follow its own requests only; the name alone would not be allowed.
	feed := m.c.Client.Follow(ctx, client.Source{Resource: api.For[*certificatesv1.PodCertificateRequest](), Namespace: p.Namespace,
		Fields: fields.SelectorFromSet(fields.Set{"metadata.name": c.asked.name, "spec.nodeName": p.Spec.NodeName})})
	ended := errNotIssued
	for batch := range feed.C {
		if !errors.Is(ended, errNotIssued) {
			continue // until the feed has ended
		}
		var now *certificatesv1.PodCertificateRequest
		for _, change := range batch.Changes {
			now, _ = change.New.(*certificatesv1.PodCertificateRequest)
		}
		if now == nil {
			c.asked = nil
			ended = errors.New("PodCertificateRequest appears to have been deleted")
		} else if over, err := c.take(now); over {
			ended = err
		}
		if !errors.Is(ended, errNotIssued) {
			cancel()
		}
	}
	return ended
}

// take looks at the request; over: it has come to its end.
func (c *credential) take(r *certificatesv1.PodCertificateRequest) (over bool, err error) {
	for _, condition := range r.Status.Conditions {
		if condition.Status != metav1.ConditionTrue {
			continue
		}
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			word := "denied"
			if condition.Type == certificatesv1.PodCertificateRequestConditionTypeFailed {
				word = "failed"
			}
			c.refused = fmt.Sprintf("PodCertificateRequest was permanently %s: reason=%q message=%q", word, condition.Reason, condition.Message)
			return true, errors.New(c.refused)
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			c.key, c.chain, c.asked = c.asked.key, cleanChain(r.Status.CertificateChain), nil
			c.renewAt = time.Now().Add(maxTokenAge)
			if begin := r.Status.BeginRefreshAt; begin != nil {
				// Not all pods of a deployment at one moment.
				c.renewAt = begin.Add(mathrand.N(5 * time.Minute))
			}
			return true, nil
		}
	}
	return false, nil
}

// cleanChain keeps the certificates in their order, without what else stands between them.
func cleanChain(chain string) []byte {
	out, rest := []byte{}, []byte(chain)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})...)
	}
}

// newKey makes a key of the type that a pod asks for: its PEM, and a request in PKCS #10 that proves its possession.
func newKey(keyType string) (key, proof []byte, err error) {
	signer, err := generate(keyType)
	if err != nil {
		return nil, nil, fmt.Errorf("generate %s key: %w", keyType, err)
	}
	if proof, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer); err != nil {
		return nil, nil, fmt.Errorf("prove possession of the key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), proof, nil
}

func generate(keyType string) (crypto.Signer, error) {
	switch keyType {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, errors.New("the key type is not known")
}
