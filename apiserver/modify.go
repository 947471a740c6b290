package apiserver

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
	"skiff/cache"
)

// change is one object's read-modify-write: what update, patch, apply and scale
// have in common.
type change struct {
	// make returns the wanted object, in the storage's version with its defaults
	// and its owners tracked, from the current entry and its object, which is
	// shared. It may be called several times, each time on a newer one.
	make func(entry *cache.Entry, old api.Object) (api.Object, error)
	// absent returns the object to create where there is none; nil: NotFound.
	absent func() (api.Object, error)
}

// modify makes the change on the newest state.
func (s *Server) modify(ctx context.Context, r *Request, c change) (*Result, error) {
	return s.retry(ctx, r, func(entry *cache.Entry) (*Result, error) {
		switch {
		case entry != nil:
			return s.replace(ctx, r, entry, c)
		case c.absent != nil:
			return s.createAbsent(ctx, r, c)
		}
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	})
}

// retry tries on the newest state of the request's object (nil: there is none),
// again and again while others write in between. The first try takes the cache's
// word for what is stored: if it fails for whatever reason, the store is asked
// before the client is told.
func (s *Server) retry(ctx context.Context, r *Request, try func(*cache.Entry) (*Result, error)) (*Result, error) {
	row := stored(r.Resource)
	entry, err := found(s.current(ctx, row, r.Namespace, r.Name))
	for err == nil {
		result, failure := try(entry)
		if failure == nil {
			return result, nil
		}
		var newer *cache.Entry
		if newer, err = found(s.currentStored(ctx, row, r.Namespace, r.Name)); err != nil {
			return nil, err
		}
		if revision(newer) == revision(entry) || ctx.Err() != nil {
			return nil, failure
		}
		entry = newer
	}
	return nil, err
}

// confirm makes sure that an answer which needs no write was not decided on a
// state that is over.
func (s *Server) confirm(ctx context.Context, r *Request, entry *cache.Entry) error {
	newest, err := found(s.currentStored(ctx, stored(r.Resource), r.Namespace, r.Name))
	if err == nil && revision(newest) != revision(entry) {
		err = apierrors.NewConflict(r.Resource.GroupResource(), r.Name, errModified)
	}
	return err
}

// found turns NotFound into no entry.
func found(entry *cache.Entry, err error) (*cache.Entry, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return entry, err
}

// revision of an entry; 0: there is none.
func revision(entry *cache.Entry) int64 {
	if entry == nil {
		return 0
	}
	return entry.Revision()
}

// replace judges and stores the next version of an object, of which entry is
// the current one.
func (s *Server) replace(ctx context.Context, r *Request, entry *cache.Entry, c change) (*Result, error) {
	row, old := stored(r.Resource), entry.Object()
	if old == nil {
		return nil, apierrors.NewInternalError(entry.Err())
	}
	obj, err := c.make(entry, old)
	if err != nil {
		return nil, err
	}
	if err := matchNamespace(r, obj); err != nil {
		return nil, err
	}
	if err := matchName(r, obj); err != nil {
		return nil, err
	}
	w := s.judged(r, "update", obj, old)
	if err := s.admission.Mutate(ctx, w); err != nil {
		return nil, err
	}
	dedupOwners(r, obj, afterAdmission)
	row.Kind.Default(obj)
	if err := matchVersion(r.Resource, obj, old); err != nil {
		return nil, err
	}
	row.KeepUntouchable(r.Subresource, obj, old)
	if err := s.plan(ctx, r, obj, old); err != nil {
		return nil, err
	}
	if err := invalid(row, obj.GetName(), r.Resource.ValidateChange(r.Subresource, obj, old)); err != nil {
		return nil, err
	}
	s.warnAbout(r, row, obj, old)
	taken, err := s.allocate(ctx, r, obj, old)
	if err != nil {
		return nil, err
	}
	defer taken.settle()
	revertTimes(obj, old)
	if err := s.admission.Validate(ctx, w); err != nil {
		return nil, err
	}
	if released(row, obj, old) {
		return s.finish(ctx, r, entry, obj)
	}
	if r.Write.DryRun {
		return &Result{Object: shownObject(r.Resource, obj)}, s.confirm(ctx, r, entry)
	}
	row.Kind.Default(obj) // fields that were reset since have theirs when they are read
	next, err := s.put(ctx, row, obj, s.condition(r, row, entry.Revision()))
	if err != nil {
		undo(ctx, w, err)
		taken.unknown(err)
		return nil, err
	}
	taken.keep()
	s.quotas.note(next, row)
	return &Result{Entry: next.As(r.Resource)}, nil
}

// released tells whether this write takes away the last thing that an object
// which is being deleted was kept for.
func released(row *api.Resource, obj, old api.Object) bool {
	if old.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 || !finalized(obj) {
		return false
	}
	grace := old.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// finish deletes an object whose last finalizer is gone. The client is given the
// object as it wrote it.
func (s *Server) finish(ctx context.Context, r *Request, entry *cache.Entry, obj api.Object) (*Result, error) {
	row := stored(r.Resource)
	if !r.Write.DryRun {
		_, err := s.remove(ctx, row, entry, s.condition(r, row, entry.Revision()))
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		s.releaseAll(ctx, entry.Object())
	}
	return &Result{Object: shownObject(r.Resource, obj)}, nil
}

// createAbsent creates the object that an update or an apply patch did not find,
// if the client may create it.
func (s *Server) createAbsent(ctx context.Context, r *Request, c change) (*Result, error) {
	obj, err := c.absent()
	if err != nil {
		return nil, err
	}
	if err := matchNamespace(r, obj); err != nil {
		return nil, err
	}
	if err := matchName(r, obj); err != nil {
		return nil, err
	}
	asCreate := *r
	asCreate.Verb = "create"
	if err := s.authorize(ctx, &asCreate); err != nil {
		return nil, err
	}
	wipe(obj)
	obj.SetResourceVersion("")
	result, err := s.insert(ctx, r, obj)
	if result != nil {
		result.Code = http.StatusCreated
	}
	return result, err
}
