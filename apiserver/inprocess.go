package apiserver

import (
	"context"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/api"
	"skiff/client"
	"skiff/store"
)

// Client returns the API as the user sees it, without a socket. name is the
// component's name: the field manager of its writes and its user agent.
func (s *Server) Client(u user.Info, name string) client.Client {
	return &inProcess{server: s, user: u, name: name}
}

// inProcess is the client of a component in this process. What it hands out are
// the cache's own objects.
type inProcess struct {
	server *Server
	user   user.Info
	name   string
	fence  store.Fence
	broken error // of the fence: then no write is made
}

func (c *inProcess) request(verb string, r *api.Resource, namespace, name string) *Request {
	return &Request{User: c.user, Verb: verb, Resource: r, Namespace: namespace, Name: name, UserAgent: c.name}
}

// writing is a request that changes something.
func (c *inProcess) writing(verb string, r *api.Resource, namespace, name string) *Request {
	q := c.request(verb, r, namespace, name)
	q.Fence = c.fence
	q.Write.FieldManager = c.name
	return q
}

// object serves the request and returns the object of the answer.
func (c *inProcess) object(ctx context.Context, r *Request) (runtime.Object, error) {
	if c.broken != nil && r.Verb != "get" {
		return nil, c.broken
	}
	result, err := c.server.serve(ctx, r)
	switch {
	case err != nil:
		return nil, asStatus(err)
	case result.Entry != nil:
		return result.Entry.As(r.Resource).Object(), nil
	case result.Object != nil:
		return result.Object, nil
	}
	return nil, fmt.Errorf("%s %s in process: the answer is no object", r.Verb, r.Resource)
}

// asStatus makes every error one that clients can test with apierrors.
func asStatus(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return &apierrors.StatusError{ErrStatus: *statusOf(err)}
}

func (c *inProcess) apiObject(ctx context.Context, r *Request) (api.Object, error) {
	answer, err := c.object(ctx, r)
	if err != nil {
		return nil, err
	}
	obj, ok := answer.(api.Object)
	if !ok {
		return nil, fmt.Errorf("%s %s in process: the answer is a %T", r.Verb, r.Resource, answer)
	}
	return obj, nil
}

// Get implements client.Client.
func (c *inProcess) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	return c.apiObject(ctx, c.request("get", r, namespace, name))
}

// List implements client.Client.
func (c *inProcess) List(ctx context.Context, r *api.Resource, o client.ListOptions) ([]api.Object, string, error) {
	q := c.request("list", r, o.Namespace, "")
	if o.Labels != nil {
		q.ListOptions.LabelSelector = o.Labels.String()
	}
	if o.Fields != nil {
		q.ListOptions.FieldSelector = o.Fields.String()
	}
	result, err := c.server.serve(ctx, q)
	if err != nil {
		return nil, "", asStatus(err)
	}
	objs := make([]api.Object, 0, result.List.Len())
	for e := range result.List.All() {
		objs = append(objs, e.Object())
	}
	return objs, strconv.FormatInt(result.List.Revision, 10), nil
}

// Create implements client.Client.
func (c *inProcess) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.Of(obj)
	q := c.writing("create", r, obj.GetNamespace(), "")
	q.Body.Object = obj.DeepCopyObject() // the server takes it over, and the caller may go on with obj
	return c.apiObject(ctx, q)
}

// Update implements client.Client.
func (c *inProcess) Update(ctx context.Context, sub string, obj api.Object) (api.Object, error) {
	q := c.writing("update", api.Of(obj), obj.GetNamespace(), obj.GetName())
	q.Subresource = sub
	q.Body.Object = obj.DeepCopyObject()
	return c.apiObject(ctx, q)
}

// Patch implements client.Client.
func (c *inProcess) Patch(ctx context.Context, r *api.Resource, namespace, name string, p client.Patch) (api.Object, error) {
	q := c.writing("patch", r, namespace, name)
	q.Subresource = p.Sub
	q.PatchType = p.Type
	q.Body = Body{ContentType: string(p.Type), Bytes: p.Data}
	q.Write.Force = p.Force
	if p.Manager != "" {
		q.Write.FieldManager = p.Manager
	}
	return c.apiObject(ctx, q)
}

// Delete implements client.Client.
func (c *inProcess) Delete(ctx context.Context, r *api.Resource, namespace, name string, o metav1.DeleteOptions) error {
	q := c.writing("delete", r, namespace, name)
	q.DeleteOptions = o
	_, err := c.object(ctx, q)
	return err
}

// Post implements client.Client.
func (c *inProcess) Post(ctx context.Context, r *api.Resource, namespace, name, sub string, body runtime.Object) (runtime.Object, error) {
	q := c.writing("create", r, namespace, name)
	q.Subresource = sub
	q.Body.Object = body.DeepCopyObject()
	return c.object(ctx, q)
}

// Fenced implements client.Client.
func (c *inProcess) Fenced(e client.Epoch) client.Client {
	fenced := *c
	revision, err := parseRevision(e.ResourceVersion)
	if err != nil {
		fenced.broken = err
	}
	fenced.fence = store.Fence{Key: e.Resource.Key(e.Namespace, e.Name), Revision: revision}
	return &fenced
}
