package authn

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// Objects answers for the objects that tokens are bound to. Each returns nil
// where there is no such object; the answer must be no older than the newest
// write that was acknowledged when it was called.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}
