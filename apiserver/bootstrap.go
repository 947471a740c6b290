package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilnet "k8s.io/utils/net"

	"skiff/api"
	"skiff/apiserver/authz/rbac"
	"skiff/apiserver/bootstrap"
)

// bootstrap writes what every cluster starts with, as far as it is not there,
// through the same path as any other write. It returns when roles and bindings
// decide about requests.
func (s *Server) bootstrap(ctx context.Context) error {
	if err := s.ensureAll(ctx, bootstrap.Namespaces()); err != nil {
		return err
	}
	policy, err := bootstrap.Policy()
	if err != nil {
		return err
	}
	objects := slices.Concat(policy, bootstrap.PriorityClasses(), bootstrap.FlowControl(),
		[]api.Object{bootstrap.ServiceNetwork(s.authConfig.ServiceCIDRs)}, s.publishedCAs())
	if err := s.ensureAll(ctx, objects); err != nil {
		return err
	}
	if err := s.ensureOwnService(ctx); err != nil {
		return fmt.Errorf("service kubernetes: %w", err)
	}
	revision, err := s.store.Revision(ctx)
	if err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	return s.settled(ctx, revision)
}

// settled waits until the roles that were written up to revision decide.
func (s *Server) settled(ctx context.Context, revision int64) error {
	if err := s.cache.WaitFor(ctx, revision); err != nil {
		return err
	}
	var newest int64
	for _, r := range []*api.Resource{
		api.For[*rbacv1.Role](), api.For[*rbacv1.ClusterRole](), api.For[*rbacv1.RoleBinding](), api.For[*rbacv1.ClusterRoleBinding](),
	} {
		for entry := range s.table(r).Snapshot().All("") {
			newest = max(newest, entry.Revision())
		}
	}
	return s.rights.wait(ctx, newest)
}

// ensureAll ensures objects that do not depend on each other, many at once:
// proposals that are made together share one fsync.
func (s *Server) ensureAll(ctx context.Context, objects []api.Object) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for _, obj := range objects {
		group.Go(func() error {
			if err := s.ensure(ctx, obj); err != nil {
				return fmt.Errorf("%s %s: %w", api.Of(obj), obj.GetName(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// ensure creates obj, or adds to what is there what it lacks.
func (s *Server) ensure(ctx context.Context, obj api.Object) error {
	r := api.Of(obj)
	entry, ok := s.table(r).Get(obj.GetNamespace(), obj.GetName())
	if !ok {
		_, err := s.serve(ctx, s.own("create", obj))
		if apierrors.IsAlreadyExists(err) {
			return nil // another server was faster
		}
		return err
	}
	changed := reconcile(entry.Object(), obj)
	if changed == nil {
		return nil
	}
	_, err := s.serve(ctx, s.own("update", changed))
	if apierrors.IsConflict(err) {
		return nil // somebody is at work on it: the next start looks again
	}
	return err
}

// own is a request in the server's own name.
func (s *Server) own(verb string, obj api.Object) *Request {
	r := &Request{User: self, UserAgent: "skiff-apiserver", Verb: verb, Resource: api.Of(obj), Namespace: obj.GetNamespace(), Body: Body{Object: obj}}
	if verb != "create" {
		r.Name = obj.GetName()
	}
	return r
}

// reconcile returns have with what want adds, or nil if nothing is missing.
// Roles keep what users added, and are left alone where their annotation says so.
func reconcile(have, want api.Object) api.Object {
	next := have.DeepCopyObject().(api.Object)
	switch n := next.(type) {
	case *rbacv1.ClusterRole:
		if n.AggregationRule == nil {
			n.Rules = append(n.Rules, rbac.Missing(n.Rules, want.(*rbacv1.ClusterRole).Rules)...)
		}
	case *rbacv1.Role:
		n.Rules = append(n.Rules, rbac.Missing(n.Rules, want.(*rbacv1.Role).Rules)...)
	case *rbacv1.ClusterRoleBinding:
		n.Subjects = withSubjects(n.Subjects, want.(*rbacv1.ClusterRoleBinding).Subjects)
	case *rbacv1.RoleBinding:
		n.Subjects = withSubjects(n.Subjects, want.(*rbacv1.RoleBinding).Subjects)
	case *corev1.ConfigMap:
		if n.Data == nil {
			n.Data = map[string]string{}
		}
		maps.Copy(n.Data, want.(*corev1.ConfigMap).Data)
	case *flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration:
		return reconcileFlow(have, want)
	default:
		return nil // users may change the rest
	}
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" || apiequality.Semantic.DeepEqual(have, next) {
		return nil
	}
	return next
}

func withSubjects(have, want []rbacv1.Subject) []rbacv1.Subject {
	for _, s := range want {
		if !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	return have
}

// publishedCAs is the config map from which extension servers learn whom this
// server believes.
func (s *Server) publishedCAs() []api.Object {
	c := s.authConfig
	data := map[string]string{}
	if len(c.ClientCA) > 0 {
		data["client-ca-file"] = string(c.ClientCA)
	}
	if len(c.FrontProxyCA) > 0 {
		data["requestheader-client-ca-file"] = string(c.FrontProxyCA)
		for key, names := range map[string][]string{
			"requestheader-allowed-names":        c.FrontProxyNames,
			"requestheader-username-headers":     {"X-Remote-User"},
			"requestheader-uid-headers":          {"X-Remote-Uid"},
			"requestheader-group-headers":        {"X-Remote-Group"},
			"requestheader-extra-headers-prefix": {"X-Remote-Extra-"},
		} {
			text, _ := json.Marshal(slices.Concat([]string{}, names)) // a list of strings always has a JSON form
			data[key] = string(text)
		}
	}
	if len(data) == 0 {
		return nil
	}
	return []api.Object{&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "extension-apiserver-authentication"},
		Data:       data,
	}}
}

// ensureOwnService writes the service by which pods reach this server, at the
// first address of the service network, and its endpoints.
func (s *Server) ensureOwnService(ctx context.Context) error {
	_, network, err := net.ParseCIDR(s.authConfig.ServiceCIDRs[0])
	if err != nil {
		return fmt.Errorf("service network: %w", err)
	}
	first, err := utilnet.GetIndexedIP(network, 1)
	if err != nil {
		return fmt.Errorf("service network %s: %w", network, err)
	}
	to := s.authConfig.Advertise
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
	meta.Labels = map[string]string{"component": "apiserver", "provider": "kubernetes"}
	target := intstr.FromInt32(to.Port)
	if to.Port == 0 {
		target = intstr.FromInt32(443)
	}
	service := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Type:            corev1.ServiceTypeClusterIP,
		ClusterIP:       first.String(),
		SessionAffinity: corev1.ServiceAffinityNone,
		Ports:           []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: target, Protocol: corev1.ProtocolTCP}},
	}}
	if err := s.ensureService(ctx, service); err != nil {
		return err
	}
	if to.IP == "" {
		return nil
	}
	return s.announce(ctx)
}

// ensureService creates the service, or moves its port to where the server is now.
func (s *Server) ensureService(ctx context.Context, want *corev1.Service) error {
	entry, ok := s.table(api.Of(want)).Get(want.Namespace, want.Name)
	if !ok {
		return s.ensure(ctx, want)
	}
	have := entry.Object().(*corev1.Service)
	if len(have.Spec.Ports) == 1 && have.Spec.Ports[0].TargetPort == want.Spec.Ports[0].TargetPort {
		return nil
	}
	next := have.DeepCopy()
	next.Spec.Ports = want.Spec.Ports
	_, err := s.serve(ctx, s.own("update", next))
	return err
}
