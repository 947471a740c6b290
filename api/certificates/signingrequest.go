package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const (
	legacySigner  = "kubernetes.io/legacy-unknown"
	minExpiration = 600 // seconds
)

// CertificateSigningRequest is certificates.k8s.io/v1 CertificateSigningRequest.
// Create clears spec.username, uid, groups and extra: apiserver sets them from the
// request's user after it.
var CertificateSigningRequest = kind.Of(kind.Spec[*certificatesv1.CertificateSigningRequest]{
	New:     func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} },
	NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
	Create: func(r *certificatesv1.CertificateSigningRequest) {
		r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
		r.Status = certificatesv1.CertificateSigningRequestStatus{}
	},
	Update: func(r, old *certificatesv1.CertificateSigningRequest) { r.Spec, r.Status = old.Spec, old.Status },
	// Requests may have any name.
	ValidateName: func(string, bool) []string { return nil },
	Validate: func(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return validateRequest(r, tolerance{})
	},
	ValidateUpdate: func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return validateRequestUpdate(r, old, false, false)
	},
	Subs: map[string]kind.Sub[*certificatesv1.CertificateSigningRequest]{
		"status": {
			Update: func(r, old *certificatesv1.CertificateSigningRequest) {
				r.Spec = old.Spec
				keepConditions(r, old, certificatesv1.CertificateApproved)
				keepConditions(r, old, certificatesv1.CertificateDenied)
				stampConditions(r, old)
			},
			Validate: func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
				return validateRequestUpdate(r, old, false, true)
			},
		},
		"approval": {
			Update: func(r, old *certificatesv1.CertificateSigningRequest) {
				stampConditions(r, old)
				conditions := r.Status.Conditions
				r.Spec, r.Status = old.Spec, old.Status
				r.Status.Conditions = conditions
			},
			Validate: func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
				return validateRequestUpdate(r, old, true, false)
			},
		},
	},
	Fields: func(r *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.Age,
		column.String("SignerName", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["signerName"]),
		column.String("Requestor", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["request"]),
		column.String("RequestedDuration", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["expirationSeconds"]),
		column.String("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
	},
	Row: func(r *certificatesv1.CertificateSigningRequest) []any {
		signer, lasts := "<none>", "<none>"
		if r.Spec.SignerName != "" {
			signer = r.Spec.SignerName
		}
		if n := r.Spec.ExpirationSeconds; n != nil {
			lasts = duration.HumanDuration(time.Duration(*n) * time.Second)
		}
		return []any{r.Name, column.Since(r.CreationTimestamp), signer, r.Spec.Username, lasts, conditionCell(r)}
	},
})

func conditionCell(r *certificatesv1.CertificateSigningRequest) string {
	has := func(t certificatesv1.RequestConditionType) bool { return len(conditionsOf(r, t)) > 0 }
	text := "Pending"
	if has(certificatesv1.CertificateDenied) {
		text = "Denied"
	} else if has(certificatesv1.CertificateApproved) {
		text = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		text += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}

func conditionsOf(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) (list []certificatesv1.CertificateSigningRequestCondition) {
	for _, c := range r.Status.Conditions {
		if c.Type == t {
			list = append(list, c)
		}
	}
	return list
}

// keepConditions puts the stored conditions of a type in the place of those that
// were sent, unless some were added or removed, which validation refuses.
func keepConditions(r, old *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) {
	stored := conditionsOf(old, t)
	if len(stored) != len(conditionsOf(r, t)) {
		return
	}
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			r.Status.Conditions[i], stored = stored[0], stored[1:]
		}
	}
}

// stampConditions sets the times that were not sent.
func stampConditions(r, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range old.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}

// tolerance says which of the rules the stored request broke already, and so may
// go on breaking.
type tolerance struct {
	bothDecisions, duplicateConditions, emptyConditions bool
	legacySigner, unknownUsages, duplicateUsages        bool
	certificate                                         bool
}

func toleranceOf(r, old *certificatesv1.CertificateSigningRequest) tolerance {
	count := map[certificatesv1.RequestConditionType]int{}
	t := tolerance{
		legacySigner: old.Spec.SignerName == legacySigner,
		certificate:  bytes.Equal(r.Status.Certificate, old.Status.Certificate) || validateCertificate(old.Status.Certificate) != nil,
	}
	for _, c := range old.Status.Conditions {
		count[c.Type]++
		t.emptyConditions = t.emptyConditions || c.Type == ""
		t.duplicateConditions = t.duplicateConditions || count[c.Type] > 1
	}
	t.bothDecisions = count[certificatesv1.CertificateApproved] > 0 && count[certificatesv1.CertificateDenied] > 0
	for i, u := range old.Spec.Usages {
		t.unknownUsages = t.unknownUsages || !slices.Contains(usages, u)
		t.duplicateUsages = t.duplicateUsages || slices.Contains(old.Spec.Usages[:i], u)
	}
	return t
}

// usages are all that can be asked for, in the order in which messages list them.
var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

func validateRequest(r *certificatesv1.CertificateSigningRequest, t tolerance) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if err := validatePKCS10(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), r.Spec.Request, err.Error()))
	}
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(path.Child("usages"), ""))
	}
	for i, u := range r.Spec.Usages {
		at := path.Child("usages").Index(i)
		if !t.unknownUsages {
			errs = append(errs, check.OneOf(u, at, usages...)...)
		}
		if !t.duplicateUsages && slices.Contains(r.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(at, u))
		}
	}
	if !t.legacySigner && r.Spec.SignerName == legacySigner {
		errs = append(errs, field.Invalid(path.Child("signerName"), r.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, check.SignerName(r.Spec.SignerName, path.Child("signerName"))...)
	}
	if n := r.Spec.ExpirationSeconds; n != nil && *n < minExpiration {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, validateRequestConditions(r, t)...)
	if !t.certificate {
		if err := validateCertificate(r.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func validateRequestConditions(r *certificatesv1.CertificateSigningRequest, t tolerance) (errs field.ErrorList) {
	path := field.NewPath("status", "conditions")
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range r.Status.Conditions {
		at := path.Index(i)
		if c.Type == "" && !t.emptyConditions {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = allowed[1:2]
		}
		errs = append(errs, check.SetOneOf(c.Status, at.Child("status"), allowed...)...)
		if seen[c.Type] && !t.duplicateConditions {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] && !t.bothDecisions {
		const members = "`conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`"
		errs = append(errs, field.Invalid(path, "{"+strings.ReplaceAll(members, "`", "")+"}", "must specify at most one of: "+members))
	}
	return errs
}

// validateRequestUpdate checks what may change where: decisions only at approval,
// the certificate only at status, and once.
func validateRequestUpdate(r, old *certificatesv1.CertificateSigningRequest, approval, status bool) field.ErrorList {
	errs := validateRequest(r, toleranceOf(r, old))
	path := field.NewPath("status", "conditions")
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		now, was := conditionsOf(r, t), conditionsOf(old, t)
		switch {
		case len(now) < len(was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case approval || t == certificatesv1.CertificateFailed:
		case len(now) > len(was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
		case !equality.Semantic.DeepEqual(now, was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not modify a condition of type %q", t)))
		}
	}
	if bytes.Equal(r.Status.Certificate, old.Status.Certificate) {
		return errs
	}
	certificate := field.NewPath("status", "certificate")
	if !status {
		errs = append(errs, field.Forbidden(certificate, "updates may not set certificate content"))
	} else if len(old.Status.Certificate) > 0 {
		errs = append(errs, field.Forbidden(certificate, "updates may not modify existing certificate content"))
	}
	return errs
}

// validatePKCS10 wants a request in PEM, signed with the key that it is for.
func validatePKCS10(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature()
}

// validateCertificate wants certificates in PEM, and nothing else; no data is fine.
func validateCertificate(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	found := false
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		list, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		found, data = true, rest
	}
	if !found {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
