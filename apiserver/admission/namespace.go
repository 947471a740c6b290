package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaceLifecycle refuses what would be created in a namespace that is not
// there or on its way out, and the deletion of those that a cluster cannot lose.
func (c cluster) namespaceLifecycle(ctx context.Context, w *Write) error {
	if w.Resource.String() == "namespaces" {
		if w.Verb == "delete" && (w.Name == metav1.NamespaceDefault || w.Name == metav1.NamespaceSystem || w.Name == metav1.NamespacePublic) {
			return apierrors.NewForbidden(w.Resource.GroupResource(), w.Name, fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	// Nothing about a namespace is told to those who ask only what they may do in it.
	if w.Namespace == "" || w.Verb != "create" || w.Resource.Name == "localsubjectaccessreviews" {
		return nil
	}
	ns, err := live[*corev1.Namespace](ctx, c, "", w.Namespace)
	if err != nil {
		return err
	}
	if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	refusal := w.forbid("unable to create new content in namespace %s because it is being terminated", w.Namespace)
	status := refusal.(*apierrors.StatusError)
	status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", w.Namespace),
		Field:   "metadata.namespace",
	})
	return refusal
}
