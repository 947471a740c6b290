package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/api"
)

// NewRemote returns a client of the API server that config names, Skiff's or any
// other. name is the component's name: the field manager of its writes and, if
// config has none, its user agent. A config without QPS is not limited.
func NewRemote(config *rest.Config, name string) (Client, error) {
	config = rest.CopyConfig(config)
	if config.UserAgent == "" {
		config.UserAgent = name
	}
	if config.QPS == 0 && config.RateLimiter == nil {
		config.QPS = -1
	}
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.NegotiatedSerializer = wire().codecs.WithoutConversion()
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", name, err)
	}
	return &remote{name: name, config: config, http: transport, clients: &restClients{byVersion: map[schema.GroupVersion]rest.Interface{}}}, nil
}

// remote speaks HTTP.
type remote struct {
	name    string
	config  *rest.Config
	http    *http.Client
	clients *restClients
	epoch   string // the header of a fenced client, or ""
}

// restClients are client-go's clients, one per group and version; all share a
// connection.
type restClients struct {
	mu        sync.Mutex
	byVersion map[schema.GroupVersion]rest.Interface // guarded by mu
}

// wireForms are the types as they go over the wire. They are made once, and not
// changed afterwards.
type wireForms struct {
	scheme     *runtime.Scheme
	codecs     serializer.CodecFactory
	parameters runtime.ParameterCodec
}

var wire = sync.OnceValue(func() wireForms {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two types of one name: a mistake in the program
		}
	}
	return wireForms{scheme: s, codecs: serializer.NewCodecFactory(s), parameters: runtime.NewParameterCodec(s)}
})

// rest returns the client of a row's group and version.
func (c *remote) rest(r *api.Resource) (rest.Interface, error) {
	version := schema.GroupVersion{Group: r.Group, Version: r.Version}
	c.clients.mu.Lock()
	defer c.clients.mu.Unlock()
	if known := c.clients.byVersion[version]; known != nil {
		return known, nil
	}
	config := rest.CopyConfig(c.config)
	config.GroupVersion, config.APIPath = &version, "/apis"
	if r.Group == "" {
		config.APIPath = "/api"
	}
	made, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("client %s for %s: %w", c.name, version, err)
	}
	c.clients.byVersion[version] = made
	return made, nil
}

// request begins a request for an object, or with an empty name for a collection.
func (c *remote) request(method string, r *api.Resource, namespace, name, sub string) (*rest.Request, error) {
	client, err := c.rest(r)
	if err != nil {
		return nil, err
	}
	q := client.Verb(method).NamespaceIfScoped(namespace, r.Namespaced && namespace != "").Resource(r.Name)
	if name != "" {
		q = q.Name(name)
	}
	if sub != "" {
		q = q.SubResource(strings.Split(sub, "/")...)
	}
	if c.epoch != "" && method != http.MethodGet {
		q = q.SetHeader(EpochHeader, c.epoch)
	}
	return q, nil
}

// into does the request and returns the answer, an object of the row's kind.
func (c *remote) into(ctx context.Context, q *rest.Request, r *api.Resource) (api.Object, error) {
	obj := r.Kind.New()
	if err := q.Do(ctx).Into(obj); err != nil {
		return nil, err
	}
	return bare(obj), nil
}

// bare takes apiVersion and kind from an object, as they are in process.
func bare(obj api.Object) api.Object {
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return obj
}

// Get implements Client.
func (c *remote) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	q, err := c.request(http.MethodGet, r, namespace, name, "")
	if err != nil {
		return nil, err
	}
	return c.into(ctx, q, r)
}

// List implements Client.
func (c *remote) List(ctx context.Context, r *api.Resource, o ListOptions) ([]api.Object, string, error) {
	q, err := c.request(http.MethodGet, r, o.Namespace, "", "")
	if err != nil {
		return nil, "", err
	}
	list := r.Kind.NewList()
	if err := q.VersionedParams(listOptions(o), wire().parameters).Do(ctx).Into(list); err != nil {
		return nil, "", err
	}
	var objs []api.Object
	err = meta.EachListItem(list, func(item runtime.Object) error {
		obj, ok := item.(api.Object)
		if !ok {
			return fmt.Errorf("list %s: an item is a %T", r, item)
		}
		objs = append(objs, bare(obj))
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	of, err := meta.ListAccessor(list)
	if err != nil {
		return nil, "", err
	}
	return objs, of.GetResourceVersion(), nil
}

func listOptions(o ListOptions) *metav1.ListOptions {
	to := &metav1.ListOptions{}
	if o.Labels != nil {
		to.LabelSelector = o.Labels.String()
	}
	if o.Fields != nil {
		to.FieldSelector = o.Fields.String()
	}
	return to
}

// Create implements Client.
func (c *remote) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.Of(obj)
	q, err := c.request(http.MethodPost, r, obj.GetNamespace(), "", "")
	if err != nil {
		return nil, err
	}
	return c.into(ctx, q.VersionedParams(&metav1.CreateOptions{FieldManager: c.name}, wire().parameters).Body(obj), r)
}

// Update implements Client.
func (c *remote) Update(ctx context.Context, sub string, obj api.Object) (api.Object, error) {
	r := api.Of(obj)
	q, err := c.request(http.MethodPut, r, obj.GetNamespace(), obj.GetName(), sub)
	if err != nil {
		return nil, err
	}
	return c.into(ctx, q.VersionedParams(&metav1.UpdateOptions{FieldManager: c.name}, wire().parameters).Body(obj), r)
}

// Patch implements Client.
func (c *remote) Patch(ctx context.Context, r *api.Resource, namespace, name string, p Patch) (api.Object, error) {
	q, err := c.request(http.MethodPatch, r, namespace, name, p.Sub)
	if err != nil {
		return nil, err
	}
	o := &metav1.PatchOptions{FieldManager: c.name}
	if p.Manager != "" {
		o.FieldManager = p.Manager
	}
	if p.Force {
		o.Force = &p.Force
	}
	q = q.SetHeader("Content-Type", string(p.Type)).VersionedParams(o, wire().parameters).Body(p.Data)
	return c.into(ctx, q, r)
}

// Delete implements Client.
func (c *remote) Delete(ctx context.Context, r *api.Resource, namespace, name string, o metav1.DeleteOptions) error {
	q, err := c.request(http.MethodDelete, r, namespace, name, "")
	if err != nil {
		return err
	}
	return q.Body(&o).Do(ctx).Error()
}

// Post implements Client.
func (c *remote) Post(ctx context.Context, r *api.Resource, namespace, name, sub string, body runtime.Object) (runtime.Object, error) {
	q, err := c.request(http.MethodPost, r, namespace, name, sub)
	if err != nil {
		return nil, err
	}
	return q.VersionedParams(&metav1.CreateOptions{FieldManager: c.name}, wire().parameters).Body(body).Do(ctx).Get()
}

// Fenced implements Client.
func (c *remote) Fenced(e Epoch) Client {
	fenced := *c
	fenced.epoch = e.header()
	return &fenced
}

// EpochHeader carries the epoch of a fenced client's writes, in the form
// group/version/resource/namespace/name/resourceVersion.
const EpochHeader = "Skiff-Epoch"

func (e Epoch) header() string {
	r := e.Resource
	return strings.Join([]string{r.Group, r.Version, r.Name, e.Namespace, e.Name, e.ResourceVersion}, "/")
}

// ParseEpoch reads the value of EpochHeader.
func ParseEpoch(header string) (Epoch, error) {
	parts := strings.Split(header, "/")
	if len(parts) != 6 {
		return Epoch{}, fmt.Errorf("%s: %q is not group/version/resource/namespace/name/resourceVersion", EpochHeader, header)
	}
	r := api.Find(schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]})
	if r == nil {
		return Epoch{}, fmt.Errorf("%s: there is no resource %s in %s/%s", EpochHeader, parts[2], parts[0], parts[1])
	}
	return Epoch{Resource: r, Namespace: parts[3], Name: parts[4], ResourceVersion: parts[5]}, nil
}
