package check

import (
	"fmt"
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A signer's path must have room for a label, a dot and a subdomain.
const (
	maxSignerDomain = utilvalidation.DNS1123SubdomainMaxLength
	maxSigner       = maxSignerDomain + 1 + utilvalidation.DNS1123SubdomainMaxLength + utilvalidation.DNS1123LabelMaxLength + 1
)

// SignerName wants a signer's name: example.com/its-name.
func SignerName(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		return append(errs, field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	if len(domain) > maxSignerDomain {
		errs = append(errs, field.TooLong(path, "", maxSignerDomain))
	}
	errs = append(errs, firstBadLabel(domain, utilvalidation.IsDNS1123Label, path)...)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, firstBadLabel(rest, utilvalidation.IsDNS1123Subdomain, path)...)
	if len(name) > maxSigner {
		errs = append(errs, field.TooLong(path, "", maxSigner))
	}
	return errs
}

// firstBadLabel tells what is wrong with the first label of s that is not valid.
func firstBadLabel(s string, messages func(string) []string, path *field.Path) (errs field.ErrorList) {
	for _, label := range strings.Split(s, ".") {
		for _, m := range messages(label) {
			errs = append(errs, field.Invalid(path, s, fmt.Sprintf("validating label %q: %s", label, m)))
		}
		if len(errs) > 0 {
			return errs
		}
	}
	return nil
}
