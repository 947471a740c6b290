package apiserver

import (
	"context"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/cache"
)

// collectionWorkers is how many objects of a collection are deleted at a time.
const collectionWorkers = 16

// deleteCollection answers DELETE of a collection: each object that the request
// selects is deleted as delete would. It is not one transaction: when it fails,
// some are gone and some are not.
func (s *Server) deleteCollection(ctx context.Context, r *Request) (*Result, error) {
	selected, err := s.selected(ctx, r)
	if err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(collectionWorkers)
	for _, entry := range selected {
		group.Go(func() error {
			one := *r
			one.Verb, one.Namespace, one.Name = "delete", entry.Namespace(), entry.Name()
			_, err := s.delete(groupCtx, &one)
			if apierrors.IsNotFound(err) {
				return nil // somebody else was faster
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return s.deletedList(r, selected)
}

// selected returns the objects that a collection request means, as of now.
func (s *Server) selected(ctx context.Context, r *Request) ([]*cache.Entry, error) {
	labelSelector, err := labels.Parse(r.ListOptions.LabelSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	fieldSelector, err := fields.ParseSelector(r.ListOptions.FieldSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := s.fresh(ctx); err != nil {
		return nil, err
	}
	var selected []*cache.Entry
	all := selection{row: r.Resource}
	for entry := range all.showing(s.table(r.Resource).Snapshot().All(r.Namespace), showBatch, func() bool { return false }) {
		shown := entry.As(r.Resource)
		if labelSelector.Matches(shown.Labels()) && fieldSelector.Matches(shown.Fields()) {
			selected = append(selected, entry)
			if limit := r.ListOptions.Limit; limit > 0 && int64(len(selected)) == limit {
				break
			}
		}
	}
	return selected, nil
}

// deletedList answers with the objects as they were.
func (s *Server) deletedList(r *Request, selected []*cache.Entry) (*Result, error) {
	list := r.Resource.Kind.NewList()
	items := make([]runtime.Object, 0, len(selected))
	for _, entry := range selected {
		if entry.Err() == nil {
			items = append(items, entry.As(r.Resource).Object())
		}
	}
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	kind := r.Resource.GVK()
	kind.Kind = r.Resource.List()
	list.GetObjectKind().SetGroupVersionKind(kind)
	return &Result{Object: list}, nil
}
