// Package store keeps opaque values under one revision counter: in etcd
// (embedded or external) or in memory. Only apiserver opens it. It never looks
// inside a value, and it never writes two keys at one revision.
//
// Keys are the caller's. The store knows only that they are not empty and that
// they are ordered as bytes. Skiff's are those of Kubernetes, so that either can
// be pointed at the other's etcd:
//
//	/registry/<resource>/<name>                   of no namespace
//	/registry/<resource>/<namespace>/<name>       in a namespace
//	/registry/<group>/<resource>/…                custom resources
//
// with the irregular prefixes that the catalogue names. A prefix given to List or
// Watch is compared as bytes too: it should end in a slash, or "/registry/pods"
// finds "/registry/podsecurity…" as well.
//
// What runs: a goroutine per watch; in Etcd, one that reaps keys whose time is
// over; in embedded etcd, its own. Close ends all of them. No lock of this package
// is ever taken while another is held, but gate's, which is taken last.
package store

import (
	"context"
	"errors"
	"time"
)

// Store is a map from keys to values in which every write has a revision of its
// own. Revisions start at 1 and only grow. All methods are safe for concurrent
// use.
type Store interface {
	// Get returns the value at key. It is linearizable. ErrNotFound: no such key.
	Get(ctx context.Context, key string) (Entry, error)

	// List returns the entries whose keys begin with prefix and are not less
	// than from ("" means prefix), in key order, at most limit of them (0: all).
	// at 0 reads the newest state, linearizably; another value reads exactly
	// that revision, or fails with ErrCompacted or ErrFuture.
	List(ctx context.Context, prefix, from string, limit int, at int64) (Page, error)

	// Put writes value at key if the condition holds, durably, and returns the
	// revision of the write. ErrConflict: the condition did not hold. ErrFenced:
	// the fence did not hold. ErrUnknown: it is not known whether it was written.
	Put(ctx context.Context, key string, value []byte, c Condition) (revision int64, err error)

	// Delete removes key if the condition holds and returns the revision of the
	// deletion. ErrNotFound: there is no such key (and Condition.Revision was
	// Any). Other errors as Put's.
	Delete(ctx context.Context, key string, c Condition) (revision int64, err error)

	// Watch follows all changes under prefix with a revision greater than after,
	// in revision order, without gap or duplicate, until ctx ends. The channel is
	// closed when the watch ends; then Watcher.Err says why (ErrCompacted, …).
	Watch(ctx context.Context, prefix string, after int64) *Watcher

	// Revision returns the newest committed revision. It is linearizable: it is
	// not less than the revision of any write acknowledged before the call.
	Revision(ctx context.Context) (int64, error)

	// Compact forgets history before revision.
	Compact(ctx context.Context, revision int64) error

	// Close stops the store; it waits until nothing of it runs.
	Close() error
}

// Entry is a value and where in history it was written.
type Entry struct {
	Key      string
	Value    []byte // never changed by anyone after it is returned
	Revision int64  // of its last write
	Created  int64  // revision of the write that created the key
}

// Page is part of a list, all of one revision.
type Page struct {
	Entries  []Entry
	Revision int64 // the state that was read
	More     bool  // limit cut the list
	Total    int64 // keys in the range from `from`, those not returned included
}

// Any, as Condition.Revision, means that the key's state does not matter.
const Any int64 = -1

// Condition says when a write may happen; all of it is compared in the write's
// own transaction.
type Condition struct {
	// Revision that the key must have: 0 means that it must not exist, Any that
	// it does not matter.
	Revision int64
	// Fence: if its Key is not empty, that key must be at that revision too
	// (a leader's epoch: a deposed leader's write is refused with ErrFenced).
	Fence Fence
	// TTL after which the key is removed by the store itself; 0 means never.
	// The store may round it up by as much as a minute.
	TTL time.Duration
}

// Fence names a key and the revision at which it must be.
type Fence struct {
	Key      string
	Revision int64
}

// Event is one change.
type Event struct {
	Key              string
	Value            []byte // nil: the key was deleted
	Revision         int64  // of the change
	Created          int64  // revision that created the key; == Revision: it was created
	Previous         []byte // the value before, nil if there was none (or it is compacted)
	PreviousRevision int64  // revision of Previous, 0 if there was none
}

// Watcher is a running watch.
type Watcher struct {
	// C carries batches of events. A batch never ends in the middle of a
	// revision. An empty batch with a Revision says that all up to it was sent.
	C <-chan Batch
	// err is set before C is closed.
	err error
}

// Err says why the watch ended, once C is closed.
func (w *Watcher) Err() error { return w.err }

// Batch is some consecutive events.
type Batch struct {
	Events   []Event
	Revision int64 // everything under the prefix up to here has been sent
}

// The errors that callers tell apart, with errors.Is.
var (
	ErrNotFound  = errors.New("key not found")
	ErrConflict  = errors.New("the key is not at the expected revision")
	ErrFenced    = errors.New("the writer's epoch is over")
	ErrCompacted = errors.New("the revision has been compacted")
	ErrFuture    = errors.New("the revision is in the future")
	ErrUnknown   = errors.New("it is not known whether the write happened")
	ErrNoSpace   = errors.New("the store is full")
	ErrTooLarge  = errors.New("the value is larger than the store takes")
	ErrBusy      = errors.New("too many writes are waiting in the store")
	ErrClosed    = errors.New("the store is closed")
)
