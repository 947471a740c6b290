package admission

import (
	"bytes"
	"context"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const csrs = "certificatesigningrequests.certificates.k8s.io"

// checkApproval lets only those approve who may approve for the signer.
func (c cluster) checkApproval(ctx context.Context, w *Write) error {
	old, ok := w.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok || w.Verb != "update" || !w.is(csrs, "approval") {
		return nil
	}
	if !c.maySign(ctx, w.User, "approve", old.Spec.SignerName) {
		return w.forbid("user not permitted to approve requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// checkSigning lets only those hand out certificates who may sign as the signer.
func (c cluster) checkSigning(ctx context.Context, w *Write) error {
	old, ok := w.Old.(*certificatesv1.CertificateSigningRequest)
	csr, is := w.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !is || w.Verb != "update" || !w.is(csrs, "status") {
		return nil
	}
	if bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	if !c.maySign(ctx, w.User, "sign", old.Spec.SignerName) {
		return w.forbid("user not permitted to sign requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// maySign asks for the right on the signer itself, or on all signers of its domain.
func (c cluster) maySign(ctx context.Context, u user.Info, verb, signer string) bool {
	at := authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: "certificates.k8s.io", APIVersion: "*", Resource: "signers", Name: signer}
	if ok, _, _ := c.allowed(ctx, at); ok {
		return true
	}
	domain, _, _ := strings.Cut(signer, "/")
	at.Name = domain + "/*"
	ok, _, _ := c.allowed(ctx, at)
	return ok
}

// checkSubject refuses to make certificates for system:masters, which no later
// authorization could hold back.
func checkSubject(_ context.Context, w *Write) error {
	csr, ok := w.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || w.Verb != "create" || !w.is(csrs, "") || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return w.forbid("failed to parse CSR: %w", err)
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return w.forbid("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName)
	}
	return nil
}
