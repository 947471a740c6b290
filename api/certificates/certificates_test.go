package certificates

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"skiff/api/kind"
	"skiff/api/kind/kindtest"
)

// key makes a key, the request that it signed, and a function that makes a
// certificate for it.
func key(t *testing.T) (request []byte, issue func(ca bool, from, to time.Time) []byte) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann"}}, private)
	if err != nil {
		t.Fatal(err)
	}
	return request, func(ca bool, from, to time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: ca, BasicConstraintsValid: ca}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
}

func asYAML(t *testing.T, obj kind.Object) string {
	t.Helper()
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSigningRequest(t *testing.T) {
	der, issue := key(t)
	now := time.Now()
	certificate := issue(false, now, now.Add(time.Hour))
	type R = *certificatesv1.CertificateSigningRequest
	valid := asYAML(t, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "Any Name"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: "kubernetes.io/kube-apiserver-client", Usages: []certificatesv1.KeyUsage{"client auth"}, ExpirationSeconds: new(int32(3600)),
		},
	})
	kindtest.Holds(t, CertificateSigningRequest, valid)
	kindtest.Refuses(t, CertificateSigningRequest, valid, []kindtest.Case[R]{
		kindtest.When("no request", func(r R) { r.Spec.Request = nil }, "Invalid spec.request: PEM block type must be CERTIFICATE REQUEST"),
		kindtest.When("signature", func(r R) {
			broken := append([]byte(nil), der...)
			broken[len(broken)-1] ^= 1
			r.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: broken})
		}, "Invalid spec.request"),
		kindtest.When("no usages", func(r R) { r.Spec.Usages = nil }, "Required spec.usages"),
		kindtest.When("usages", func(r R) { r.Spec.Usages = []certificatesv1.KeyUsage{"signing", "fun", "signing"} },
			`NotSupported spec.usages[1]: supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"`,
			"Duplicate spec.usages[2]"),
		kindtest.When("legacy signer", func(r R) { r.Spec.SignerName = "kubernetes.io/legacy-unknown" }, "Invalid spec.signerName"),
		kindtest.When("no signer", func(r R) { r.Spec.SignerName = "" }, "Required spec.signerName"),
		kindtest.When("signer", func(r R) { r.Spec.SignerName = "a/b" }, "Invalid spec.signerName: should be a domain with at least two segments separated by dots"),
		kindtest.When("short", func(r R) { r.Spec.ExpirationSeconds = new(int32(599)) }, "Invalid spec.expirationSeconds"),
	})
	r := kindtest.From[R](t, CertificateSigningRequest, valid)
	r.Spec.Username, r.Spec.Groups = "mallory", []string{"system:masters"}
	r.Status.Certificate = certificate
	CertificateSigningRequest.Create(r)
	if r.Spec.Username != "" || r.Spec.Groups != nil || r.Status.Certificate != nil {
		t.Errorf("a request brought its own user: %+v", r.Spec)
	}

	approved := certificatesv1.CertificateSigningRequestCondition{Type: "Approved", Status: "True", Reason: "x"}
	kindtest.RefusesSub(t, CertificateSigningRequest, "approval", valid, []kindtest.Case[R]{
		kindtest.When("approve", func(r R) { r.Status.Conditions = append(r.Status.Conditions, approved) }),
		kindtest.When("approve with certificate", func(r R) {
			r.Status.Certificate = certificate
			r.Status.Conditions = append(r.Status.Conditions, approved)
		}),
		kindtest.When("both", func(r R) {
			r.Status.Conditions = append(r.Status.Conditions, approved, certificatesv1.CertificateSigningRequestCondition{Type: "Denied", Status: "True"})
		}, "Invalid status.conditions: must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`"),
		kindtest.When("perhaps", func(r R) {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "Approved", Status: "False"})
		}, `NotSupported status.conditions[0].status: supported values: "True"`),
		kindtest.When("twice and empty", func(r R) {
			r.Status.Conditions = append(r.Status.Conditions, approved, approved, certificatesv1.CertificateSigningRequestCondition{})
		}, "Duplicate status.conditions[1].type", "Required status.conditions[2].type", "Required status.conditions[2].status"),
	})
	kindtest.RefusesSub(t, CertificateSigningRequest, "status", valid, []kindtest.Case[R]{
		kindtest.When("issue", func(r R) { r.Status.Certificate = certificate }),
		kindtest.When("approve", func(r R) { r.Status.Conditions = append(r.Status.Conditions, approved) },
			`Forbidden status.conditions: updates may not add a condition of type "Approved"`),
		kindtest.When("nonsense", func(r R) { r.Status.Certificate = []byte("x") }, "Invalid status.certificate: must contain at least one CERTIFICATE PEM block"),
		kindtest.When("failed", func(r R) {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "Failed", Status: "True"})
		}),
	})

	old := kindtest.From[R](t, CertificateSigningRequest, valid)
	old.Status.Conditions = append(old.Status.Conditions, approved)
	old.Status.Certificate = certificate
	now2 := old.DeepCopy()
	now2.Status.Conditions, now2.Status.Certificate = nil, issue(false, now, now.Add(2*time.Hour))
	CertificateSigningRequest.Subs["status"].Update(now2, old)
	errs := CertificateSigningRequest.Subs["status"].Validate(now2, old)
	if len(errs) != 2 || !strings.Contains(errs[0].Detail, "may not remove") || !strings.Contains(errs[1].Detail, "may not modify existing certificate") {
		t.Errorf("taking back what was decided: %v", errs)
	}
	same := old.DeepCopy()
	same.Status.Conditions[0].Message = "changed"
	CertificateSigningRequest.Subs["status"].Update(same, old)
	if same.Status.Conditions[0].Message != "" {
		t.Error("status changed an approval")
	}
	if got := conditionCell(old); got != "Approved,Issued" {
		t.Errorf("condition %s", got)
	}
}

func TestTrustBundle(t *testing.T) {
	_, issue := key(t)
	now := time.Now()
	authority, leaf := string(issue(true, now, now.Add(time.Hour))), string(issue(false, now, now.Add(time.Hour)))
	type B = *certificatesv1.ClusterTrustBundle
	valid := asYAML(t, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "example.com:s:live"},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/s", TrustBundle: authority}})
	kindtest.Holds(t, ClusterTrustBundle, valid)
	cases := []kindtest.Case[B]{
		kindtest.When("name", func(b B) { b.Name = "live" }, "Invalid metadata.name: ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:"),
		kindtest.When("empty", func(b B) { b.Spec.TrustBundle = "" }, "Invalid spec.trustBundle: at least one trust anchor must be provided"),
		kindtest.When("twice", func(b B) { b.Spec.TrustBundle += authority }, "Invalid spec.trustBundle: duplicate trust anchor (indices [0 1])"),
		kindtest.When("no authority", func(b B) { b.Spec.TrustBundle += leaf }, "Invalid spec.trustBundle: entry 1 does not have the CA bit set"),
		kindtest.When("key", func(b B) { b.Spec.TrustBundle = strings.ReplaceAll(authority, "CERTIFICATE", "KEY") }, "Invalid spec.trustBundle: entry 0 has bad block type: KEY"),
	}
	kindtest.Refuses(t, ClusterTrustBundle, valid, append(cases,
		kindtest.When("no signer", func(b B) { b.Spec.SignerName = "" }, `Invalid metadata.name: ClusterTrustBundle without signer name must not have ":" in its name`)))
	kindtest.RefusesUpdate(t, ClusterTrustBundle, valid, append(cases,
		kindtest.When("signer", func(b B) { b.Spec.SignerName, b.Name = "", "live" }, "Invalid spec.signerName: field is immutable")))
}

func TestPodRequest(t *testing.T) {
	der, issue := key(t)
	now := time.Now().Truncate(time.Second)
	type R = *certificatesv1.PodCertificateRequest
	valid := asYAML(t, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/s", PodName: "p", PodUID: "1", ServiceAccountName: "default",
			ServiceAccountUID: "2", NodeName: "n", NodeUID: "3", StubPKCS10Request: der}})
	kindtest.Holds(t, PodCertificateRequest, valid)
	r := kindtest.From[R](t, PodCertificateRequest, valid)
	if *r.Spec.MaxExpirationSeconds != 86400 {
		t.Errorf("expiration %d", *r.Spec.MaxExpirationSeconds)
	}
	kindtest.Refuses(t, PodCertificateRequest, valid, []kindtest.Case[R]{
		kindtest.When("names", func(r R) { r.Spec.PodName, r.Spec.PodUID, r.Spec.NodeName = "A", "", "B" },
			"Invalid spec.podName", "Invalid spec.podUID: must not be empty", "Invalid spec.nodeName"),
		kindtest.When("long", func(r R) { r.Spec.MaxExpirationSeconds = new(int32(91*24*60*60 + 1)) }, "Invalid spec.maxExpirationSeconds: must be in the range [3600, 7862400]"),
		kindtest.When("long for Kubernetes", func(r R) {
			r.Spec.SignerName = "kubernetes.io/x"
			r.Spec.MaxExpirationSeconds = new(int32(24*60*60 + 1))
		}, "Invalid spec.maxExpirationSeconds: must be in the range [3600, 86400]"),
		kindtest.When("no stub", func(r R) { r.Spec.StubPKCS10Request = nil }, "Invalid spec: exactly one of"),
		kindtest.When("nonsense", func(r R) { r.Spec.StubPKCS10Request = []byte("x") }, "Invalid spec.stubPKCS10Request: must be a valid PKCS#10 CSR"),
	})
	kindtest.RefusesUpdate(t, PodCertificateRequest, valid, []kindtest.Case[R]{
		kindtest.When("spec", func(r R) { r.Spec.PodName = "x" }, "Invalid spec: field is immutable"),
	})
	decide := func(r R, reason string) {
		r.Status.Conditions = []metav1.Condition{{Type: reason, Status: "True", Reason: "X", LastTransitionTime: metav1.NewTime(now)}}
	}
	issued := func(r R, from, to time.Time) {
		decide(r, "Issued")
		r.Status.CertificateChain = string(issue(false, from, to))
		r.Status.NotBefore, r.Status.NotAfter = new(metav1.NewTime(from)), new(metav1.NewTime(to))
		r.Status.BeginRefreshAt = new(metav1.NewTime(from.Add(30 * time.Minute)))
	}
	kindtest.RefusesSub(t, PodCertificateRequest, "status", valid, []kindtest.Case[R]{
		kindtest.When("issue", func(r R) { issued(r, now, now.Add(2*time.Hour)) }),
		kindtest.When("deny", func(r R) { decide(r, "Denied") }),
		kindtest.When("deny with certificate", func(r R) { issued(r, now, now.Add(2*time.Hour)); decide(r, "Denied") },
			"Invalid status: non-condition status fields must be empty"),
		kindtest.When("unknown", func(r R) { decide(r, "Perhaps") }, "NotSupported status.conditions.[0].type"),
		kindtest.When("undecided", func(r R) { r.Status.CertificateChain = "x" }, "Invalid status: status is immutable unless"),
		kindtest.When("nonsense", func(r R) { issued(r, now, now.Add(2*time.Hour)); r.Status.CertificateChain = "x" },
			"Invalid status.certificateChain: issued certificate chain must contain at least one certificate"),
		kindtest.When("other key", func(r R) {
			issued(r, now, now.Add(2*time.Hour))
			_, other := key(t)
			r.Status.CertificateChain = string(other(false, now, now.Add(2*time.Hour)))
		}, "Invalid status.certificateChain: leaf certificate was not issued to the requested public key"),
		kindtest.When("no times", func(r R) {
			issued(r, now, now.Add(2*time.Hour))
			r.Status.NotBefore, r.Status.NotAfter, r.Status.BeginRefreshAt = nil, nil, nil
		},
			"Required status.notBefore", "Required status.notAfter", "Required status.beginRefreshAt"),
		kindtest.When("old", func(r R) { issued(r, now.Add(-time.Hour), now.Add(2*time.Hour)) }, "Invalid status.notBefore: must be set to within 5 minutes"),
		kindtest.When("short", func(r R) { issued(r, now, now.Add(time.Minute)) }, "Invalid status.certificateChain: leaf certificate lifetime must be >= 1 hour"),
		kindtest.When("long", func(r R) { issued(r, now, now.Add(25*time.Hour)) }, "Invalid status.certificateChain: leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"),
		kindtest.When("refresh", func(r R) { issued(r, now, now.Add(2*time.Hour)); r.Status.BeginRefreshAt = r.Status.NotBefore }, "Invalid status.beginRefreshAt"),
	})
}
