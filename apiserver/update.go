package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/cache"
)

// update answers PUT, to an object or to one of its parts.
func (s *Server) update(ctx context.Context, r *Request) (*Result, error) {
	if err := partExists(r); err != nil {
		return nil, err
	}
	sent, err := r.decodeObject()
	if err != nil {
		return nil, err
	}
	if err := matchNamespace(r, sent); err != nil {
		return nil, err
	}
	if err := matchName(r, sent); err != nil {
		return nil, err
	}
	dedupOwners(r, sent, "")
	row, uid := r.Resource, sent.GetUID()
	c := change{make: func(_ *cache.Entry, old api.Object) (api.Object, error) {
		if err := matchUID(row, r, uid, old.GetUID()); err != nil {
			return nil, err
		}
		obj := sent.DeepCopyObject().(api.Object)
		if err := s.owners.update(r, old, obj); err != nil {
			return nil, err
		}
		return toStored(row, obj), nil
	}}
	if row.Kind.AllowCreateOnUpdate && r.Subresource == "" {
		c.absent = func() (api.Object, error) {
			if err := matchUID(row, r, uid, types.UID("")); err != nil {
				return nil, err
			}
			obj := sent.DeepCopyObject().(api.Object)
			if err := s.owners.update(r, row.Kind.New(), obj); err != nil {
				return nil, err
			}
			return toStored(row, obj), nil
		}
	}
	return s.modify(ctx, r, c)
}

// partExists refuses a subresource that the kind does not have. (The front
// refuses it too; in-process clients come without passing there.)
func partExists(r *Request) error {
	if r.Subresource == "" {
		return nil
	}
	if _, ok := stored(r.Resource).Kind.Subs[r.Subresource]; !ok {
		return apierrors.NewNotFound(r.Resource.GroupResource(), fmt.Sprintf("%s/%s", r.Name, r.Subresource))
	}
	return nil
}
