package store

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// start returns when etcd has a leader and has applied all that was committed.
func (b *embedded) start(ctx context.Context, config *embed.Config) (err error) {
	if b.lone {
		// One after another, for elect's sake. Members of clusters do not: starting,
		// they may wait for each other.
		starting.Lock()
		err = b.launch(ctx, config)
		starting.Unlock()
	} else {
		err = b.launch(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	// A linearizable read is not enough. Raft's only voter answers one as soon as it
	// leads, though what it had acknowledged before a crash is not committed again,
	// nor visible, until an entry of its new term is. Such an entry is the one that
	// etcd makes of this member's addresses before it says that it is ready.
	select {
	case <-b.server.ReadyNotify():
	case <-b.server.StopNotify():
		return errors.New("etcd stopped while it was starting")
	case <-ctx.Done():
		return fmt.Errorf("wait until etcd is ready: %w", context.Cause(ctx))
	}
	if err := b.server.LinearizableReadNotify(ctx); err != nil {
		return fmt.Errorf("wait until etcd's log is applied: %w", err)
	}
	return nil
}

// starting makes lone members of one process start one after another, because
// etcd publishes raft's status only for the member that started last.
var starting sync.Mutex

// launch starts etcd, and does not wait for more than the election of an only
// member.
func (b *embedded) launch(ctx context.Context, config *embed.Config) (err error) {
	if b.etcd, err = embed.StartEtcd(config); err != nil {
		return err
	}
	b.server = b.etcd.Server
	if b.lone || len(b.server.Cluster().Members()) == 1 {
		return b.elect(ctx)
	}
	return nil
}

// errUnborn says that a crash came before etcd had written who its members are, which
// is the first thing that it does.
var errUnborn = errors.New("the first start was cut off")

// rebirth removes what the first start has left, in which there are no data, and
// starts again.
func (b *embedded) rebirth(ctx context.Context, config *embed.Config) error {
	b.etcd.Close()
	b.etcd = nil
	if err := os.RemoveAll(config.Dir); err != nil {
		return fmt.Errorf("remove what the first start has left: %w", err)
	}
	return b.start(ctx, config)
}

// elect makes the only member leader without waiting for an election timeout of
// seconds: it tells raft what a leader that hands over would tell its successor.
// Raft must have applied what it knows to be committed by then. It looks for
// changes of membership in the rest, and panics if etcd has dropped that from
// memory meanwhile; etcd's own applied index can be ahead of raft's.
func (b *embedded) elect(ctx context.Context) error {
	self := uint64(b.server.MemberID())
	now := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &self, From: &self}
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for b.server.Leader() == 0 {
		if s := raftStatus(); s.ID == self && s.Applied == s.GetCommit() {
			voters := s.Config.Voters.IDs()
			switch _, voter := voters[self]; {
			case len(voters) == 0 && s.GetCommit() == 0 && b.server.KV().Rev() <= 1:
				return errUnborn
			case len(voters) == 0:
				return errors.New("its log has lost its beginning: restore a backup")
			case b.lone && len(voters) > 1:
				return fmt.Errorf("the data is that of a cluster of %d members, but no PeerURLs are given", len(voters))
			case len(voters) > 1 || !voter:
				return nil // it has company after all
			}
			if err := b.server.Process(ctx, now); err != nil {
				return fmt.Errorf("elect the only member: %w", err)
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("elect the only member: %w", context.Cause(ctx))
		case <-b.server.StopNotify():
			return errors.New("elect the only member: etcd stopped")
		}
	}
	return nil
}

// raftStatus is that of the member that started last, as etcd publishes it. If that
// is another, or should etcd not do so any more, the election takes its time.
func raftStatus() raft.Status {
	published, _ := expvar.Get("raft.status").(expvar.Func)
	if published == nil {
		return raft.Status{}
	}
	s, _ := published.Value().(raft.Status)
	return s
}
