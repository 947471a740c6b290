package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/api"
	"skiff/cache"
)

// Watch is a stream of one resource's events. One goroutine reads it.
type Watch struct {
	Resource *api.Resource

	selection selection
	watcher   *cache.Watcher
	bookmarks bool
	replaced  <-chan struct{} // closed when Resource is no longer served as it is; nil: it always is
	end       *time.Timer     // when the watch's time is up
	mark      *time.Ticker

	// initial are the objects that were there at the beginning, told as ADDED; nil
	// when that is done. upTo is their state.
	initial func() (*cache.Entry, bool)
	begun   func() // called when the initial events are told, or the watch ends before
	forget  func() // gives initial's resources back
	left    func() // gives the watch's place back
	upTo    int64
	tooOld  error // why there is no watcher

	over   bool  // the next call returns io.EOF
	marked int64 // revision of the last bookmark
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

// Times of a watch. A client that names no timeout gets a random one, so that
// clients do not come back all at once.
const (
	bookmarkEvery   = time.Minute
	shortestDefault = 30 * time.Minute
)

// watch answers GET with watch=true.
func (s *Server) watch(ctx context.Context, r *Request) (*Result, error) {
	t := s.table(r.Resource)
	if t == nil {
		return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), "watch")
	}
	selected, err := parseSelection(r, t)
	if err != nil {
		return nil, err
	}
	w := &Watch{Resource: r.Resource, selection: selected, bookmarks: r.ListOptions.AllowWatchBookmarks, forget: nothing, left: nothing}
	if r.Resource.Custom != nil {
		w.replaced = r.Resource.Custom.Replaced
	}
	if err := s.startWatch(ctx, w, r.ListOptions); err != nil {
		return nil, err
	}
	begun := Request{leaves: r.leaves}
	w.begun = begun.leave
	if r.place != nil {
		w.left = r.place
	}
	r.leaves, r.place = nil, nil // the watch keeps its seats until it has begun, its place as long as it is
	if w.initial == nil {
		w.begun()
	}
	w.end = time.NewTimer(watchTime(r.ListOptions.TimeoutSeconds))
	w.mark = time.NewTicker(bookmarkEvery)
	return &Result{Watch: w}, nil
}

func watchTime(seconds *int64) time.Duration {
	if seconds != nil && *seconds > 0 {
		return time.Duration(min(*seconds, 1<<31)) * time.Second
	}
	return shortestDefault + rand.N(shortestDefault)
}

// startWatch begins where the options say:
//
//	resourceVersion   sendInitialEvents   state          initial events
//	"" or 0           not set, true       newest, any    ADDED for all that is
//	"" or 0           false               newest, any    none
//	N                 true                not before N   ADDED for all that is
//	N                 not set, false      N              what happened since N
func (s *Server) startWatch(ctx context.Context, w *Watch, o metav1.ListOptions) error {
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return err
	}
	fromState := revision == 0 || o.SendInitialEvents != nil && *o.SendInitialEvents
	if !fromState {
		return s.watchAfter(w, revision)
	}
	if err := s.reach(ctx, o.ResourceVersion); err != nil {
		return err
	}
	watcher, states := s.cache.WatchFromNow(w.selection.interest())
	w.watcher = watcher
	if o.SendInitialEvents == nil || *o.SendInitialEvents {
		p := part{selection: &w.selection}
		p.take(states[0])
		w.initial, w.forget = iter.Pull(p.showing(p.entries, initialBatch, func() bool { return false }))
		w.upTo = states[0].Revision
	}
	return nil
}

// watchAfter begins after a revision. If that is too old, the watch is there, and
// says so in its first event.
func (s *Server) watchAfter(w *Watch, revision int64) error {
	watcher, err := s.cache.Watch(revision, w.selection.interest())
	w.watcher = watcher
	if errors.Is(err, cache.ErrTooOld) {
		w.watcher, w.tooOld = nil, err
		return nil
	}
	return err
}

// Next waits for events and returns them in order, never none. It returns
// io.EOF when the watch is over (its time is up, or ctx ended); a watch that
// failed ends with an ERROR event first.
func (w *Watch) Next(ctx context.Context) ([]WatchEvent, error) {
	for {
		events := w.now()
		if len(events) > 0 {
			return events, nil
		}
		if w.over {
			return nil, io.EOF
		}
		select {
		case <-w.watcher.Wake():
		case <-w.mark.C:
			if events := w.bookmark(); len(events) > 0 {
				return events, nil
			}
		case <-w.end.C:
			events := w.bookmark()
			w.over = true
			if len(events) > 0 {
				return events, nil
			}
		case <-w.replaced:
			w.over = true // a custom resource that is defined otherwise now: its clients come back
		case <-ctx.Done():
			w.over = true
		}
	}
}

// initialBatch is how many of the initial events are handed out at a time.
const initialBatch = 500

// now returns what there is without waiting.
func (w *Watch) now() []WatchEvent {
	switch {
	case w.over:
		return nil
	case w.watcher == nil:
		return w.fail(expiredWatch(w.tooOld))
	case w.initial != nil:
		return w.nextInitial()
	}
	events, _ := w.taken()
	return events
}

// taken returns the selected events since the last call, and the revision up to
// which they are complete.
func (w *Watch) taken() ([]WatchEvent, int64) {
	taken, err := w.watcher.Take()
	if err != nil {
		return w.fail(expiredWatch(err)), 0
	}
	var events []WatchEvent
	for _, e := range taken.Events {
		event, err := w.selection.event(e)
		if err != nil {
			return append(events, w.fail(err)...), 0
		}
		if event.Entry != nil {
			if events == nil {
				events = make([]WatchEvent, 0, len(taken.Events))
			}
			events = append(events, event)
		}
	}
	return events, taken.Revision
}

// event is what the selection sees of a change: an object that leaves it is
// deleted, one that enters it is added. No Entry: it sees nothing.
func (s *selection) event(e *cache.Event) (WatchEvent, error) {
	var before, now *cache.Entry
	if e.Old != nil && e.Old.Err() == nil {
		before = s.pick(e.Old)
	}
	if e.New != nil {
		if now = s.pick(e.New); now != nil {
			if _, err := sound(now); err != nil {
				return WatchEvent{}, err
			}
		}
	}
	switch {
	case now != nil && before == nil:
		return WatchEvent{Type: watch.Added, Entry: now}, nil
	case now != nil:
		return WatchEvent{Type: watch.Modified, Entry: now}, nil
	case before != nil:
		return WatchEvent{Type: watch.Deleted, Entry: e.Gone().As(s.row)}, nil
	}
	return WatchEvent{}, nil
}

// nextInitial returns some of the initial events, and a bookmark after the last.
func (w *Watch) nextInitial() []WatchEvent {
	events := make([]WatchEvent, 0, initialBatch)
	for len(events) < initialBatch {
		e, ok := w.initial()
		if !ok {
			w.initial = nil
			w.begun()
			if w.bookmarks {
				w.marked = w.upTo
				events = append(events, WatchEvent{Type: watch.Bookmark, Revision: w.upTo, Initial: true})
			}
			break
		}
		picked := w.selection.pick(e)
		if picked == nil {
			continue
		}
		if _, err := sound(picked); err != nil {
			return append(events, w.fail(err)...)
		}
		events = append(events, WatchEvent{Type: watch.Added, Entry: picked})
	}
	return events
}

// bookmark returns what there is and, if the client wants them, a bookmark, which
// nothing older follows.
func (w *Watch) bookmark() []WatchEvent {
	events, revision := w.taken()
	if !w.bookmarks || w.over || w.marked == revision {
		return events
	}
	w.marked = revision
	return append(events, WatchEvent{Type: watch.Bookmark, Revision: revision})
}

// fail ends the watch with an error.
func (w *Watch) fail(err error) []WatchEvent {
	w.over = true
	return []WatchEvent{{Type: watch.Error, Status: statusOf(err)}}
}

func expiredWatch(err error) error {
	var old *cache.TooOldError
	if !errors.As(err, &old) {
		return err
	}
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", old.Revision, old.Oldest))
}

// Close ends the watch. It may be called more than once.
func (w *Watch) Close() {
	w.over = true
	w.begun()
	w.left()
	w.forget()
	if w.watcher != nil {
		w.watcher.Stop()
	}
	w.end.Stop()
	w.mark.Stop()
}
