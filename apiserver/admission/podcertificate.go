package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// restrictPodCertificate: a node asks for certificates only for pods that run on it, as who they are, and from signers that they name.
// Answers that a read a moment later could change are errors, not refusals.
func (c cluster) restrictPodCertificate(ctx context.Context, w *Write, node string) error {
	if w.Verb != "create" || w.Subresource != "" {
		return w.forbid("unexpected operation %s", strings.ToUpper(w.Verb))
	}
	r, ok := w.Object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return w.forbid("unexpected type %T", w.Object)
	}
	if string(r.Spec.NodeName) != node {
		return w.forbid("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", r.Spec.NodeName, node)
	}
	own, err := live[*corev1.Node](ctx, c, "", node)
	if err != nil {
		return fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: %w", node, err)
	}
	if own.UID != r.Spec.NodeUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", w.Namespace+"/"+r.Spec.PodName, r.Spec.NodeUID, own.UID)
	}
	return c.restrictCertifiedPod(ctx, w, r)
}

// restrictCertifiedPod looks at the pod that the certificate would be for.
func (c cluster) restrictCertifiedPod(ctx context.Context, w *Write, r *certificatesv1.PodCertificateRequest) error {
	name := w.Namespace + "/" + r.Spec.PodName
	pod, err := live[*corev1.Pod](ctx, c, w.Namespace, r.Spec.PodName)
	if err != nil {
		return fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", name, err)
	}
	if pod.UID != r.Spec.PodUID {
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, r.Spec.PodUID, string(pod.UID))
	}
	if pod.Spec.NodeName != string(r.Spec.NodeName) {
		return w.forbid("pod %q is not running on node %q named in the PodCertificateRequest", name, r.Spec.NodeName)
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return w.forbid("pod %q is a mirror pod", name)
	}
	if r.Spec.ServiceAccountName != pod.Spec.ServiceAccountName {
		return w.forbid("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, r.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	account, err := live[*corev1.ServiceAccount](ctx, c, w.Namespace, r.Spec.ServiceAccountName)
	if err != nil {
		return fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: %w", w.Namespace+"/"+r.Spec.ServiceAccountName, err)
	}
	if account.UID != r.Spec.ServiceAccountUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", name, r.Spec.ServiceAccountUID, account.UID)
	}
	if !wantsCertificate(pod, r.Spec.SignerName) {
		return w.forbid("pod %q does not mount a podCertificate projected volume for signer %q", name, r.Spec.SignerName)
	}
	return nil
}

// wantsCertificate: one of the pod's volumes asks the signer for a certificate.
func wantsCertificate(pod *corev1.Pod, signer string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.PodCertificate != nil && s.PodCertificate.SignerName == signer
		})
	})
}
