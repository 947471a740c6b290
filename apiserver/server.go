// Package apiserver is the front door: it alone opens the store, and every
// request, from a socket or from a component in the same process, passes through
// serve. It owns what the API promises (consistency, validation, admission,
// authorization) and nothing that makes declared state true: that is for
// controllers, scheduler and node agents.
package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// serve answers one request. It is the only way in. Errors are
// *apierrors.StatusError; the transport renders them.
func (s *Server) serve(ctx context.Context, r *Request) (result *Result, err error) {
	done := s.audit.begin(r)
	defer func() { done(result, err) }()

	if r.HTTP == nil {
		defer r.leave() // over HTTP the request lasts until its answer is written
	}
	if err := s.shape(ctx, r); err != nil {
		return nil, err
	}
	if err := s.limits.admit(r); err != nil {
		return nil, err
	}
	if err := s.authorize(ctx, r); err != nil {
		return nil, err
	}
	if service, entry := s.handedOver(r); service != nil {
		return s.handOver(r, service, entry)
	}
	if r.Resource == nil {
		return s.servePath(ctx, r)
	}
	if err := served(r); err != nil {
		return nil, err
	}
	s.warnDeprecated(r)
	if r.Resource.Custom != nil && r.Resource.Custom.Deprecation != "" {
		r.Warn(r.Resource.Custom.Deprecation)
	}
	if !r.Resource.Namespaced {
		// The path of a namespace names it twice: authorize has asked for rights
		// in it, the object is in none.
		r.Namespace = ""
	}
	if r.HTTP != nil { // a stranger's body is never read: it stands after authorize
		if err := r.read(r.HTTP); err != nil {
			return nil, err
		}
	}
	if act := s.action(r); act != nil {
		return act(ctx, r)
	}
	switch r.Verb {
	case "get":
		return s.get(ctx, r)
	case "list":
		return s.list(ctx, r)
	case "watch":
		return s.watch(ctx, r)
	case "create":
		return s.create(ctx, r)
	case "update":
		return s.update(ctx, r)
	case "patch":
		return s.patch(ctx, r)
	case "delete":
		return s.delete(ctx, r)
	case "deletecollection":
		return s.deleteCollection(ctx, r)
	}
	return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), r.Verb)
}
