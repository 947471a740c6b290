package store

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// run implements body. It watches etcd's store itself, not through a client, which
// would keep any number of events in memory for a reader that does not read.
func (b *embedded) run(ctx context.Context, f *follow) error {
	stream := b.server.Watchable().NewWatchStream()
	defer stream.Close()
	first, end := []byte(f.prefix), []byte(afterPrefix(f.prefix))
	if f.prefix == "" {
		first, end = []byte{0}, []byte{}
	} else if string(end) == "\x00" {
		end = []byte{} // the prefix is all 0xff
	}
	id, err := stream.Watch(ctx, clientv3.AutoWatchID, first, end, f.next)
	if err != nil {
		return err
	}
	// etcd answers a request for progress only if the watch has caught up and its
	// channel has room, so an unanswered one is repeated.
	again := time.NewTimer(0)
	<-again.C
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-stream.Chan():
			batch, compacted := b.gather(stream, r)
			f.send(ctx, batch)
			if compacted {
				return ErrCompacted
			}
		case <-f.nudge:
			again.Reset(0)
		case <-again.C:
			if f.behind() {
				stream.RequestProgress(id)
				again.Reset(progressRetry)
			}
		}
	}
}

// gather makes one batch of a response and of what else is there already, and says
// whether the watch ends there, because what follows is compacted.
func (b *embedded) gather(stream mvcc.WatchStream, r mvcc.WatchResponse) (Batch, bool) {
	var all []*mvccpb.Event
	progress := int64(0)
	for {
		mvcc.ReportEventReceived(len(r.Events))
		all = append(all, r.Events...)
		if len(r.Events) == 0 {
			progress = r.Revision
		}
		more := false
		if r.CompactRevision == 0 && len(all) < maxBatch {
			select {
			case r, more = <-stream.Chan():
			default:
			}
		}
		if more {
			continue
		}
		batch := batchOf(all, b.previous)
		if r.CompactRevision == 0 {
			batch.Revision = max(batch.Revision, progress)
		}
		return batch, r.CompactRevision != 0
	}
}

const progressRetry = 20 * time.Millisecond

// previous returns the state of the event's key before it.
func (b *embedded) previous(e *mvccpb.Event) *mvccpb.KeyValue {
	read := b.server.KV().Read(mvcc.SharedBufReadTxMode, traceutil.TODO())
	defer read.End()
	r, err := read.Range(context.Background(), e.Kv.Key, nil, mvcc.RangeOptions{Rev: e.Kv.ModRevision - 1})
	if err != nil || len(r.KVs) == 0 {
		return nil // compacted, or there was none
	}
	return r.KVs[0]
}
