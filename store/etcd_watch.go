package store

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// follow is a watch on etcd while it runs.
type follow struct {
	prefix string
	next   int64 // the revision to begin with
	out    chan<- Batch

	sent   atomic.Int64  // everything up to here was sent
	wanted atomic.Int64  // somebody waits until sent is here
	nudge  chan struct{} // wanted has grown beyond sent; holds one
}

// Watch implements Store.
func (e *Etcd) Watch(ctx context.Context, prefix string, after int64) *Watcher {
	return watch(ctx, e.gate, func(ctx context.Context, out chan<- Batch) error {
		f := &follow{prefix: prefix, next: max(after, 0) + 1, out: out, nudge: make(chan struct{}, 1)}
		f.sent.Store(f.next - 1)
		e.mu.Lock()
		e.follows[f] = struct{}{}
		e.mu.Unlock()
		defer func() {
			e.mu.Lock()
			delete(e.follows, f)
			e.mu.Unlock()
		}()
		if err := e.body.run(ctx, f); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch %s from revision %d: %w", prefix, f.sent.Load()+1, readError(err))
		}
		return context.Cause(ctx)
	})
}

// want asks for a batch, be it an empty one, that is not older than revision.
func (f *follow) want(revision int64) {
	if f.sent.Load() >= revision {
		return
	}
	for {
		was := f.wanted.Load()
		if was >= revision || f.wanted.CompareAndSwap(was, revision) {
			break
		}
	}
	select {
	case f.nudge <- struct{}{}:
	default:
	}
}

// behind says whether somebody waits for a revision that was not sent yet.
func (f *follow) behind() bool { return f.sent.Load() < f.wanted.Load() }

// send hands a batch over, unless it says nothing new.
func (f *follow) send(ctx context.Context, b Batch) {
	if b.Revision <= f.sent.Load() {
		return
	}
	select {
	case f.out <- b:
		f.sent.Store(b.Revision)
	case <-ctx.Done():
	}
}

// batchOf converts events; previous returns the state before an event, nil if
// there was none or it is not known any more.
func batchOf(events []*mvccpb.Event, previous func(*mvccpb.Event) *mvccpb.KeyValue) Batch {
	b := Batch{Events: make([]Event, len(events))}
	for i, etcds := range events {
		kv := etcds.Kv
		e := Event{Key: string(kv.Key), Revision: kv.ModRevision, Created: kv.CreateRevision}
		if etcds.Type == mvccpb.Event_PUT {
			e.Value = present(kv.Value)
		}
		if e.Created != e.Revision {
			if p := previous(etcds); p != nil {
				e.Created, e.Previous, e.PreviousRevision = p.CreateRevision, present(p.Value), p.ModRevision
			}
		}
		b.Events[i] = e
	}
	// Not the revision that etcd's answer names: it can be ahead of its events.
	if n := len(events); n > 0 {
		b.Revision = events[n-1].Kv.ModRevision
	}
	return b
}

func entryOf(kv *mvccpb.KeyValue) Entry {
	return Entry{Key: string(kv.Key), Value: present(kv.Value), Revision: kv.ModRevision, Created: kv.CreateRevision}
}

// present is value, but never nil: that would mean that there is none.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// previousOf is what etcd has sent along with the event.
func previousOf(e *mvccpb.Event) *mvccpb.KeyValue { return e.PrevKv }
