package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

// put stores obj under its namespace and name if cond holds, and returns its
// entry, resourceVersion set. It takes obj over: the caller must not touch it
// afterwards. It does not wait until the cache has it. A write that changes
// nothing (cond names the current revision, and the bytes are the same) is not
// made: the current entry is returned.
//
// Errors are Status errors: AlreadyExists (cond.Revision 0), Conflict, Timeout
// (it is not known whether it was written), RequestEntityTooLarge, and 507.
func (s *Server) put(ctx context.Context, r *api.Resource, obj api.Object, cond store.Condition) (*cache.Entry, error) {
	t := s.table(r)
	if t == nil {
		return nil, apierrors.NewMethodNotSupported(r.GroupResource(), "create")
	}
	name := obj.GetName()
	d, err := t.DepositAs(r, obj)
	if err != nil {
		if r.Custom != nil {
			return nil, err // the conversion's own
		}
		return nil, apierrors.NewInternalError(err)
	}
	if same, err := s.unchanged(ctx, t, d, cond); same != nil || err != nil {
		d.Abort()
		return same, err
	}
	revision, err := s.store.Put(ctx, d.Key(), d.Value, cond)
	if err != nil {
		d.Abort()
		return nil, writeError(r, name, cond, err)
	}
	entry, err := d.Commit(revision)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	s.defined(ctx, r, revision)
	return entry, nil
}

// defined holds back the answer to a write of a definition until this server serves
// what it says: who defines a resource, or changes its schema, uses it next.
func (s *Server) defined(ctx context.Context, r *api.Resource, revision int64) {
	if r == definitionRow {
		_ = s.notOlderThan(ctx, revision) // it is written, whatever comes of this
	}
}

// unchanged returns the current entry if cond names it and d would not change
// it. The cache's word is enough to see that it might be so, not to say that it is.
func (s *Server) unchanged(ctx context.Context, t *cache.Table, d *cache.Deposit, cond store.Condition) (*cache.Entry, error) {
	if cond.Revision <= 0 || cond.TTL != 0 {
		return nil, nil
	}
	seen, ok := t.Newest(d.Namespace(), d.Name())
	if !ok || seen.Revision() < cond.Revision {
		// Somebody else wrote what is to be replaced. The cache lags behind by the
		// way from the store, no more; if it does not get there, the store will
		// say what is wrong.
		if err := s.notOlderThan(ctx, cond.Revision); err != nil {
			return nil, ctx.Err()
		}
		seen, ok = t.Get(d.Namespace(), d.Name())
	}
	if !ok || seen.Revision() != cond.Revision || !d.Same(seen) {
		return nil, nil
	}
	if err := s.fresh(ctx); err != nil {
		return nil, err
	}
	if now, ok := t.Get(d.Namespace(), d.Name()); ok && now.Revision() == cond.Revision {
		return now, nil
	}
	return nil, nil // changed meanwhile: let the store refuse it
}

// remove deletes the object of entry if cond holds and returns what it was,
// with the deletion's revision. Errors as put's, and NotFound.
func (s *Server) remove(ctx context.Context, r *api.Resource, entry *cache.Entry, cond store.Condition) (*cache.Entry, error) {
	revision, err := s.store.Delete(ctx, entry.Key(), cond)
	if err != nil {
		return nil, writeError(r, entry.Name(), cond, err)
	}
	s.defined(ctx, r, revision)
	return entry.At(revision), nil
}

// current returns the newest known state of an object for a read-modify-write
// whose put names its revision; NotFound if there is none. It is optimistic: it
// takes the cache's word for what exists. After a conflict call currentStored.
func (s *Server) current(ctx context.Context, r *api.Resource, namespace, name string) (*cache.Entry, error) {
	if t := s.table(r); t != nil {
		if entry, ok := t.Newest(namespace, name); ok {
			return sound(entry.As(r))
		}
	}
	return s.currentStored(ctx, r, namespace, name)
}

// currentStored is current, linearizably.
func (s *Server) currentStored(ctx context.Context, r *api.Resource, namespace, name string) (*cache.Entry, error) {
	t := s.table(r)
	if t == nil {
		return nil, apierrors.NewMethodNotSupported(r.GroupResource(), "get")
	}
	stored, err := s.store.Get(ctx, t.Resource().Key(namespace, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, apierrors.NewNotFound(r.GroupResource(), name)
	}
	if err != nil {
		return nil, readError(r, "get", err)
	}
	entry, ok := t.Get(namespace, name)
	if !ok || entry.Revision() != stored.Revision {
		entry = t.Read(stored)
	}
	return sound(entry.As(r))
}

// sound returns the entry, or why it cannot be read.
func sound(e *cache.Entry) (*cache.Entry, error) {
	if err := e.Err(); err != nil {
		if e.Resource().Custom != nil {
			return nil, err // the conversion's own
		}
		return nil, apierrors.NewInternalError(fmt.Errorf("unable to decode the stored object %s: %w", e.Key(), err))
	}
	return e, nil
}

// patience is how long a read waits for the cache to reach a revision.
const patience = 3 * time.Second

// fresh waits until the cache holds every write that was acknowledged before
// the call, by whichever server: a read after it is linearizable.
func (s *Server) fresh(ctx context.Context) error {
	revision, err := s.store.Revision(ctx)
	if err != nil {
		return readError(nil, "read", err)
	}
	return s.notOlderThan(ctx, revision)
}

// notOlderThan waits until the cache is at a revision.
func (s *Server) notOlderThan(ctx context.Context, revision int64) error {
	if s.cache.Revision() >= revision {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.cache.WaitFor(limited, revision); err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return tooLarge(revision, s.cache.Revision())
}

// tooLarge is the error for a revision that does not exist yet.
func tooLarge(wanted, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

// errModified is what clients look for when two writes met.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// writeError turns the store's refusal of a write into a Status.
func writeError(r *api.Resource, name string, cond store.Condition, err error) error {
	switch {
	case errors.Is(err, store.ErrConflict) && cond.Revision == 0:
		return apierrors.NewAlreadyExists(r.GroupResource(), name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(r.GroupResource(), name, errModified)
	case errors.Is(err, store.ErrFenced):
		return apierrors.NewConflict(r.GroupResource(), name, errors.New("the epoch of leadership in which the write was decided is over"))
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(r.GroupResource(), name)
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the object is larger than the store takes: %v", err))
	case errors.Is(err, store.ErrNoSpace):
		return full(err)
	}
	// Once a write is under way no error of the store or of ctx says that it
	// did not happen.
	return apierrors.NewTimeoutError(fmt.Sprintf("it is not known whether the write happened, read before trying again: %v", err), 0)
}

// full is answered when nothing can be stored any more.
func full(err error) error {
	status := apierrors.NewInternalError(err)
	status.ErrStatus.Code = http.StatusInsufficientStorage
	return status
}

// readError turns the store's failure to read into a Status.
func readError(r *api.Resource, verb string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if r == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the store does not answer: %v", err))
	}
	status := apierrors.NewServerTimeout(r.GroupResource(), verb, 2)
	status.ErrStatus.Message += ": " + err.Error()
	return status
}
