package apiserver

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/api"
	"skiff/cache"
)

// Watch is a stream of one resource's events. One goroutine reads it.
type Watch struct {
	Resource *api.Resource
}

// WatchEvent is one frame of a watch.
type WatchEvent struct {
	Type watch.EventType
	// Entry is the object of ADDED, MODIFIED and DELETED (a deleted one has the
	// revision of the deletion).
	Entry *cache.Entry
	// Revision of a BOOKMARK.
	Revision int64
	// Initial marks the BOOKMARK that ends the initial events.
	Initial bool
	// Status of an ERROR.
	Status *metav1.Status
}

// watch answers GET with watch=true.
func (s *Server) watch(ctx context.Context, r *Request) (*Result, error) { panic("being written") }

// Next waits for events and returns them in order, never none. It returns
// io.EOF when the watch is over (its time is up, or ctx ended); a watch that
// failed ends with an ERROR event first.
func (w *Watch) Next(ctx context.Context) ([]WatchEvent, error) { panic("being written") }

// Close ends the watch. It may be called more than once.
func (w *Watch) Close() {}
