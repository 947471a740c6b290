// Package dynamic asks what users have set up about writes: admission webhooks
// (MutatingWebhookConfiguration, ValidatingWebhookConfiguration) and policies in
// CEL (MutatingAdmissionPolicy, ValidatingAdmissionPolicy). Only apiserver calls
// it, as steps of admission. How webhooks are called and policies evaluated is
// k8s.io/apiserver's; this package gives it the server's own objects and kinds.
// Nothing of it runs, and no CEL is compiled, before the first such object is there.
package dynamic

import (
	"context"
	"errors"
	"fmt"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/discovery"
	clientgo "k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/featuregate"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/client"
)

// Config is what it takes to ask webhooks and policies.
type Config struct {
	// Reader tells whether there is anything to ask.
	Reader admission.Reader
	// Client follows configurations, policies and namespaces.
	Client client.Client
	// Loopback reaches the server itself, for the parameters of policies.
	Loopback *rest.Config
	// Authorizer is what expressions see as `authorizer`.
	Authorizer authorizer.UnconditionalAuthorizer
	// Services and Wrap are the way to webhooks that are services.
	Services webhookutil.ServiceResolver
	Wrap     webhookutil.AuthenticationInfoResolverWrapper
	// Kinds knows what is served.
	Kinds Kinds
	// Again runs the built-in mutating steps once more, when a webhook has changed
	// what they saw (reinvocation).
	Again func(ctx context.Context, w *admission.Write) error
}

// Admission asks webhooks and policies.
type Admission struct {
	c Config

	mu     sync.Mutex
	ctx    context.Context // of Run; nil: it has not begun
	shared *shared         // what the plugins have in common; nil: none has been needed
	parts  [4]part

	kindsMu sync.Mutex
	kinds   *objects // what was served lately; nil: not asked yet
}

// part is one of the four plugins, made when it is needed first.
type part struct {
	name string
	// objects are what it asks about: without any, it need not be asked.
	objects []*api.Resource
	make    func(*shared) (plugin, error)
	plugin  plugin
}

type plugin interface {
	ValidateInitialization() error
	Handles(k8sadmission.Operation) bool
}

// shared is what the plugins stand on.
type shared struct {
	factory   factory
	clientset clientset
	dynamic   *clientgo.DynamicClient
	mapper    meta.RESTMapper
}

const (
	mutatingPolicy = iota
	mutatingHook
	validatingPolicy
	validatingHook
)

// excluded are never shown to anybody: what they ask for is not stored, and who
// answers for them must not depend on a webhook.
var excluded = []schema.GroupResource{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// New checks the configuration and starts nothing.
func New(c Config) (*Admission, error) {
	if c.Reader == nil || c.Client == nil || c.Loopback == nil || c.Kinds == nil {
		return nil, errors.New("dynamic admission: Config.Reader, Client, Loopback and Kinds are required")
	}
	a := &Admission{c: c}
	a.parts = [4]part{
		mutatingPolicy: {
			name:    mutatingpolicy.PluginName,
			objects: []*api.Resource{api.For[*admissionregistrationv1.MutatingAdmissionPolicyBinding]()},
			make:    a.mutatingPolicies,
		},
		mutatingHook: {
			name:    mutatingwebhook.PluginName,
			objects: []*api.Resource{api.For[*admissionregistrationv1.MutatingWebhookConfiguration]()},
			make:    a.mutatingWebhooks,
		},
		validatingPolicy: {
			name:    validatingpolicy.PluginName,
			objects: []*api.Resource{api.For[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]()},
			make:    a.validatingPolicies,
		},
		validatingHook: {
			name:    validatingwebhook.PluginName,
			objects: []*api.Resource{api.For[*admissionregistrationv1.ValidatingWebhookConfiguration]()},
			make:    a.validatingWebhooks,
		},
	}
	return a, nil
}

// Run lets the plugins live until ctx ends. Writes before it are not asked about:
// they are the server's own, at its start.
func (a *Admission) Run(ctx context.Context) {
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	<-ctx.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shared != nil {
		a.shared.factory.running.Wait()
	}
}

// Steps are to come after the built-in ones, and before quota.
func (a *Admission) Steps() admission.Chain {
	return admission.Chain{
		{Name: "Mutating policies and webhooks", Mutate: a.mutate},
		{Name: validatingpolicy.PluginName, Validate: func(ctx context.Context, w *admission.Write) error { return a.validate(ctx, validatingPolicy, w) }},
		{Name: validatingwebhook.PluginName, Validate: func(ctx context.Context, w *admission.Write) error { return a.validate(ctx, validatingHook, w) }},
	}
}

// mutate asks policies and then webhooks; if one of them has changed something
// that others saw before, all are asked once more.
func (a *Admission) mutate(ctx context.Context, w *admission.Write) error {
	policies, err := a.plugin(mutatingPolicy)
	if err != nil {
		return err
	}
	hooks, err := a.plugin(mutatingHook)
	if err != nil || policies == nil && hooks == nil {
		return err
	}
	at, err := a.attributesOf(w)
	if err != nil {
		return err
	}
	ask := func() error {
		for _, p := range []plugin{policies, hooks} {
			if p == nil || !p.Handles(at.GetOperation()) {
				continue
			}
			if err := p.(k8sadmission.MutationInterface).Admit(warned(ctx, w), at, a.objects()); err != nil {
				return refused(err, w)
			}
		}
		return nil
	}
	if err := ask(); err != nil {
		return err
	}
	again := at.GetReinvocationContext()
	if again.ShouldReinvoke() {
		again.SetIsReinvoke()
		if err := at.settle(); err != nil {
			return err
		}
		if err := a.c.Again(ctx, w); err != nil {
			return err
		}
		if err := at.renew(); err != nil {
			return err
		}
		if err := ask(); err != nil {
			return err
		}
	}
	return at.settle()
}

func (a *Admission) validate(ctx context.Context, which int, w *admission.Write) error {
	p, err := a.plugin(which)
	if err != nil || p == nil {
		return err
	}
	at, err := a.attributesOf(w)
	if err != nil {
		return err
	}
	if !p.Handles(at.GetOperation()) {
		return nil
	}
	return refused(p.(k8sadmission.ValidationInterface).Validate(warned(ctx, w), at, a.objects()), w)
}

// refused makes errors that are none of the API's its own.
func refused(err error, w *admission.Write) error {
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	return w.Forbid(err)
}

// warned carries what webhooks and policies warn of to the client.
func warned(ctx context.Context, w *admission.Write) context.Context {
	if w.Warn == nil {
		return ctx
	}
	return warning.WithWarningRecorder(ctx, warnings{w})
}

type warnings struct{ w *admission.Write }

// AddWarning implements warning.Recorder.
func (r warnings) AddWarning(_, text string) { r.w.Warn(text) }

// plugin returns a part's plugin, made and synced, or nil if there is nothing to ask.
func (a *Admission) plugin(which int) (plugin, error) {
	part := &a.parts[which]
	if !a.any(part.objects) {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if part.plugin != nil || a.ctx == nil {
		return part.plugin, nil
	}
	if a.shared == nil {
		s, err := a.share()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		a.shared = s
	}
	p, err := part.make(a.shared)
	if err == nil {
		err = p.ValidateInitialization()
	}
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("set up %s: %w", part.name, err))
	}
	part.plugin = p
	return p, nil
}

// any tells whether there is an object of one of the rows.
func (a *Admission) any(rows []*api.Resource) bool {
	for _, row := range rows {
		for range a.c.Reader.List(row, "") {
			return true
		}
	}
	return false
}

// share makes clients, and informers that hold the cache's own objects.
func (a *Admission) share() (*shared, error) {
	found, err := discovery.NewDiscoveryClientForConfig(a.c.Loopback)
	if err != nil {
		return nil, fmt.Errorf("dynamic admission: %w", err)
	}
	dynamic, err := clientgo.NewForConfig(a.c.Loopback)
	if err != nil {
		return nil, fmt.Errorf("dynamic admission: %w", err)
	}
	return &shared{
		factory: newFactory(a.ctx, a.c.Client), clientset: clientset{client: a.c.Client, discovery: found}, dynamic: dynamic, mapper: mapper{a.c.Kinds},
	}, nil
}

func (a *Admission) mutatingWebhooks(s *shared) (plugin, error) {
	p, err := mutatingwebhook.NewMutatingWebhook(nil)
	if err != nil {
		return nil, err
	}
	a.setUpWebhooks(s, p)
	return p, nil
}

func (a *Admission) validatingWebhooks(s *shared) (plugin, error) {
	p, err := validatingwebhook.NewValidatingAdmissionWebhook(nil)
	if err != nil {
		return nil, err
	}
	a.setUpWebhooks(s, p)
	return p, nil
}

// webhooks is what the two plugins for webhooks have in common.
type webhooks interface {
	SetExternalKubeClientSet(kubernetes.Interface)
	SetExternalKubeInformerFactory(informers.SharedInformerFactory)
	SetUnconditionalAuthorizer(authorizer.UnconditionalAuthorizer)
	SetServiceResolver(webhookutil.ServiceResolver)
	SetAuthenticationInfoResolverWrapper(webhookutil.AuthenticationInfoResolverWrapper)
	SetExcludedAdmissionResources([]schema.GroupResource)
	SetDrainedNotification(<-chan struct{})
	InspectFeatureGates(featuregate.FeatureGate)
}

func (a *Admission) setUpWebhooks(s *shared, p webhooks) {
	p.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	p.SetExternalKubeClientSet(s.clientset)
	p.SetUnconditionalAuthorizer(a.c.Authorizer)
	p.SetServiceResolver(a.c.Services)
	p.SetAuthenticationInfoResolverWrapper(a.c.Wrap)
	p.SetExcludedAdmissionResources(excluded)
	p.SetDrainedNotification(a.ctx.Done())
	p.SetExternalKubeInformerFactory(s.factory)
}

// policies is what the two plugins for policies have in common.
type policies interface {
	SetExternalKubeClientSet(kubernetes.Interface)
	SetExternalKubeInformerFactory(informers.SharedInformerFactory)
	SetUnconditionalAuthorizer(authorizer.UnconditionalAuthorizer)
	SetExcludedAdmissionResources([]schema.GroupResource)
	SetDrainedNotification(<-chan struct{})
	SetRESTMapper(meta.RESTMapper)
	SetDynamicClient(clientgo.Interface)
}

func (a *Admission) mutatingPolicies(s *shared) (plugin, error) {
	p, err := mutatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	p.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	a.setUpPolicies(s, p)
	return p, nil
}

func (a *Admission) validatingPolicies(s *shared) (plugin, error) {
	p, err := validatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	a.setUpPolicies(s, p)
	return p, nil
}

func (a *Admission) setUpPolicies(s *shared, p policies) {
	p.SetExternalKubeClientSet(s.clientset)
	p.SetExternalKubeInformerFactory(s.factory)
	p.SetUnconditionalAuthorizer(a.c.Authorizer)
	p.SetExcludedAdmissionResources(excluded)
	p.SetDrainedNotification(a.ctx.Done())
	p.SetRESTMapper(s.mapper)
	p.SetDynamicClient(s.dynamic)
}
