// Package certificates approves the certificate requests of nodes and signs what
// is approved. It approves a node's client certificate when its requester may have
// one (a live SubjectAccessReview says so), and a node's serving certificate when
// the node itself asks for names that its Node object has; everything else people
// approve. It is a loop of its own shape, since it needs those live answers and a
// signature is never the same twice. What is old is deleted by cleaner.go.
package certificates

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"skiff/api"
	"skiff/client"
)

// Name is the service account.
const Name = "certificate-controller"

// Config says who signs.
type Config struct {
	Client client.Client
	// Certificate and Key are the authority's. Nil: nothing is signed.
	Certificate *x509.Certificate
	Key         crypto.Signer
	Logger      *slog.Logger // nil: slog.Default()
}

const workers = 5

// Run approves and signs until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(ctx)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, time.Minute))
	var group sync.WaitGroup
	defer func() {
		cancel()
		queue.ShutDown()
		group.Wait()
	}()
	for range workers {
		group.Go(func() { c.work(ctx, queue) })
	}
	feed := c.Client.Follow(ctx, client.Source{Resource: api.For[*certificatesv1.CertificateSigningRequest]()})
	for batch := range feed.C {
		for _, change := range batch.Changes {
			if change.New != nil {
				queue.Add(change.New.GetName())
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("certificate controller: the feed ended")
}

func (c Config) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		name, stop := queue.Get()
		if stop {
			return
		}
		if err := c.settle(ctx, name); err != nil && ctx.Err() == nil {
			c.Logger.Debug("certificate request is tried again", "request", name, "error", err)
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

// settle approves or signs one request, as it is now.
func (c Config) settle(ctx context.Context, name string) error {
	csr, err := client.Get[*certificatesv1.CertificateSigningRequest](ctx, c.Client, "", name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed):
		return nil
	case has(csr, certificatesv1.CertificateApproved):
		return c.sign(ctx, csr)
	}
	return c.approve(ctx, csr)
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool { return x.Type == kind })
}

// approve approves what needs no person's eye.
func (c Config) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	request, err := parse(csr.Spec.Request)
	if err != nil {
		return nil // validation does not let it in
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if checkNodeClient(request, csr.Spec.Usages) != nil {
			return nil
		}
		if csr.Spec.Username == request.Subject.CommonName {
			if ok, err := c.may(ctx, csr, "selfnodeclient"); ok || err != nil {
				return c.approved(ctx, csr, "Auto approving self kubelet client certificate after SubjectAccessReview.", err)
			}
		}
		ok, err := c.may(ctx, csr, "nodeclient")
		if ok || err != nil {
			return c.approved(ctx, csr, "Auto approving kubelet client certificate after SubjectAccessReview.", err)
		}
	case certificatesv1.KubeletServingSignerName:
		if checkNodeServing(request, csr.Spec.Usages) != nil || csr.Spec.Username != request.Subject.CommonName || !slices.Contains(csr.Spec.Groups, "system:nodes") {
			return nil
		}
		node, err := client.Get[*corev1.Node](ctx, c.Client, "", strings.TrimPrefix(csr.Spec.Username, "system:node:"))
		if err != nil {
			return err // it may register in a moment
		}
		if err := namesOf(node, request); err != nil {
			return err // it may report its addresses in a moment
		}
		return c.approved(ctx, csr, "Auto approving kubelet serving certificate: all names are addresses of the node.", nil)
	}
	return nil
}

// may asks whether the requester may have its node certificate without being
// looked at by a person.
func (c Config) may(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, sub string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := client.Create(ctx, c.Client, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "certificates.k8s.io", Version: "*", Resource: "certificatesigningrequests", Subresource: sub, Verb: "create"},
	}})
	if err != nil {
		return false, fmt.Errorf("ask for the rights of %s: %w", csr.Spec.Username, err)
	}
	return review.Status.Allowed, nil
}

func (c Config) approved(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, message string, err error) error {
	if err != nil {
		return err
	}
	next := csr.DeepCopy()
	now := metav1.Now()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
	_, err = c.Client.Update(ctx, "approval", next)
	return err
}

// namesOf tells whether all names in the request are the node's.
func namesOf(node *corev1.Node, request *x509.CertificateRequest) error {
	addresses := map[corev1.NodeAddressType]map[string]bool{}
	for _, a := range node.Status.Addresses {
		if addresses[a.Type] == nil {
			addresses[a.Type] = map[string]bool{}
		}
		addresses[a.Type][a.Address] = true
	}
	for _, name := range request.DNSNames {
		if !addresses[corev1.NodeHostName][name] && !addresses[corev1.NodeInternalDNS][name] && !addresses[corev1.NodeExternalDNS][name] {
			return fmt.Errorf("%q is no name of node %s", name, node.Name)
		}
	}
	for _, ip := range request.IPAddresses {
		if !addresses[corev1.NodeInternalIP][ip.String()] && !addresses[corev1.NodeExternalIP][ip.String()] {
			return fmt.Errorf("%s is no address of node %s", ip, node.Name)
		}
	}
	return nil
}
