package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/api"
)

// Follow implements Client: each source is listed and watched by a goroutine of
// its own, and one more puts together what they find.
func (c *remote) Follow(ctx context.Context, sources ...Source) *Feed {
	out := make(chan Batch)
	found := make(chan find)
	var running sync.WaitGroup
	for i, source := range sources {
		f := &follower{client: c, source: source, number: i, found: found, known: map[place]api.Object{}}
		running.Go(func() { f.run(ctx) })
	}
	go func() {
		defer close(out)
		merge(ctx, len(sources), found, out)
		running.Wait()
	}()
	return &Feed{C: out}
}

// find is what one source has to tell.
type find struct {
	source   int
	changes  []Change
	revision int64 // up to which the source is complete
}

// merge delivers what the sources find: nothing until each has its snapshot,
// then everything as it comes.
func merge(ctx context.Context, sources int, found <-chan find, out chan<- Batch) {
	revisions := make(map[int]int64, sources)
	var first Batch
	for len(revisions) < sources {
		f, ok := next(ctx, found)
		if !ok {
			return
		}
		revisions[f.source] = f.revision
		first.Changes = append(first.Changes, f.changes...)
	}
	first.Revision = oldest(revisions)
	if !deliver(ctx, out, first) {
		return
	}
	for {
		f, ok := next(ctx, found)
		if !ok {
			return
		}
		revisions[f.source] = max(revisions[f.source], f.revision)
		if !deliver(ctx, out, Batch{Changes: f.changes, Revision: oldest(revisions)}) {
			return
		}
	}
}

func next(ctx context.Context, found <-chan find) (find, bool) {
	select {
	case f := <-found:
		return f, true
	case <-ctx.Done():
		return find{}, false
	}
}

func deliver(ctx context.Context, out chan<- Batch, b Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

func oldest(revisions map[int]int64) int64 {
	first := true
	var least int64
	for _, r := range revisions {
		if first || r < least {
			first, least = false, r
		}
	}
	return least
}

// follower lists and watches one source.
type follower struct {
	client *remote
	source Source
	number int
	found  chan<- find

	known   map[place]api.Object // what was delivered
	version string               // resourceVersion up to which known is complete; "": list first
}

type place struct{ namespace, name string }

func placeOf(obj api.Object) place { return place{obj.GetNamespace(), obj.GetName()} }

// Pauses between attempts, and how long a watch lasts: as client-go's reflectors.
const (
	shortPause = 100 * time.Millisecond
	longPause  = 10 * time.Second
	watchLasts = 5 * time.Minute
)

// run follows until ctx ends. Errors are waited out: the server may be away, or
// the right to read may come later.
func (f *follower) run(ctx context.Context) {
	for pause := shortPause; ctx.Err() == nil; {
		progress, err := f.step(ctx)
		if progress {
			pause = shortPause
		}
		if err == nil && progress {
			continue
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			f.version = "" // the difference is found by listing
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			pause = max(pause, time.Duration(seconds)*time.Second)
		}
		wait := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
		pause = min(2*pause, longPause)
	}
}

// step lists, or watches until the watch ends. It tells whether it got anything.
func (f *follower) step(ctx context.Context) (progress bool, err error) {
	if f.version == "" {
		return f.list(ctx)
	}
	return f.watch(ctx)
}

// list finds the difference between what is and what was delivered.
func (f *follower) list(ctx context.Context) (bool, error) {
	o := ListOptions{Namespace: f.source.Namespace, Labels: f.source.Labels, Fields: f.source.Fields}
	objs, version, err := f.client.List(ctx, f.source.Resource, o)
	if err != nil {
		return false, err
	}
	revision := revisionOf(version)
	now := make(map[place]api.Object, len(objs))
	var gone, changes []Change
	for _, obj := range objs {
		now[placeOf(obj)] = obj
		changes = f.appendChange(changes, obj)
	}
	for at, old := range f.known {
		if now[at] == nil {
			gone = append(gone, Change{Resource: f.source.Resource, Old: old, Revision: revision})
		}
	}
	if !f.tell(ctx, append(gone, changes...), revision) {
		return false, ctx.Err()
	}
	f.known, f.version = now, version
	return true, nil
}

// appendChange appends what leads from the known object of that name to obj, and
// does not yet make obj known.
func (f *follower) appendChange(to []Change, obj api.Object) []Change {
	change := Change{Resource: f.source.Resource, Old: f.known[placeOf(obj)], New: obj, Revision: revisionOf(obj.GetResourceVersion())}
	switch {
	case change.Old == nil:
	case change.Old.GetResourceVersion() == obj.GetResourceVersion():
		return to
	case change.Old.GetUID() != obj.GetUID():
		to = append(to, Change{Resource: change.Resource, Old: change.Old, Revision: change.Revision})
		change.Old = nil
	}
	return append(to, change)
}

// watch follows the changes after version.
func (f *follower) watch(ctx context.Context) (progress bool, err error) {
	q, err := f.client.request(http.MethodGet, f.source.Resource, f.source.Namespace, "", "")
	if err != nil {
		return false, err
	}
	o := listOptions(ListOptions{Labels: f.source.Labels, Fields: f.source.Fields})
	seconds := int64((watchLasts + rand.N(watchLasts)).Seconds())
	o.Watch, o.ResourceVersion, o.AllowWatchBookmarks, o.TimeoutSeconds = true, f.version, true, &seconds
	w, err := q.VersionedParams(o, wire().parameters).Watch(ctx)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return progress, nil
			}
			if err := f.take(ctx, w, e); err != nil {
				return progress, err
			}
			progress = true
		case <-ctx.Done():
			return progress, nil
		}
	}
}

// atOnce is how many events are put into one batch at most.
const atOnce = 500

// take tells of an event, and of those that have come with it.
func (f *follower) take(ctx context.Context, w watch.Interface, e watch.Event) (err error) {
	var changes []Change
	for more := true; more && err == nil; {
		if changes, err = f.note(changes, e); err != nil || len(changes) >= atOnce {
			break
		}
		select {
		case e, more = <-w.ResultChan():
		default:
			more = false
		}
	}
	if !f.tell(ctx, changes, revisionOf(f.version)) {
		return ctx.Err()
	}
	return err
}

// note makes an event known and appends its change.
func (f *follower) note(to []Change, e watch.Event) ([]Change, error) {
	if e.Type == watch.Error {
		return to, apierrors.FromObject(e.Object)
	}
	obj, ok := e.Object.(api.Object)
	if !ok {
		return to, apierrors.FromObject(e.Object)
	}
	f.version = bare(obj).GetResourceVersion()
	at := placeOf(obj)
	switch e.Type {
	case watch.Added, watch.Modified:
		to = f.appendChange(to, obj)
		f.known[at] = obj
	case watch.Deleted:
		if old := f.known[at]; old != nil {
			to = append(to, Change{Resource: f.source.Resource, Old: old, Revision: revisionOf(f.version)})
			delete(f.known, at)
		}
	}
	return to, nil
}

func (f *follower) tell(ctx context.Context, changes []Change, revision int64) bool {
	select {
	case f.found <- find{f.number, changes, revision}:
		return true
	case <-ctx.Done():
		return false
	}
}

// revisionOf reads a resourceVersion as a number, which it is by the API's
// conventions since Kubernetes 1.35.
func revisionOf(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
