package certificates

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// lifetime of certificates that do not ask for a shorter one, and the shortest
	// that one can have.
	lifetime = 365 * 24 * time.Hour
	shortest = 10 * time.Minute
	// backdate is for clocks that are behind.
	backdate = 5 * time.Minute
)

// parse reads a request and checks that its sender has the key.
func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

// checks are what each signer demands of a request.
var checks = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        checkClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: checkNodeClient,
	certificatesv1.KubeletServingSignerName:             checkNodeServing,
	"kubernetes.io/legacy-unknown":                      func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

func checkClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	return onlyUsages(usages, certificatesv1.UsageClientAuth)
}

func checkNodeClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case len(r.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(r.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(r.Subject.CommonName, "system:node:"):
		return errors.New("subject common name does not begin with system:node:")
	}
	return onlyUsages(usages, certificatesv1.UsageClientAuth)
}

func checkNodeServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case len(r.DNSNames) == 0 && len(r.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(r.Subject.CommonName, "system:node:"):
		return errors.New("subject common name does not begin with system:node:")
	}
	return onlyUsages(usages, certificatesv1.UsageServerAuth)
}

// onlyUsages demands one purpose; key encipherment may be there, for RSA keys.
func onlyUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	rest := slices.DeleteFunc(slices.Clone(usages), func(u certificatesv1.KeyUsage) bool {
		return u == certificatesv1.UsageKeyEncipherment || u == certificatesv1.UsageDigitalSignature
	})
	if len(rest) != 1 || rest[0] != purpose || purpose == certificatesv1.UsageServerAuth && !slices.Contains(usages, certificatesv1.UsageDigitalSignature) {
		return fmt.Errorf("usages did not match [digital signature key encipherment %s]", purpose)
	}
	return nil
}

// sign signs an approved request of a signer that is ours.
func (c Config) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	check := checks[csr.Spec.SignerName]
	if c.Certificate == nil || c.Key == nil || check == nil {
		return nil
	}
	request, err := parse(csr.Spec.Request)
	if err == nil {
		err = check(request, csr.Spec.Usages)
	}
	next := csr.DeepCopy()
	if err != nil {
		now := metav1.Now()
		next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: now, LastTransitionTime: now,
		})
	} else if next.Status.Certificate, err = c.issue(request, csr.Spec, time.Now()); err != nil {
		return fmt.Errorf("sign request %s: %w", csr.Name, err)
	}
	_, err = c.Client.Update(ctx, "status", next)
	return err
}

// issue makes the certificate. It never outlives its authority.
func (c Config) issue(request *x509.CertificateRequest, spec certificatesv1.CertificateSigningRequestSpec, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	life := lifetime
	if spec.ExpirationSeconds != nil {
		life = min(lifetime, max(shortest, time.Duration(*spec.ExpirationSeconds)*time.Second))
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life), BasicConstraintsValid: true,
	}
	if template.NotAfter.After(c.Certificate.NotAfter) {
		template.NotAfter = c.Certificate.NotAfter
	}
	for _, u := range spec.Usages {
		if bits, ok := keyUsages[u]; ok {
			template.KeyUsage |= bits
		} else if purpose, ok := purposes[u]; ok {
			template.ExtKeyUsage = append(template.ExtKeyUsage, purpose)
		} else {
			return nil, fmt.Errorf("unrecognized usage %q", u)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.Certificate, request.PublicKey, c.Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign: x509.KeyUsageCertSign, certificatesv1.UsageCRLSign: x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var purposes = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth, certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning, certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem, certificatesv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel, certificatesv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto, certificatesv1.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto,
}
