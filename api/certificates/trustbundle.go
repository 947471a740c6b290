package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const maxTrustBundle = 1 << 20

// ClusterTrustBundle is certificates.k8s.io/v1 ClusterTrustBundle.
var ClusterTrustBundle = kind.Of(kind.Spec[*certificatesv1.ClusterTrustBundle]{
	NameOnUpdate: true,
	New:          func() *certificatesv1.ClusterTrustBundle { return &certificatesv1.ClusterTrustBundle{} },
	NewList:      func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },
	NameFor: func(b *certificatesv1.ClusterTrustBundle) func(string, bool) []string {
		return func(name string, _ bool) []string { return bundleName(name, b.Spec.SignerName) }
	},
	Validate: func(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
		return append(validateBundle(b), validateAnchors(b.Spec.TrustBundle)...)
	},
	ValidateUpdate: func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
		errs := validateBundle(b)
		// What is stored is not parsed again: parsers change.
		if b.Spec.TrustBundle != old.Spec.TrustBundle {
			errs = append(errs, validateAnchors(b.Spec.TrustBundle)...)
		}
		return append(errs, validation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	},
	Fields: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
		return fields.Set{"spec.signerName": b.Spec.SignerName}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
	},
	Row: func(b *certificatesv1.ClusterTrustBundle) []any {
		if b.Spec.SignerName == "" {
			return []any{b.Name, "<none>"}
		}
		return []any{b.Name, b.Spec.SignerName}
	},
	UnconditionalUpdateForbidden: true,
})

func validateBundle(b *certificatesv1.ClusterTrustBundle) (errs field.ErrorList) {
	if b.Spec.SignerName != "" {
		errs = append(errs, check.SignerName(b.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	}
	return errs
}

// bundleName wants the name of a signer's bundle to begin with the signer's name.
func bundleName(name, signer string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return validation.NameIsDNSSubdomain(name, false)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
	}
	return validation.NameIsDNSSubdomain(rest, false)
}

// validateAnchors wants certificates of authorities, each once.
func validateAnchors(text string) (errs field.ErrorList) {
	path := field.NewPath("spec", "trustBundle")
	if len(text) > maxTrustBundle {
		return append(errs, field.TooLong(path, "", maxTrustBundle))
	}
	wrong := func(format string, args ...any) {
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	places := map[string][]int{}
	for i, rest := 0, []byte(text); ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if problem := anchorProblem(block); problem != "" {
			wrong("entry %d %s", i, problem)
			continue
		}
		places[string(block.Bytes)] = append(places[string(block.Bytes)], i)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(places) == 0 {
		wrong("at least one trust anchor must be provided")
	}
	for _, at := range places {
		if len(at) > 1 {
			wrong("duplicate trust anchor (indices %v)", at)
		}
	}
	return errs
}

func anchorProblem(block *pem.Block) string {
	if block.Type != "CERTIFICATE" {
		return "has bad block type: " + block.Type
	}
	if len(block.Headers) > 0 {
		return "has PEM block headers"
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
