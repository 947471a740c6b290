package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestWhatSignersDemand(t *testing.T) {
	nodes := pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}
	both := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment}
	for _, c := range []struct {
		name    string
		signer  string
		request x509.CertificateRequest
		usage   certificatesv1.KeyUsage
		want    string
	}{
		{"client", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodes}, certificatesv1.UsageClientAuth, ""},
		{"client with a name", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodes, DNSNames: []string{"a"}}, certificatesv1.UsageClientAuth, "DNS subjectAltNames are not allowed"},
		{"client of another group", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes", "system:masters"}}}, certificatesv1.UsageClientAuth, "subject organization is not system:nodes"},
		{"client that wants to serve", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodes}, certificatesv1.UsageServerAuth, "usages did not match [digital signature key encipherment client auth]"},
		{"serving", certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: nodes, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, certificatesv1.UsageServerAuth, ""},
		{"serving without a name", certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: nodes}, certificatesv1.UsageServerAuth, "DNS or IP subjectAltName is required"},
		{"serving of a person", certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"system:nodes"}}, DNSNames: []string{"a"}}, certificatesv1.UsageServerAuth, "subject common name does not begin with system:node:"},
		{"any client", certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, certificatesv1.UsageClientAuth, ""},
		{"any client that wants to sign", certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{}, certificatesv1.UsageCertSign, "usages did not match [digital signature key encipherment client auth]"},
	} {
		got := ""
		if err := checks[c.signer](&c.request, append(both, c.usage)); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestANodeServesOnlyAsItself(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}}}
	for name, c := range map[string]struct {
		request x509.CertificateRequest
		ok      bool
	}{
		"its own":      {x509.CertificateRequest{DNSNames: []string{"n"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.1")}}, true},
		"another name": {x509.CertificateRequest{DNSNames: []string{"n", "m"}}, false},
		"another's IP": {x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP("10.0.0.2")}}, false},
		"IP as a name": {x509.CertificateRequest{DNSNames: []string{"10.0.0.1"}}, false},
	} {
		if err := namesOf(node, &c.request); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func authority(t *testing.T, until time.Time) Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotBefore: start.Add(-time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Certificate: cert, Key: key}
}

func TestHowLongACertificateLasts(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	seconds := func(d time.Duration) *int32 { n := int32(d / time.Second); return &n }
	for _, c := range []struct {
		asked     *int32
		authority time.Duration
		want      time.Duration
	}{
		{nil, 10 * lifetime, lifetime},
		{seconds(time.Hour), 10 * lifetime, time.Hour},
		{seconds(time.Minute), 10 * lifetime, shortest},
		{seconds(2 * lifetime), 10 * lifetime, lifetime},
		{nil, 48 * time.Hour, 48 * time.Hour},
	} {
		data, err := authority(t, start.Add(c.authority)).issue(&x509.CertificateRequest{PublicKey: key.Public()},
			certificatesv1.CertificateSigningRequestSpec{ExpirationSeconds: c.asked, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}, start)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.NotAfter.Sub(start); got != c.want || !cert.NotBefore.Equal(start.Add(-backdate)) {
			t.Errorf("asked %v: lasts %s, want %s", c.asked, got, c.want)
		}
	}
}

func TestOldRequestsGo(t *testing.T) {
	w := rehearsal.New(t, start, Cleaner())
	put := func(name string, certificate string, conditions ...certificatesv1.RequestConditionType) {
		csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
		csr.Status.Certificate = []byte(certificate)
		for _, c := range conditions {
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c, LastUpdateTime: metav1.NewTime(start)})
		}
		w.Put(csr)
	}
	put("pending", "")
	put("denied", "", certificatesv1.CertificateDenied)
	put("approved", "", certificatesv1.CertificateApproved)
	put("issued", "PEM", certificatesv1.CertificateApproved)
	left := func() (names string) {
		for csr := range client.All[*certificatesv1.CertificateSigningRequest](w.View, "") {
			names += csr.Name + " "
		}
		return names
	}
	w.Advance(59 * time.Minute)
	if got := left(); got != "approved denied issued pending " {
		t.Errorf("within the hour: %s", got)
	}
	w.Advance(time.Minute)
	if got := left(); got != "approved pending " {
		t.Errorf("after an hour: %s", got)
	}
	w.Advance(23 * time.Hour)
	if got := left(); got != "" {
		t.Errorf("after a day: %s", got)
	}
}

func TestOldRequestsOfPodsGo(t *testing.T) {
	w := rehearsal.New(t, start, PodCleaner())
	w.Put(&certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "req-1"}})
	there := func() bool {
		_, ok := client.Find[*certificatesv1.PodCertificateRequest](w.View, "x", "req-1")
		return ok
	}
	if w.Advance(14 * time.Minute); !there() {
		t.Error("gone before its time")
	}
	if w.Advance(time.Minute); there() {
		t.Error("still there after a quarter of an hour")
	}
}
