package dynamic

import (
	"context"
	"errors"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/informers/core"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/api"
	"skiff/client"
)

// The libraries take a whole clientset and a whole factory of informers, and use
// little of them. Here is what they use; the rest is not there, since linking all of
// client-go's typed clients makes the program a fifth larger. (A call of what is not
// there would panic: each kind of configuration is put to use by a test.)

// clientset is the part of kubernetes.Interface that is used.
type clientset struct {
	kubernetes.Interface
	client    client.Client
	discovery discovery.DiscoveryInterfaces
}

// CoreV1 has Namespaces.
func (c clientset) CoreV1() coreclient.CoreV1Interface { return coreV1{client: c.client} }

// Discovery tells of the server itself.
func (c clientset) Discovery() discovery.DiscoveryInterfaces { return c.discovery }

type coreV1 struct {
	coreclient.CoreV1Interface
	client client.Client
}

// Namespaces has Get.
func (c coreV1) Namespaces() coreclient.NamespaceInterface { return namespaces{client: c.client} }

type namespaces struct {
	coreclient.NamespaceInterface
	client client.Client
}

// Get reads a namespace that the informer has not seen yet.
func (n namespaces) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return client.Get[*corev1.Namespace](ctx, n.client, "", name)
}

// factory is the part of informers.SharedInformerFactory that is used: informers
// of namespaces and configurations, which hold the cache's own objects.
type factory struct {
	informers.SharedInformerFactory
	ctx     context.Context
	client  client.Client
	mu      *sync.Mutex
	started map[*api.Resource]cache.SharedIndexInformer
	running *sync.WaitGroup
}

func newFactory(ctx context.Context, c client.Client) factory {
	return factory{ctx: ctx, client: c, mu: new(sync.Mutex), started: map[*api.Resource]cache.SharedIndexInformer{}, running: new(sync.WaitGroup)}
}

// informer returns the informer of a type, which runs until the factory's context ends.
func informerOf[T api.Object](f factory) cache.SharedIndexInformer {
	row := api.For[T]()
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.started[row]
	if i == nil {
		i = client.Informer(f.ctx, f.client, row)
		f.started[row] = i
		f.running.Go(func() { i.Run(f.ctx.Done()) })
	}
	return i
}

// ForResource has no typed informers: parameters of policies are followed as plain fields.
func (f factory) ForResource(schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, errors.New("there are no typed informers of parameters")
}

// Core has Namespaces.
func (f factory) Core() core.Interface { return coreGroup{factory: f} }

type coreGroup struct {
	core.Interface
	factory factory
}

func (g coreGroup) V1() coreinformers.Interface { return coreGroupV1{factory: g.factory} }

type coreGroupV1 struct {
	coreinformers.Interface
	factory factory
}

func (g coreGroupV1) Namespaces() coreinformers.TypedNamespaceInformer {
	return namespaceInformer{f: g.factory}
}

type namespaceInformer struct {
	coreinformers.TypedNamespaceInformer
	f factory
}

func (n namespaceInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*corev1.Namespace](n.f)
}
func (n namespaceInformer) Lister() corelisters.NamespaceLister {
	return corelisters.NewNamespaceLister(n.Informer().GetIndexer())
}

// Admissionregistration has the configurations.
func (f factory) Admissionregistration() admissionregistration.Interface {
	return admissionGroup{factory: f}
}

type admissionGroup struct {
	admissionregistration.Interface
	factory factory
}

func (g admissionGroup) V1() admissioninformers.Interface {
	return admissionGroupV1{factory: g.factory}
}

type admissionGroupV1 struct {
	admissioninformers.Interface
	factory factory
}

func (g admissionGroupV1) MutatingWebhookConfigurations() admissioninformers.TypedMutatingWebhookConfigurationInformer {
	return mutatingWebhookInformer{f: g.factory}
}

func (g admissionGroupV1) ValidatingWebhookConfigurations() admissioninformers.TypedValidatingWebhookConfigurationInformer {
	return validatingWebhookInformer{f: g.factory}
}

func (g admissionGroupV1) MutatingAdmissionPolicies() admissioninformers.TypedMutatingAdmissionPolicyInformer {
	return mutatingPolicyInformer{f: g.factory}
}

func (g admissionGroupV1) MutatingAdmissionPolicyBindings() admissioninformers.TypedMutatingAdmissionPolicyBindingInformer {
	return mutatingBindingInformer{f: g.factory}
}

func (g admissionGroupV1) ValidatingAdmissionPolicies() admissioninformers.TypedValidatingAdmissionPolicyInformer {
	return validatingPolicyInformer{f: g.factory}
}

func (g admissionGroupV1) ValidatingAdmissionPolicyBindings() admissioninformers.TypedValidatingAdmissionPolicyBindingInformer {
	return validatingBindingInformer{f: g.factory}
}

// Each kind of configuration has an informer and a lister, under its own type.
type (
	mutatingWebhookInformer struct {
		admissioninformers.TypedMutatingWebhookConfigurationInformer
		f factory
	}
	validatingWebhookInformer struct {
		admissioninformers.TypedValidatingWebhookConfigurationInformer
		f factory
	}
	mutatingPolicyInformer struct {
		admissioninformers.TypedMutatingAdmissionPolicyInformer
		f factory
	}
	mutatingBindingInformer struct {
		admissioninformers.TypedMutatingAdmissionPolicyBindingInformer
		f factory
	}
	validatingPolicyInformer struct {
		admissioninformers.TypedValidatingAdmissionPolicyInformer
		f factory
	}
	validatingBindingInformer struct {
		admissioninformers.TypedValidatingAdmissionPolicyBindingInformer
		f factory
	}
)

func (i mutatingWebhookInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.MutatingWebhookConfiguration](i.f)
}

func (i mutatingWebhookInformer) Lister() admissionlisters.MutatingWebhookConfigurationLister {
	return admissionlisters.NewMutatingWebhookConfigurationLister(i.Informer().GetIndexer())
}

func (i validatingWebhookInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.ValidatingWebhookConfiguration](i.f)
}

func (i validatingWebhookInformer) Lister() admissionlisters.ValidatingWebhookConfigurationLister {
	return admissionlisters.NewValidatingWebhookConfigurationLister(i.Informer().GetIndexer())
}

func (i mutatingPolicyInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.MutatingAdmissionPolicy](i.f)
}

func (i mutatingPolicyInformer) Lister() admissionlisters.MutatingAdmissionPolicyLister {
	return admissionlisters.NewMutatingAdmissionPolicyLister(i.Informer().GetIndexer())
}

func (i mutatingBindingInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.MutatingAdmissionPolicyBinding](i.f)
}

func (i mutatingBindingInformer) Lister() admissionlisters.MutatingAdmissionPolicyBindingLister {
	return admissionlisters.NewMutatingAdmissionPolicyBindingLister(i.Informer().GetIndexer())
}

func (i validatingPolicyInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.ValidatingAdmissionPolicy](i.f)
}

func (i validatingPolicyInformer) Lister() admissionlisters.ValidatingAdmissionPolicyLister {
	return admissionlisters.NewValidatingAdmissionPolicyLister(i.Informer().GetIndexer())
}

func (i validatingBindingInformer) Informer() cache.SharedIndexInformer {
	return informerOf[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](i.f)
}

func (i validatingBindingInformer) Lister() admissionlisters.ValidatingAdmissionPolicyBindingLister {
	return admissionlisters.NewValidatingAdmissionPolicyBindingLister(i.Informer().GetIndexer())
}
