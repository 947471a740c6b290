package controllers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/skifftest"
)

// asking makes a certificate request for a name.
func asking(t *testing.T, name, common, signer string, usage certificatesv1.KeyUsage, dns ...string) *certificatesv1.CertificateSigningRequest {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: common, Organization: []string{"system:nodes"}}, DNSNames: dns}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
	}}
}

func TestNodesGetTheirCertificates(t *testing.T) {
	config := skifftest.New(t, skifftest.Config{}).RESTConfig()
	s := tellOver(t, config)
	nodes, err := s.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	s.ok(nil, err)
	node := nodes.Items[0].Name
	as := func(user string, groups ...string) *kubernetes.Clientset {
		c := rest.CopyConfig(config)
		c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
		return kubernetes.NewForConfigOrDie(c)
	}
	issued := func(name string) *x509.Certificate {
		csr := until(s, "", name, "issued", func(r *certificatesv1.CertificateSigningRequest) bool {
			return r != nil && len(r.Status.Certificate) > 0
		})
		block, _ := pem.Decode(csr.Status.Certificate)
		cert, err := x509.ParseCertificate(block.Bytes)
		s.ok(nil, err)
		return cert
	}
	joining, itself := as("system:bootstrap:abcdef", "system:bootstrappers"), as("system:node:"+node, "system:nodes")
	client := asking(t, "client", "system:node:new", certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	s.ok(joining.CertificatesV1().CertificateSigningRequests().Create(s.ctx, client, metav1.CreateOptions{}))
	if cert := issued("client"); cert.Subject.CommonName != "system:node:new" || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.IsCA {
		t.Errorf("client certificate %+v", cert.Subject)
	}
	renewal := asking(t, "renewal", "system:node:"+node, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	s.ok(itself.CertificatesV1().CertificateSigningRequests().Create(s.ctx, renewal, metav1.CreateOptions{}))
	issued("renewal")

	// A serving certificate for names of others waits for a person.
	foreign := asking(t, "foreign", "system:node:"+node, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, "kubernetes.default.svc")
	s.ok(itself.CertificatesV1().CertificateSigningRequests().Create(s.ctx, foreign, metav1.CreateOptions{}))
	serving := asking(t, "serving", "system:node:"+node, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, node)
	s.ok(itself.CertificatesV1().CertificateSigningRequests().Create(s.ctx, serving, metav1.CreateOptions{}))
	if cert := issued("serving"); cert.DNSNames[0] != node {
		t.Errorf("serving certificate for %q", cert.DNSNames)
	}
	csr, err := s.CertificatesV1().CertificateSigningRequests().Get(s.ctx, "foreign", metav1.GetOptions{})
	s.ok(nil, err)
	if len(csr.Status.Conditions) != 0 {
		t.Errorf("foreign names: %+v", csr.Status.Conditions)
	}
}
