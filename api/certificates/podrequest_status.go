package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	minLifetime = time.Hour
	refreshGap  = 10 * time.Minute // between the certificate's ends and its refresh
	maxSkew     = 5 * time.Minute
)

var (
	statusPath = field.NewPath("status")
	chainPath  = statusPath.Child("certificateChain")
)

func isDecision(t string) bool {
	return t == certificatesv1.PodCertificateRequestConditionTypeIssued ||
		t == certificatesv1.PodCertificateRequestConditionTypeDenied ||
		t == certificatesv1.PodCertificateRequestConditionTypeFailed
}

// decision is the type of the condition that ends a request, or empty.
func decision(r *certificatesv1.PodCertificateRequest) string {
	for _, c := range r.Status.Conditions {
		if isDecision(c.Type) && c.Status == metav1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// validatePodRequestStatus lets a status change once: to issued, denied or failed.
func validatePodRequestStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	if errs := validateDecisions(r.Status.Conditions); len(errs) > 0 {
		return errs
	}
	equal := func(want certificatesv1.PodCertificateRequestStatus, message string) field.ErrorList {
		if equality.Semantic.DeepEqual(r.Status, want) {
			return nil
		}
		return field.ErrorList{field.Invalid(statusPath, field.OmitValueType{}, message)}
	}
	if decision(old) != "" {
		return equal(old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	}
	switch decision(r) {
	case "":
		return equal(old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	case certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(&r.Status, &old.Spec)
	}
	return equal(certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions},
		"non-condition status fields must be empty when denying or failing the PodCertificateRequest")
}

func validateDecisions(conditions []metav1.Condition) (errs field.ErrorList) {
	decided := false
	for i, c := range conditions {
		at := field.NewPath("status", "conditions", fmt.Sprintf("[%d]", i))
		if !isDecision(c.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, []string{certificatesv1.PodCertificateRequestConditionTypeIssued,
				certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed}))
			continue
		}
		if decided {
			errs = append(errs, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		decided = true
		if c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	return append(errs, metav1validation.ValidateConditions(conditions, statusPath.Child("conditions"))...)
}

// validateIssued checks a chain and its times against the request's spec; one
// error at a time, since each check needs what the one before it found.
func validateIssued(s *certificatesv1.PodCertificateRequestStatus, spec *certificatesv1.PodCertificateRequestSpec) field.ErrorList {
	if len(s.CertificateChain) > maxChainBytes {
		return field.ErrorList{field.TooLong(chainPath, "", maxChainBytes)}
	}
	invalid := func(message string) field.ErrorList {
		return field.ErrorList{field.Invalid(chainPath, s.CertificateChain, message)}
	}
	block, rest := pem.Decode([]byte(s.CertificateChain))
	if block == nil {
		return invalid("issued certificate chain must contain at least one certificate")
	}
	if block.Type != "CERTIFICATE" {
		return invalid("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return invalid("leaf certificate does not parse as valid X.509")
	}
	errs := validateNames(leaf)
	key, keyErrs := requestedKey(spec)
	if len(keyErrs) > 0 {
		return append(errs, keyErrs...)
	}
	if k, ok := key.(interface{ Equal(crypto.PublicKey) bool }); ok && !k.Equal(leaf.PublicKey) {
		return append(errs, invalid("leaf certificate was not issued to the requested public key")...)
	}
	if errs = append(errs, validateIssuedTimes(s, leaf, spec)...); len(errs) > 0 {
		return errs
	}
	for block, rest = pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return invalid("issued certificate chain must consist entirely of CERTFICATE PEM blocks")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return invalid("intermediate certificate does not parse as valid X.509")
		}
	}
	return nil
}

func validateNames(leaf *x509.Certificate) (errs field.ErrorList) {
	for _, name := range leaf.DNSNames {
		if name == "" {
			errs = append(errs, field.Invalid(chainPath, name, "leaf certificate should not contain empty DNSName"))
		}
		if strings.Contains(name, "..") {
			errs = append(errs, field.Invalid(chainPath, name, "leaf certificate's DNSName should not contain '..'"))
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			errs = append(errs, field.Invalid(chainPath, name, "leaf certificate's DNSName should not start or end with '.'"))
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			errs = append(errs, field.Invalid(chainPath, address, "leaf certificate should not contain invalid EmailAddress"))
		}
	}
	return errs
}

func requestedKey(s *certificatesv1.PodCertificateRequestSpec) (crypto.PublicKey, field.ErrorList) {
	request, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("spec", "stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
	}
	return request.PublicKey, nil
}

func validateIssuedTimes(s *certificatesv1.PodCertificateRequestStatus, leaf *x509.Certificate, spec *certificatesv1.PodCertificateRequestSpec) (errs field.ErrorList) {
	beforePath, afterPath, refreshPath := statusPath.Child("notBefore"), statusPath.Child("notAfter"), statusPath.Child("beginRefreshAt")
	if s.NotBefore == nil {
		errs = append(errs, field.Required(beforePath, "must be present and consistent with the issued certificate"))
	}
	if s.NotAfter == nil {
		errs = append(errs, field.Required(afterPath, "must be present and consistent with the issued certificate"))
	}
	if s.BeginRefreshAt == nil {
		errs = append(errs, field.Required(refreshPath, "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	if len(errs) > 0 {
		return errs
	}
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	seconds := int32(defaultPodExpiration)
	if spec.MaxExpirationSeconds != nil {
		seconds = *spec.MaxExpirationSeconds
	}
	for _, rule := range []struct {
		broken  bool
		path    *field.Path
		value   any
		message string
	}{
		{!s.NotBefore.Time.Equal(leaf.NotBefore), beforePath, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate"},
		{time.Since(s.NotBefore.Time).Abs() >= maxSkew, beforePath, s.NotBefore.Time, "must be set to within 5 minutes of kube-apiserver's current time"},
		{!s.NotAfter.Time.Equal(leaf.NotAfter), afterPath, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate"},
		{lifetime < minLifetime, chainPath, lifetime, "leaf certificate lifetime must be >= 1 hour"},
		{lifetime > time.Duration(seconds)*time.Second, chainPath, lifetime, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", seconds)},
		{s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshGap)), refreshPath, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore"},
		{s.BeginRefreshAt.Time.After(s.NotAfter.Add(-refreshGap)), refreshPath, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter"},
	} {
		if rule.broken {
			return field.ErrorList{field.Invalid(rule.path, rule.value, rule.message)}
		}
	}
	return nil
}
