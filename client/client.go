// Package client is how Skiff's own components reach the API: typed access that
// has one face and two bodies. In process (made by apiserver) it calls the same
// serve function that HTTP requests go through and hands out the cache's own
// objects; remote (remote.go) it speaks HTTP to any Kubernetes API server.
// Objects that it returns are shared and must not be changed: copy first.
package client

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
)

// Client acts as one user: a controller's service account, a node. Errors are
// *apierrors.StatusError, as client-go's; test them with apierrors.IsNotFound and
// its siblings. All methods are safe for concurrent use.
type Client interface {
	// Get reads one object, linearizably.
	Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error)

	// List reads objects, linearizably, and the resourceVersion of the list.
	List(ctx context.Context, r *api.Resource, o ListOptions) ([]api.Object, string, error)

	// Create creates obj, whose resource follows from its Go type.
	Create(ctx context.Context, obj api.Object) (api.Object, error)

	// Update replaces obj, or with sub "status", "scale" … that part of it.
	// obj's resourceVersion, if set, must be the current one (else: conflict).
	Update(ctx context.Context, sub string, obj api.Object) (api.Object, error)

	// Patch changes an object; p says how.
	Patch(ctx context.Context, r *api.Resource, namespace, name string, p Patch) (api.Object, error)

	// Delete deletes an object, or asks for its graceful deletion.
	Delete(ctx context.Context, r *api.Resource, namespace, name string, o metav1.DeleteOptions) error

	// Post creates a subresource: binding, eviction, token.
	Post(ctx context.Context, r *api.Resource, namespace, name, sub string, body runtime.Object) (runtime.Object, error)

	// Follow starts a feed of the sources: first a snapshot, then every change
	// after it. It is the only way in which a loop learns what is.
	Follow(ctx context.Context, sources ...Source) *Feed

	// Fenced returns a client whose writes the server refuses (with a conflict)
	// once the epoch is over. Remote servers that are not Skiff ignore it.
	Fenced(e Epoch) Client
}

// ListOptions select objects. Zero values select all.
type ListOptions struct {
	Namespace string // "": all
	Labels    labels.Selector
	Fields    fields.Selector
}

// Patch is a change to an object.
type Patch struct {
	Type types.PatchType
	Data []byte
	Sub  string // "": the object, or "status", "scale", …
	// Manager names the owner of the fields; required for apply patches,
	// otherwise the client's own name is used.
	Manager string
	Force   bool // apply patches: take over fields that others own
}

// Source is a set of objects to follow.
type Source struct {
	Resource  *api.Resource
	Namespace string          // "": all
	Labels    labels.Selector // nil: all
	Fields    fields.Selector // nil: all
}

// Feed is a snapshot of some sources and the changes after it, in order.
type Feed struct {
	// C carries the snapshot as its first batch (all of it, even if empty), and
	// changes afterwards. It is closed when the context of Follow ends. A feed
	// that fell behind or lost its connection recovers by itself: then one batch
	// carries the difference to what was delivered before (states in between
	// are left out, and a deletion and re-creation under one name is delivered
	// as a deletion and an addition). Whoever reads C slowly delays only itself.
	C <-chan Batch
}

// Batch is some changes in order.
type Batch struct {
	Changes []Change
	// Revision up to which all sources have been delivered. In process all
	// sources are cut at the same revision; over HTTP it is the smallest of them.
	Revision int64
}

// Change is one object's change. Old is nil when it appeared (was created, or
// entered the selection), New is nil when it disappeared.
type Change struct {
	Resource *api.Resource
	Old, New api.Object
	// Revision of the change; for a deletion, of the deletion.
	Revision int64
}

// Object returns New, or Old when the object is gone.
func (c Change) Object() api.Object {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// Epoch is a term of leadership: an object that is rewritten only when the
// leader changes, at the resourceVersion that the leader wrote.
type Epoch struct {
	Resource        *api.Resource
	Namespace, Name string
	ResourceVersion string
}

// Get is Client.Get for the Go type T: Get[*corev1.Pod](ctx, c, "default", "web").
func Get[T api.Object](ctx context.Context, c Client, namespace, name string) (T, error) {
	obj, err := c.Get(ctx, api.For[T](), namespace, name)
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

// List is Client.List for the Go type T.
func List[T api.Object](ctx context.Context, c Client, o ListOptions) ([]T, error) {
	objs, _, err := c.List(ctx, api.For[T](), o)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(objs))
	for i, obj := range objs {
		out[i] = obj.(T)
	}
	return out, nil
}

// Create is Client.Create with its type kept.
func Create[T api.Object](ctx context.Context, c Client, obj T) (T, error) {
	return typed[T](c.Create(ctx, obj))
}

// Update is Client.Update with its type kept.
func Update[T api.Object](ctx context.Context, c Client, sub string, obj T) (T, error) {
	return typed[T](c.Update(ctx, sub, obj))
}

func typed[T api.Object](obj api.Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}
