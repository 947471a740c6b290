package store

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// leases gives keys their time to live. Keys written within some seconds of each
// other share an etcd lease. etcd would delete all keys of an expired lease at one
// revision, and a watcher that resumes there would lose some; so each lease is
// granted for longer than needed, and when the keys' time is over, reap deletes
// them one by one. Only if no process does that, etcd does, some time later.
type leases struct {
	client *clientv3.Client
	logger *slog.Logger

	mu    sync.Mutex
	open  map[time.Duration]*lease // by time to live: the lease that new keys get
	due   []*lease                 // those to be reaped, by when
	added chan struct{}            // due has grown; holds one
}

type lease struct {
	id    clientv3.LeaseID
	until time.Time // no new keys after this
	keys  int
	reap  time.Time // when the last key's time is over
}

const (
	// reapGrace is how much longer than its keys a lease lives.
	reapGrace = 30 * time.Second
	// maxShared is how long keys share a lease at most, and so by how much a
	// key's life is rounded up.
	maxShared = 30 * time.Second
	// maxLeaseKeys bounds the transaction that etcd makes of an expired lease.
	maxLeaseKeys = 1000
	// reapRetry is when to try again if etcd did not answer.
	reapRetry = 10 * time.Second
)

func newLeases(client *clientv3.Client, logger *slog.Logger) *leases {
	return &leases{
		client: client,
		logger: logger,
		open:   map[time.Duration]*lease{},
		added:  make(chan struct{}, 1),
	}
}

// take returns a lease for a key that shall live for ttl from now. mu is held
// while a lease is granted: all who wait want that one.
func (l *leases) take(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if open := l.open[ttl]; open != nil && now.Before(open.until) && open.keys < maxLeaseKeys {
		open.keys++
		return open.id, nil
	}
	shared := min(maxShared, max(time.Second, ttl/10))
	reap := ttl + shared
	r, err := l.client.Grant(ctx, int64((reap+reapGrace+time.Second-1)/time.Second))
	if err != nil {
		return 0, err
	}
	granted := &lease{id: r.ID, until: now.Add(shared), keys: 1, reap: now.Add(reap)}
	l.open[ttl] = granted
	l.addLocked(granted)
	return granted.id, nil
}

// forget makes take grant a new lease.
func (l *leases) forget(ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, ttl)
}

func (l *leases) addLocked(more *lease) {
	i, _ := slices.BinarySearchFunc(l.due, more.reap, func(d *lease, at time.Time) int { return d.reap.Compare(at) })
	l.due = slices.Insert(l.due, i, more)
	select {
	case l.added <- struct{}{}:
	default:
	}
}

// adopt takes over the leases that an earlier process granted. Those that it does
// not learn of are etcd's to end.
func (l *leases) adopt(ctx context.Context) {
	all, err := l.client.Leases(ctx)
	if err != nil {
		l.logger.Warn("the leases of earlier processes are not known", "error", err)
		return
	}
	for _, old := range all.Leases {
		r, err := l.client.TimeToLive(ctx, old.ID)
		if err != nil {
			l.logger.Warn("the end of an earlier process's lease is not known", "lease", int64(old.ID), "error", err)
			continue
		}
		// etcd gives leases some time more when it starts.
		left := time.Duration(min(r.TTL, r.GrantedTTL))*time.Second - reapGrace
		l.mu.Lock()
		l.addLocked(&lease{id: old.ID, reap: time.Now().Add(left)})
		l.mu.Unlock()
	}
}

// run reaps until ctx ends.
func (l *leases) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.added:
		case <-timer.C:
		}
		for {
			next, wait := l.next()
			if next == nil {
				if wait > 0 {
					timer.Reset(wait)
				}
				break
			}
			if err := l.reap(ctx, next); err != nil && ctx.Err() == nil {
				l.logger.Warn("keys whose time is over could not be deleted", "lease", int64(next.id), "retry", reapRetry, "error", err)
				next.reap = time.Now().Add(reapRetry)
				l.mu.Lock()
				l.addLocked(next)
				l.mu.Unlock()
			}
		}
	}
}

// next takes a lease that is due off the list, or says how long until one is
// (0: there is none).
func (l *leases) next() (*lease, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ttl, open := range l.open {
		if !time.Now().Before(open.until) {
			delete(l.open, ttl)
		}
	}
	if len(l.due) == 0 {
		return nil, 0
	}
	if wait := time.Until(l.due[0].reap); wait > 0 {
		return nil, wait
	}
	first := l.due[0]
	l.due = slices.Delete(l.due, 0, 1)
	return first, 0
}

// reap deletes the lease's keys, each at a revision of its own, unless another
// write has taken them off the lease. The lease itself is left to etcd: a late
// write that still came to it is deleted when it ends.
func (l *leases) reap(ctx context.Context, due *lease) error {
	r, err := l.client.TimeToLive(ctx, due.id, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8) // enough to share syncs, and leaves room for others' writes
	for _, key := range r.Keys {
		group.Go(func() error {
			_, err := l.client.Txn(ctx).
				If(clientv3.Compare(clientv3.LeaseValue(string(key)), "=", due.id)).
				Then(clientv3.OpDelete(string(key))).
				Commit()
			return err
		})
	}
	return group.Wait()
}
