// Package admission holds the built-in decisions about writes that need to know
// the cluster's state: what may be written where, and what is filled in. Only
// apiserver calls it, twice in the life of a write: Mutate before defaults are
// filled a second time, Validate when the object is final. Steps read the
// cluster through Reader; they never write, except where a step says so.
package admission

import (
	"context"
	"iter"

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

	DryRun bool
	// Warn adds a Warning header.
	Warn func(text string)
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
	Authorizer authorizer.Authorizer
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
