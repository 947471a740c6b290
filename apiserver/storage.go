package apiserver

import (
	"context"

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
	panic("being written")
}

// remove deletes the object of entry if cond holds and returns what it was,
// with the deletion's revision. Errors as put's, and NotFound.
func (s *Server) remove(ctx context.Context, r *api.Resource, entry *cache.Entry, cond store.Condition) (*cache.Entry, error) {
	panic("being written")
}

// current returns the newest known state of an object for a read-modify-write
// whose put names its revision; NotFound if there is none. It is optimistic: it
// takes the cache's word. After a conflict call currentStored.
func (s *Server) current(ctx context.Context, r *api.Resource, namespace, name string) (*cache.Entry, error) {
	panic("being written")
}

// currentStored is current, linearizably.
func (s *Server) currentStored(ctx context.Context, r *api.Resource, namespace, name string) (*cache.Entry, error) {
	panic("being written")
}

// fresh waits until the cache holds every write that was acknowledged before
// the call, by whichever server: a read after it is linearizable.
func (s *Server) fresh(ctx context.Context) error { panic("being written") }
