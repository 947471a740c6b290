package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// Etcd is a store in etcd, in this process (OpenEmbedded) or elsewhere
// (OpenExternal). Each write is a transaction of its own with one object in it,
// acknowledged after etcd has synced it to disk.
type Etcd struct {
	client *clientv3.Client
	body   body
	// reads is what makes a Get or List of the newest state linearizable: nothing
	// (etcd's default: the leader confirms that it still leads), or, in a lone
	// member, serializable reads. See lone in embedded.go for why that is enough.
	reads   []clientv3.OpOption
	gate    *gate
	leases  *leases
	closing sync.Once
	full    atomic.Bool // a write was refused for want of space since the last Compact

	mu      sync.Mutex
	follows map[*follow]struct{} // the watches that run
}

// body is what differs between etcd in this process and etcd elsewhere.
type body interface {
	// newest returns the newest committed revision, linearizably.
	newest(ctx context.Context) (int64, error)
	// run sends f's batches until ctx ends, and returns why it stopped.
	run(ctx context.Context, f *follow) error
	// reclaim gives space back to writers after a compaction, where the quota is
	// this process's own.
	reclaim(ctx context.Context) error
	// close ends the connection to etcd, or etcd. Calls that are under way fail.
	close() error
}

func newEtcd(client *clientv3.Client, b body, g *gate, logger *slog.Logger) *Etcd {
	return &Etcd{
		client:  client,
		body:    b,
		gate:    g,
		leases:  newLeases(client, logger),
		follows: map[*follow]struct{}{},
	}
}

// Get implements Store.
func (e *Etcd) Get(ctx context.Context, key string) (Entry, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	defer leave()
	r, err := e.client.Get(ctx, key, e.reads...)
	if err != nil {
		return Entry{}, fmt.Errorf("get %s: %w", key, readError(err))
	}
	if len(r.Kvs) == 0 {
		return Entry{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return entryOf(r.Kvs[0]), nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix, from string, limit int, at int64) (Page, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return Page{}, fmt.Errorf("list %s: %w", prefix, err)
	}
	defer leave()
	at = max(at, 0)
	options := append([]clientv3.OpOption{
		clientv3.WithRange(afterPrefix(prefix)),
		clientv3.WithLimit(int64(max(limit, 0))),
		clientv3.WithRev(at),
	}, e.reads...)
	start := max(prefix, from)
	if start == "" {
		start = "\x00" // the least key there can be
	}
	r, err := e.client.Get(ctx, start, options...)
	if err != nil {
		return Page{}, fmt.Errorf("list %s at revision %d: %w", prefix, at, readError(err))
	}
	page := Page{Revision: at, More: r.More, Total: r.Count, Entries: make([]Entry, len(r.Kvs))}
	if at == 0 {
		page.Revision = r.Header.Revision
	}
	for i, kv := range r.Kvs {
		page.Entries[i] = entryOf(kv)
	}
	return page, nil
}

// Put implements Store.
func (e *Etcd) Put(ctx context.Context, key string, value []byte, c Condition) (int64, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	defer leave()
	if key == "" {
		return 0, errNoKey
	}
	if len(key)+len(value) > maxValue {
		return 0, fmt.Errorf("put %s, %d bytes: %w", key, len(value), ErrTooLarge)
	}
	var r *clientv3.TxnResponse
	// Once more if the lease is gone: another process may have revoked it.
	for range 2 {
		var options []clientv3.OpOption
		if c.TTL > 0 {
			var lease clientv3.LeaseID
			if lease, err = e.leases.take(ctx, c.TTL); err != nil {
				return 0, fmt.Errorf("put %s: lease of %v: %w", key, c.TTL, e.grantError(err))
			}
			options = append(options, clientv3.WithLease(lease))
		}
		r, err = e.write(ctx, key, c, clientv3.OpPut(key, string(value), options...))
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			break
		}
		e.leases.forget(c.TTL)
	}
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return r.Header.Revision, nil
}

// Delete implements Store.
func (e *Etcd) Delete(ctx context.Context, key string, c Condition) (int64, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return 0, fmt.Errorf("delete %s: %w", key, err)
	}
	defer leave()
	if key == "" {
		return 0, errNoKey
	}
	r, err := e.write(ctx, key, c, clientv3.OpDelete(key))
	if err == nil && r.Responses[0].GetResponseDeleteRange().Deleted == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("delete %s: %w", key, err)
	}
	return r.Header.Revision, nil
}

// write does op, which writes key, if the condition holds, in one transaction.
func (e *Etcd) write(ctx context.Context, key string, c Condition, op clientv3.Op) (*clientv3.TxnResponse, error) {
	var when []clientv3.Cmp
	if c.Revision != Any {
		when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", c.Revision))
	}
	var otherwise []clientv3.Op
	if c.Fence.Key != "" {
		when = append(when, clientv3.Compare(clientv3.ModRevision(c.Fence.Key), "=", c.Fence.Revision))
		otherwise = append(otherwise, clientv3.OpGet(c.Fence.Key, clientv3.WithKeysOnly()))
	}
	r, err := e.client.Txn(ctx).If(when...).Then(op).Else(otherwise...).Commit()
	if err != nil {
		return nil, e.writeError(err)
	}
	if r.Succeeded {
		return r, nil
	}
	if c.Fence.Key != "" {
		// The fence comes first: who is deposed learns that, whatever else is wrong.
		at := int64(0)
		if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			at = kvs[0].ModRevision
		}
		if at != c.Fence.Revision {
			return nil, ErrFenced
		}
	}
	return nil, ErrConflict
}

// Revision implements Store.
func (e *Etcd) Revision(ctx context.Context) (int64, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the revision: %w", err)
	}
	defer leave()
	revision, err := e.body.newest(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the revision: %w", readError(err))
	}
	// The caller may wait until a watch has come this far, which it never does by
	// itself if what was written last is not under its prefix.
	e.mu.Lock()
	defer e.mu.Unlock()
	for f := range e.follows {
		f.want(revision)
	}
	return revision, nil
}

// Compact implements Store. What was compacted before may be compacted again.
func (e *Etcd) Compact(ctx context.Context, revision int64) error {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return fmt.Errorf("compact to revision %d: %w", revision, err)
	}
	defer leave()
	if revision <= 0 {
		return nil
	}
	full := e.full.Swap(false)
	var options []clientv3.CompactOption
	if full {
		options = append(options, clientv3.WithCompactPhysical()) // or there is nothing to reclaim yet
	}
	_, err = e.client.Compact(ctx, revision, options...)
	if err = readError(err); err != nil && !errors.Is(err, ErrCompacted) {
		return fmt.Errorf("compact to revision %d: %w", revision, err)
	}
	if !full {
		return nil
	}
	if err := e.body.reclaim(ctx); err != nil {
		e.full.Store(true) // the next Compact tries again
		return fmt.Errorf("reclaim space after compacting to revision %d: %w", revision, err)
	}
	return nil
}

// Close implements Store.
func (e *Etcd) Close() error {
	e.gate.close(ErrClosed)
	e.gate.loops.Wait()
	e.gate.calls.Wait()
	var err error
	e.closing.Do(func() { err = e.body.close() })
	return err
}

// Done is closed when the store is closed, or when etcd has stopped by itself
// (this member was taken out of its cluster); Err says which.
func (e *Etcd) Done() <-chan struct{} { return e.gate.ctx.Done() }

// Err says why the store stopped; nil means that it runs.
func (e *Etcd) Err() error { return context.Cause(e.gate.ctx) }

// readError turns etcd's error for a request that changes nothing into ours.
func readError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev):
		return ErrFuture
	}
	return err
}

// writeError turns etcd's error for a transaction into ours. Only what etcd says
// when it has refused a request before it could happen is certain; all else, from
// an expired deadline to a broken connection, is ErrUnknown.
func (e *Etcd) writeError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.full.Store(true)
		return ErrNoSpace
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return ErrTooLarge
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return ErrBusy
	}
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		switch refused.Code() {
		case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.OutOfRange,
			codes.ResourceExhausted, codes.PermissionDenied, codes.Unauthenticated:
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// grantError is writeError for a lease's grant: nothing of the write itself was
// sent yet, so nothing is unknown.
func (e *Etcd) grantError(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		e.full.Store(true)
		return ErrNoSpace
	}
	return err
}

var errNoKey = errors.New("the key is empty")

// afterPrefix returns the first key, as etcd's range ends have it, that is behind
// all that begin with prefix.
func afterPrefix(prefix string) string {
	if prefix == "" {
		return "\x00" // etcd's word for: no end
	}
	return clientv3.GetPrefixRangeEnd(prefix)
}
