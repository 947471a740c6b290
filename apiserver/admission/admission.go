// Package admission holds the built-in decisions about writes that need to know
// the cluster's state: what may be written where, and what is filled in. Only
// apiserver calls it, twice in the life of a write: Mutate before defaults are
// filled a second time, Validate when the object is final. Steps read the
// cluster through Reader; they never write, except where a step says so.
package admission

import (
	"context"
	"fmt"
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// Write is what the steps judge.
type Write struct {
	User user.Info
	Verb string // create, update, delete or connect

	Resource    *api.Resource
	Subresource string
	Namespace   string
	Name        string // "" on create where the name is generated later

	// Object is what will be stored, nil on delete. Old is what is stored now,
	// nil on create; it is shared and never changed. For subresources that have
	// a kind of their own (binding, eviction, token) Object is of that kind.
	Object runtime.Object
	Old    api.Object

	// Asked is the resource as the client named it: of another version, perhaps,
	// than Resource, which is the one that is stored.
	Asked *api.Resource
	// What the client said beside the object.
	FieldManager, FieldValidation string
	DeleteOptions                 *metav1.DeleteOptions // of deletes

	DryRun bool
	// Warn adds a Warning header.
	Warn func(text string)

	// Undo, where a step has set it, takes back what the step did. It is called
	// when the write was not stored after all.
	Undo func(ctx context.Context)
}

// Reader is the cluster's state as the steps see it. Objects are shared and
// never changed.
type Reader interface {
	// Get reads from the cache, which may lag a moment behind.
	Get(r *api.Resource, namespace, name string) (api.Object, bool)
	// Live reads the newest state; it is slower. Its error is a NotFound Status
	// where there is no such object.
	Live(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error)
	// List reads from the cache all objects in a namespace ("" for all).
	List(r *api.Resource, namespace string) iter.Seq[api.Object]
}

// Step is one decision. Either func may be nil. Errors are Status errors.
type Step struct {
	Name     string // as upstream calls its plugin
	Mutate   func(ctx context.Context, w *Write) error
	Validate func(ctx context.Context, w *Write) error
}

// Chain is steps in the order in which they run.
type Chain []Step

// Config is what the built-in steps need.
type Config struct {
	Reader     Reader
	Authorizer authorizer.UnconditionalAuthorizer
}

// New returns the built-in steps. Their order is the behaviour: what one fills
// in, those after it judge.
func New(c Config) Chain {
	cluster := cluster{Reader: c.Reader, authz: c.Authorizer}
	return Chain{
		{Name: "NamespaceLifecycle", Mutate: cluster.namespaceLifecycle},
		{Name: "LimitRanger", Mutate: cluster.fillLimits, Validate: cluster.checkLimits},
		{Name: "ServiceAccount", Mutate: cluster.fillServiceAccount, Validate: cluster.checkServiceAccount},
		{Name: "NodeRestriction", Mutate: cluster.restrictNode, Validate: cluster.restrictNode},
		{Name: "TaintNodesByCondition", Mutate: taintNewNode},
		{Name: "PodSecurity", Validate: newPodSecurity(c.Reader)},
		{Name: "Priority", Mutate: cluster.fillPriority, Validate: cluster.checkPriorityClass},
		{Name: "DefaultTolerationSeconds", Mutate: fillTolerations},
		{Name: "DefaultStorageClass", Mutate: cluster.fillStorageClass},
		{Name: "StorageObjectInUseProtection", Mutate: protectStorage},
		{Name: "OwnerReferencesPermissionEnforcement", Validate: cluster.checkOwners},
		{Name: "PersistentVolumeClaimResize", Validate: cluster.checkResize},
		{Name: "RuntimeClass", Mutate: cluster.fillRuntimeClass, Validate: cluster.checkOverhead},
		{Name: "CertificateApproval", Validate: cluster.checkApproval},
		{Name: "CertificateSigning", Validate: cluster.checkSigning},
		{Name: "CertificateSubjectRestriction", Validate: checkSubject},
		{Name: "DefaultIngressClass", Mutate: cluster.fillIngressClass},
		{Name: "PodTopologyLabels", Mutate: cluster.copyTopology},
	}
}

// cluster is what the steps see of the cluster.
type cluster struct {
	Reader
	authz authorizer.UnconditionalAuthorizer
}

// live reads from the cache, and where the object is not there, once from the
// store: the cache may lag behind the client's own last write.
func live[T api.Object](ctx context.Context, c cluster, namespace, name string) (T, error) {
	row := api.For[T]()
	if obj, ok := c.Get(row, namespace, name); ok {
		return obj.(T), nil
	}
	obj, err := c.Live(ctx, row, namespace, name)
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

// list ranges over the objects of a type in a namespace ("": all).
func list[T api.Object](c Reader, namespace string) iter.Seq[T] {
	return func(yield func(T) bool) {
		for obj := range c.List(api.For[T](), namespace) {
			if !yield(obj.(T)) {
				return
			}
		}
	}
}

// is tells whether a write goes to a resource of the core group or, with a
// dot, of another ("ingresses.networking.k8s.io"), and to that subresource.
func (w *Write) is(resource, subresource string) bool {
	return w.Subresource == subresource && w.Resource.String() == resource
}

// Forbid makes the error that refuses a write.
func (w *Write) Forbid(why error) error { return w.forbid("%w", why) }

// forbid is Forbid with a reason that is made here.
func (w *Write) forbid(format string, args ...any) error {
	name := w.Name
	if name == "" {
		name = "Unknown"
		if meta, ok := w.Object.(metav1.Object); ok && meta.GetName() != "" {
			name = meta.GetName()
		} else if ok && meta.GetGenerateName() != "" {
			name = meta.GetGenerateName()
		}
	}
	return apierrors.NewForbidden(w.Resource.GroupResource(), name, fmt.Errorf(format, args...))
}

// allowed asks whether the user may do what the attributes say.
func (c cluster) allowed(ctx context.Context, at authorizer.AttributesRecord) (bool, string, error) {
	at.ResourceRequest = true
	decision, reason, err := c.authz.Authorize(ctx, at)
	return decision == authorizer.DecisionAllow, reason, err
}

// Mutate runs the steps that may change the object.
func (c Chain) Mutate(ctx context.Context, w *Write) error {
	for i := range c {
		if c[i].Mutate == nil {
			continue
		}
		if err := c[i].Mutate(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// Validate runs the steps that judge the final object.
func (c Chain) Validate(ctx context.Context, w *Write) error {
	for i := range c {
		if c[i].Validate == nil {
			continue
		}
		if err := c[i].Validate(ctx, w); err != nil {
			return err
		}
	}
	return nil
}
