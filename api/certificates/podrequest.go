package certificates

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// Limits of what a pod may ask for; times in seconds, sizes in bytes.
const (
	minPodExpiration        = 60 * 60
	maxPodExpiration        = 91 * 24 * 60 * 60
	maxKubernetesExpiration = 24 * 60 * 60
	defaultPodExpiration    = 24 * 60 * 60
	maxUID                  = 128
	maxStubBytes            = 10 * 1024
	maxChainBytes           = 100 * 1024
)

// PodCertificateRequest is certificates.k8s.io/v1 PodCertificateRequest. Whoever
// changes its status must have the right to sign for its signer, which apiserver
// checks.
var PodCertificateRequest = kind.Of(kind.Spec[*certificatesv1.PodCertificateRequest]{
	New:     func() *certificatesv1.PodCertificateRequest { return &certificatesv1.PodCertificateRequest{} },
	NewList: func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },
	Default: func(r *certificatesv1.PodCertificateRequest) {
		if r.Spec.MaxExpirationSeconds == nil {
			r.Spec.MaxExpirationSeconds = new(int32(defaultPodExpiration))
		}
	},
	Create:   func(r *certificatesv1.PodCertificateRequest) { r.Status = certificatesv1.PodCertificateRequestStatus{} },
	Update:   func(r, old *certificatesv1.PodCertificateRequest) { r.Status = old.Status },
	Validate: func(r *certificatesv1.PodCertificateRequest) field.ErrorList { return validatePodRequest(&r.Spec) },
	ValidateUpdate: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return validation.ValidateImmutableField(r.Spec, old.Spec, field.NewPath("spec"))
	},
	Subs: map[string]kind.Sub[*certificatesv1.PodCertificateRequest]{"status": {AnyFinalizer: true,
		Update: func(r, old *certificatesv1.PodCertificateRequest) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		},
		Validate: validatePodRequestStatus,
	}},
	Fields: func(r *certificatesv1.PodCertificateRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("PodName", certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()["podName"]),
		column.String("ServiceAccountName", certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()["serviceAccountName"]),
		column.String("NodeName", certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()["nodeName"]),
		column.String("SignerName", certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()["signerName"]),
		column.String("State", "Is the request Pending, Issued, Denied, or Failed?"),
		column.String("UnverifiedUserAnnotations", certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()["unverifiedUserAnnotations"]),
	},
	Row: func(r *certificatesv1.PodCertificateRequest) []any {
		state := "Pending"
		for _, c := range r.Status.Conditions {
			if isDecision(c.Type) {
				state = c.Type
			}
		}
		return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state,
			labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)}
	},
	UnconditionalUpdateForbidden: true,
})

func validatePodRequest(s *certificatesv1.PodCertificateRequestSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.SignerName(s.SignerName, path.Child("signerName"))
	if s.UnverifiedUserAnnotations != nil {
		errs = append(errs, core.ValidateUserAnnotations(s.UnverifiedUserAnnotations, path.Child("unverifiedUserAnnotations"))...)
	}
	for _, who := range []struct {
		noun, name string
		uid        types.UID
	}{{"pod", s.PodName, s.PodUID}, {"serviceAccount", s.ServiceAccountName, s.ServiceAccountUID}, {"node", string(s.NodeName), s.NodeUID}} {
		name, uid := path.Child(who.noun+"Name"), path.Child(who.noun+"UID")
		errs = append(errs, check.Each(name, who.name, validation.NameIsDNSSubdomain(who.name, false))...)
		if who.uid == "" {
			errs = append(errs, field.Invalid(uid, who.uid, "must not be empty"))
		} else if len(who.uid) > maxUID {
			errs = append(errs, field.TooLong(uid, who.uid, maxUID))
		}
	}
	at := path.Child("maxExpirationSeconds")
	if s.MaxExpirationSeconds == nil {
		return append(errs, field.Required(at, "must be set"))
	}
	limit := int32(maxPodExpiration)
	if isKubernetesSigner(s.SignerName) {
		limit = maxKubernetesExpiration
	}
	if n := *s.MaxExpirationSeconds; n < minPodExpiration || n > limit {
		errs = append(errs, field.Invalid(at, s.MaxExpirationSeconds, fmt.Sprintf("must be in the range [%d, %d]", minPodExpiration, limit)))
	}
	if len(s.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(path, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
	}
	return append(errs, validateStub(s.StubPKCS10Request)...)
}

func isKubernetesSigner(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	return host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io")
}

// validateStub wants a request signed with its key; what else it says is the
// signer's to judge.
func validateStub(der []byte) field.ErrorList {
	path := field.NewPath("spec", "stubPKCS10Request")
	if len(der) > maxStubBytes {
		return field.ErrorList{field.TooLong(path, "", maxStubBytes)}
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
	}
	if errs := validateKey(request.PublicKey, path); len(errs) > 0 {
		return errs
	}
	if request.CheckSignature() != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "invalid signature")}
	}
	return nil
}

func validateKey(key any, path *field.Path) field.ErrorList {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return field.ErrorList{field.Invalid(path, "curve "+key.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521")}
		}
		return nil
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return field.ErrorList{field.Invalid(path, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")}
		}
		return nil
	}
	return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")}
}
