package apiserver

import (
	"context"
	"net/http"

	"skiff/api"
)

// verb serves one kind of request.
type verb func(context.Context, *Request) (*Result, error)

// action returns what serves a request that is not for a stored object: a
// subresource of another kind, or a resource that stores nothing. nil: the
// verb's own function serves it (also status, finalize, resize … of objects).
func (s *Server) action(r *Request) verb {
	if r.Subresource == "" {
		return s.unstored(r.Resource)
	}
	switch r.Subresource {
	case "scale":
		if r.Resource.Kind.Scale != nil {
			return s.scale
		}
	case "proxy":
		switch r.Resource.Name {
		case "pods":
			return s.proxyPod
		case "services":
			return s.proxyService
		case "nodes":
			return s.proxyNode
		}
	case "token":
		return s.createToken
	}
	if r.Resource.Name == "pods" && r.Resource.Group == "" {
		return s.podAction(r.Subresource)
	}
	return nil
}

func (s *Server) podAction(name string) verb {
	switch name {
	case "binding":
		return s.bind
	case "eviction":
		return s.evict
	case "log":
		return s.podLog
	case "exec":
		return s.exec
	case "attach":
		return s.attach
	case "portforward":
		return s.portForward
	}
	return nil
}

// unstored returns what serves a resource that has no place in the store.
func (s *Server) unstored(row *api.Resource) verb {
	if row.Prefix != "" || row.View != nil {
		return nil
	}
	switch row.KindName {
	case "Binding":
		return s.bind
	case "ComponentStatus":
		return s.componentStatus
	case "TokenReview":
		return s.reviewToken
	case "SelfSubjectReview":
		return s.reviewSelf
	case "SubjectAccessReview":
		return s.reviewAccess
	case "LocalSubjectAccessReview":
		return s.reviewLocalAccess
	case "SelfSubjectAccessReview":
		return s.reviewOwnAccess
	case "SelfSubjectRulesReview":
		return s.reviewOwnRules
	}
	return func(context.Context, *Request) (*Result, error) { return nil, notFoundHere() }
}

// streaming is the answer of a handler that writes by itself, counted as a
// request that stays.
func (s *Server) streaming(r *Request, h http.HandlerFunc) *Result {
	return &Result{Stream: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer s.metrics.stays(r)()
		h(w, req)
	})}
}
