package apiserver

import (
	"context"
	"time"

	"skiff/api"
	"skiff/cache"
	"skiff/client"
)

// Follow implements client.Client. It counts as a list and a watch of each source.
func (c *inProcess) Follow(ctx context.Context, sources ...client.Source) *client.Feed {
	out := make(chan client.Batch)
	f := &follower{client: c, sources: sources, out: out}
	for _, source := range sources {
		t := c.server.table(source.Resource)
		if t == nil {
			panic("apiserver: Follow of " + source.Resource.String() + ", which is not stored") // a mistake in the program
		}
		selected := newSelection(source.Resource, t, source.Namespace, source.Labels, source.Fields)
		f.selections = append(f.selections, selected)
		f.interests = append(f.interests, selected.interest())
	}
	go func() {
		defer close(out)
		f.run(ctx)
	}()
	return &client.Feed{C: out}
}

// follower feeds one Follow.
type follower struct {
	client     *inProcess
	sources    []client.Source
	selections []selection // what sources mean
	interests  []cache.Interest
	out        chan<- client.Batch

	// delivered is the state of each selection's table that was delivered; nil
	// before the first batch. It costs nothing while nothing changes.
	delivered []cache.Snapshot
}

// run delivers until ctx ends. Each round starts from the state that is, and
// ends when the follower was too slow for the history.
func (f *follower) run(ctx context.Context) {
	s := f.client.server
	if s.cache.WaitReady(ctx) != nil {
		return
	}
	// The snapshot shows every write that was acknowledged before Follow.
	if !f.until(ctx, f.allowed) || !f.until(ctx, s.fresh) {
		return
	}
	for ctx.Err() == nil {
		f.round(ctx)
	}
}

// until tries a step until it works; false: ctx has ended.
func (f *follower) until(ctx context.Context, step func(context.Context) error) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := step(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.client.server.log.Warn("a component cannot follow what it needs", "component", f.client.name, "error", err, "again", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// allowed tells whether the client may list and watch all sources.
func (f *follower) allowed(ctx context.Context) error {
	for _, source := range f.sources {
		for _, verb := range []string{"list", "watch"} {
			r := f.client.request(verb, source.Resource, source.Namespace, "")
			if source.Labels != nil {
				r.ListOptions.LabelSelector = source.Labels.String()
			}
			if source.Fields != nil {
				r.ListOptions.FieldSelector = source.Fields.String()
				r.Name, _ = source.Fields.RequiresExactMatch("metadata.name") // one object by name: rights may be for it alone
			}
			done := f.client.server.audit.begin(r)
			err := f.client.server.authorize(ctx, r)
			done(&Result{}, err)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// round delivers the difference between what was delivered and what is (the
// first time: all of it), and then what changes.
func (f *follower) round(ctx context.Context) {
	watcher, states := f.client.server.cache.WatchFromNow(f.interests...)
	defer watcher.Stop()
	first := client.Batch{}
	for i := range f.selections {
		first.Revision = states[i].Revision
		first.Changes = f.difference(first.Changes, i, states[i])
	}
	if !f.send(ctx, first) {
		return
	}
	f.delivered = states
	for {
		select {
		case <-watcher.Wake():
		case <-ctx.Done():
			return
		}
		if !f.deliver(ctx, watcher) {
			return
		}
	}
}

// deliver sends what the watcher was told. Parts are put together until they are
// complete, so that delivered is always a state that was.
func (f *follower) deliver(ctx context.Context, watcher *cache.Watcher) bool {
	var batch client.Batch
	for {
		taken, err := watcher.Take()
		if err != nil {
			return false
		}
		for _, e := range taken.Events {
			for i := range f.selections {
				batch.Changes = f.selections[i].change(batch.Changes, e)
			}
		}
		batch.Revision = taken.Revision
		if !taken.Complete() {
			continue
		}
		if taken.Revision == f.delivered[0].Revision {
			return true
		}
		if !f.send(ctx, batch) {
			return false
		}
		for i := range f.delivered {
			f.delivered[i] = taken.Snapshot(f.selections[i].table)
		}
		return true
	}
}

func (f *follower) send(ctx context.Context, b client.Batch) bool {
	select {
	case f.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// change appends what the selection sees of an event.
func (s *selection) change(to []client.Change, e *cache.Event) []client.Change {
	if e.Table() != s.table {
		return to
	}
	return s.changed(to, e.Old, e.New, e.Revision)
}

// changed appends the change from one entry to another; either may be nil. What
// cannot be read is not there.
func (s *selection) changed(to []client.Change, before, now *cache.Entry, revision int64) []client.Change {
	change := client.Change{Resource: s.row, Old: s.object(before), New: s.object(now), Revision: revision}
	switch {
	case change.Old == nil && change.New == nil:
		return to
	case change.Old != nil && change.New != nil && change.Old.GetUID() != change.New.GetUID():
		gone := change
		gone.New, change.Old = nil, nil
		return append(to, gone, change)
	}
	return append(to, change)
}

// object returns the selected object of an entry, or nil.
func (s *selection) object(e *cache.Entry) api.Object {
	if e == nil || e.Err() != nil {
		return nil
	}
	if e = s.pick(e); e == nil || e.Err() != nil {
		return nil
	}
	return e.Object()
}

// difference appends what has changed in a selection from the delivered state to
// another one.
func (f *follower) difference(to []client.Change, i int, now cache.Snapshot) []client.Change {
	s := &f.selections[i]
	if f.delivered == nil {
		for e := range s.entries(now, place{}) {
			to = s.changed(to, nil, e, e.Revision())
		}
		return to
	}
	before := f.delivered[i]
	for old := range s.entries(before, place{}) {
		if s.object(old) == nil {
			continue
		}
		e, _ := now.Get(old.Namespace(), old.Name())
		switch {
		case e == nil:
			to = s.changed(to, old, nil, now.Revision)
		case e.Revision() != old.Revision():
			to = s.changed(to, old, e, e.Revision())
		}
	}
	for e := range s.entries(now, place{}) {
		old, _ := before.Get(e.Namespace(), e.Name())
		if old == nil || old.Revision() != e.Revision() && s.object(old) == nil {
			to = s.changed(to, nil, e, e.Revision())
		}
	}
	return to
}
