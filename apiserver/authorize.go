package apiserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/apiserver/authn"
	"skiff/apiserver/authz/node"
	"skiff/apiserver/authz/rbac"
	"skiff/client"
)

// AuthConfig says whom to believe and what the cluster starts with.
type AuthConfig struct {
	// ClientCAs sign the certificates of users and nodes; FrontProxyCAs those of
	// proxies whose word is taken, if their common name is one of FrontProxyNames.
	// Asked at each request. Nil: nobody is known by certificate.
	ClientCAs       func() *x509.CertPool
	FrontProxyCAs   func() *x509.CertPool
	FrontProxyNames []string
	// ClientCA and FrontProxyCA are the same in PEM, published for extension
	// servers. Empty: not published.
	ClientCA, FrontProxyCA []byte
	// Issuer makes and checks service account tokens. Nil: there are none.
	Issuer *authn.Issuer
	// NoAnonymous refuses requests without credentials.
	NoAnonymous bool

	// ServiceCIDRs are the ranges of services' addresses: one, or one of each
	// family. Empty: 10.96.0.0/16.
	ServiceCIDRs []string
	// Advertise is where pods reach this server: it becomes the endpoint of the
	// service kubernetes. An empty IP: there is no endpoint.
	Advertise Advertise
	// PresenceLife is how long a server that is not heard of stays such an endpoint,
	// the same for all servers. 0: 15 s.
	PresenceLife time.Duration
}

// Advertise is an address of the API server.
type Advertise struct {
	IP   string
	Port int32
}

// auth is what Server has for finding out who asks and what they may do.
type auth struct {
	authConfig AuthConfig
	authn      *authn.Authenticator
	authz      authorizer.Authorizer // node agents, then roles
	rbac       *rbac.Authorizer
	node       *node.Authorizer

	rights *rights
}

func newAuth(s *Server, c AuthConfig) (auth, error) {
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []string{"10.96.0.0/16"}
	}
	if c.PresenceLife == 0 {
		c.PresenceLife = presenceLife
	}
	a := auth{authConfig: c, rbac: rbac.New(), rights: &rights{changed: make(chan struct{})}}
	// What every agent may do is the role system:node, which policy binds to nobody.
	a.node = node.New(func(at authorizer.Attributes) bool {
		rules, _ := a.rbac.RoleRules(rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:node"}, "")
		return rbac.Allows(rules, at)
	})
	a.authz = authorizer.AuthorizerFunc(func(ctx context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
		if privileged(at.GetUser()) {
			return authorizer.DecisionAllow, "", nil
		}
		decision, reason, err := a.node.Authorize(ctx, at)
		if decision == authorizer.DecisionAllow || err != nil {
			return decision, reason, err
		}
		if decision, allowed, err := a.rbac.Authorize(ctx, at); decision == authorizer.DecisionAllow || err != nil {
			return decision, allowed, err
		}
		return authorizer.DecisionNoOpinion, reason, nil
	})
	var err error
	a.authn, err = authn.New(authn.Config{
		ClientCAs: c.ClientCAs, FrontProxyCAs: c.FrontProxyCAs, FrontProxyNames: c.FrontProxyNames,
		Issuer: c.Issuer, Objects: liveObjects{s}, NoAnonymous: c.NoAnonymous,
	})
	return a, err
}

// privileged lets system:masters do anything, whatever the roles say: a cluster
// whose roles are broken can be mended.
func privileged(u user.Info) bool { return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) }

// self is who the server is when it reads and writes for its own sake.
var self = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// run keeps what decides about requests up to date with the objects it follows
// from.
func (a *auth) run(ctx context.Context, s *Server) error {
	feed := s.Client(self, "skiff-apiserver").Follow(ctx,
		client.Source{Resource: api.For[*rbacv1.Role]()},
		client.Source{Resource: api.For[*rbacv1.ClusterRole]()},
		client.Source{Resource: api.For[*rbacv1.RoleBinding]()},
		client.Source{Resource: api.For[*rbacv1.ClusterRoleBinding]()},
		client.Source{Resource: api.For[*corev1.Pod]()},
		client.Source{Resource: api.For[*corev1.PersistentVolume]()},
		client.Source{Resource: api.For[*storagev1.VolumeAttachment]()},
	)
	for batch := range feed.C {
		for _, change := range batch.Changes {
			removed := change.New == nil
			switch change.Resource.Group {
			case rbacv1.GroupName:
				a.rbac.Apply(change.Object(), removed)
			default:
				a.node.Apply(change.Object(), removed)
			}
		}
		a.rights.reached(batch.Revision)
	}
	return nil
}

// rights tells up to which revision roles and bindings decide.
type rights struct {
	mu       sync.Mutex
	revision int64         // guarded by mu
	changed  chan struct{} // closed and replaced when revision grows; guarded by mu
}

func (r *rights) reached(revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision > r.revision {
		r.revision = revision
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// wait returns when revision decides, or ctx ends.
func (r *rights) wait(ctx context.Context, revision int64) error {
	for {
		r.mu.Lock()
		now, changed := r.revision, r.changed
		r.mu.Unlock()
		if now >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// authorize refuses what the user may not do, with a Forbidden Status.
func (s *Server) authorize(ctx context.Context, r *Request) error {
	return s.permit(ctx, attributes(r))
}

// permit refuses what the attributes' user may not do, with a Forbidden Status.
func (s *Server) permit(ctx context.Context, at *authorizer.AttributesRecord) error {
	decision, reason, err := s.authz.Authorize(ctx, at)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("authorize: %w", err))
	}
	return forbiddenAttributes(*at, reason)
}

// forbiddenAttributes says in Kubernetes' words what was not allowed, and why not.
func forbiddenAttributes(at authorizer.AttributesRecord, reason string) error {
	text := cannot(&at)
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: at.APIGroup, Resource: at.Resource}, at.Name, errors.New(text))
}

// attributes is a request as authorizers see it.
func attributes(r *Request) *authorizer.AttributesRecord {
	at := &authorizer.AttributesRecord{User: r.User, Verb: r.Verb, Path: r.Path}
	if r.Resource == nil {
		return at
	}
	at.ResourceRequest = true
	at.APIGroup, at.APIVersion, at.Resource = r.Resource.Group, r.Resource.Version, r.Resource.Name
	at.Subresource, at.Namespace, at.Name = r.Subresource, r.Namespace, r.Name
	switch r.Verb {
	case "list", "watch", "deletecollection":
		selectors(at, r)
	}
	return at
}

// cannot says in Kubernetes' words what was not allowed.
func cannot(at *authorizer.AttributesRecord) string {
	who := fmt.Sprintf("User %q cannot %s", at.User.GetName(), at.Verb)
	if !at.ResourceRequest {
		return fmt.Sprintf("%s path %q", who, at.Path)
	}
	resource := at.Resource
	if at.Subresource != "" {
		resource += "/" + at.Subresource
	}
	text := fmt.Sprintf("%s resource %q in API group %q", who, resource, at.APIGroup)
	if at.Namespace != "" {
		return fmt.Sprintf("%s in the namespace %q", text, at.Namespace)
	}
	return text + " at the cluster scope"
}

// checkEscalation refuses roles and bindings that would give others more than
// their writer has.
func (s *Server) checkEscalation(ctx context.Context, w *admission.Write) error {
	obj, ok := w.Object.(api.Object)
	if !ok || w.Resource.Group != rbacv1.GroupName {
		return nil
	}
	return s.rbac.CheckEscalation(ctx, s.authz, w.User, w.Resource, obj, w.Old)
}

// liveObjects answers for what tokens are bound to, linearizably.
type liveObjects struct{ server *Server }

func (l liveObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return live[*corev1.ServiceAccount](ctx, l.server, namespace, name)
}

func (l liveObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return live[*corev1.Pod](ctx, l.server, namespace, name)
}

func (l liveObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return live[*corev1.Node](ctx, l.server, "", name)
}

func (l liveObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return live[*corev1.Secret](ctx, l.server, namespace, name)
}

// live reads an object of the newest state; nil: there is none.
func live[T api.Object](ctx context.Context, s *Server, namespace, name string) (none T, err error) {
	if err := s.fresh(ctx); err != nil {
		return none, err
	}
	entry, ok := s.table(api.For[T]()).Get(namespace, name)
	if !ok {
		return none, nil
	}
	obj, ok := entry.Object().(T)
	if !ok {
		return none, fmt.Errorf("%s %s/%s cannot be read", api.For[T](), namespace, name)
	}
	return obj, nil
}
