package core

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkSignerName checks a signer's name: a domain, a slash, and a name in it.
func checkSignerName(p place, at, name string) {
	// The longest domain, and the longest name of a namespaced object in it.
	const domainMax, nameMax = 253, 253 + 1 + 253 + 1 + 63
	if !p.wants(at, name) {
		return
	}
	domain, local, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(local, "/") {
		p.invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > domainMax {
		p.tooLong(at, domainMax)
	}
	checkLabels(p, at, domain, utilvalidation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		p.invalid(at, domain, "should be a domain with at least two segments separated by dots")
	}
	checkLabels(p, at, local, utilvalidation.IsDNS1123Subdomain)
	if len(name) > nameMax {
		p.tooLong(at, nameMax)
	}
}

// checkLabels reports the first label of a dotted name that is not valid.
func checkLabels(p place, at, dotted string, valid func(string) []string) {
	for label := range strings.SplitSeq(dotted, ".") {
		msgs := valid(label)
		for _, msg := range msgs {
			p.invalid(at, dotted, "validating label \""+label+"\": "+msg)
		}
		if len(msgs) > 0 {
			return
		}
	}
}

// isKubernetesSigner tells the signers that only the cluster itself may run.
func isKubernetesSigner(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	return host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io")
}

// trustBundleName checks a ClusterTrustBundle's name: one of a signer's bundles
// starts with the signer's name, its slash as a colon.
func trustBundleName(name string) []string {
	switch i := strings.LastIndex(name, ":"); {
	case i == 0:
		return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
	case i > 0:
		name = name[i+1:]
	}
	return validation.NameIsDNSSubdomain(name, false)
}

// ValidateUserAnnotations checks annotations that a user hands to a signer.
func ValidateUserAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	return collect(path, func(p place) {
		for _, k := range sortedKeys(annotations) {
			p.add(utilvalidation.IsDomainPrefixedKey(path, strings.ToLower(k))...)
		}
		if validation.ValidateAnnotationsSize(annotations) != nil {
			p.tooLong("", validation.TotalAnnotationSizeLimitB)
		}
	})
}
