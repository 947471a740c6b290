package apiserver

import (
	"context"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// get answers GET of one object. Without a resourceVersion it is linearizable;
// with 0 it is whatever the cache holds; with N it is not older than N.
func (s *Server) get(ctx context.Context, r *Request) (*Result, error) {
	t := s.table(r.Resource)
	if t == nil {
		return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), "get")
	}
	if err := s.reach(ctx, r.ListOptions.ResourceVersion); err != nil {
		return nil, err
	}
	entry, ok := t.Get(r.Namespace, r.Name)
	if !ok {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	entry, err := sound(entry.As(r.Resource))
	if err != nil {
		return nil, err
	}
	return &Result{Entry: entry}, nil
}

// reach waits until the cache is as new as a read with that resourceVersion needs it.
func (s *Server) reach(ctx context.Context, resourceVersion string) error {
	if resourceVersion == "" {
		return s.fresh(ctx)
	}
	revision, err := parseRevision(resourceVersion)
	if err != nil {
		return err
	}
	if err := s.cache.WaitReady(ctx); err != nil {
		return err
	}
	return s.notOlderThan(ctx, revision)
}

// parseRevision reads a resourceVersion; "" and "0" are 0.
func parseRevision(resourceVersion string) (int64, error) {
	if resourceVersion == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(resourceVersion, 10, 63)
	if err != nil {
		invalid := field.Invalid(field.NewPath("resourceVersion"), resourceVersion, err.Error())
		return 0, apierrors.NewBadRequest("invalid resource version: " + invalid.Error())
	}
	return int64(n), nil
}
