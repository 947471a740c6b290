package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Member is one etcd of a cluster.
type Member struct {
	ID       uint64
	Name     string // "" until it has started for the first time
	PeerURLs []string
	// Learner says that it gets all writes, but has no vote yet.
	Learner bool
	// Leader says that it decides the order of writes now; false where it is not known.
	Leader bool
}

func memberOf(m *etcdserverpb.Member) Member {
	return Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.IsLearner}
}

// Members returns the members of the store's cluster, this one included.
func (e *Etcd) Members(ctx context.Context) ([]Member, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	defer leave()
	r, err := e.client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	var leader uint64
	if status, err := e.client.Status(ctx, ""); err == nil { // an external etcd has no one to ask
		leader = status.Leader
	}
	var members []Member
	for _, m := range r.Members {
		member := memberOf(m)
		member.Leader = m.ID == leader
		members = append(members, member)
	}
	return members, nil
}

// AddMember lets a new member join, as a learner. It must then be opened with these
// PeerURLs and with Join, and after it has caught up be promoted.
func (e *Etcd) AddMember(ctx context.Context, peerURLs []string) (Member, error) {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return Member{}, fmt.Errorf("add member at %v: %w", peerURLs, err)
	}
	defer leave()
	r, err := e.client.MemberAddAsLearner(ctx, peerURLs)
	if err != nil {
		return Member{}, fmt.Errorf("add member at %v: %w", peerURLs, err)
	}
	return memberOf(r.Member), nil
}

// PromoteMember gives a learner its vote. It fails as long as the learner has not
// caught up.
func (e *Etcd) PromoteMember(ctx context.Context, id uint64) error {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return fmt.Errorf("promote member %x: %w", id, err)
	}
	defer leave()
	if _, err := e.client.MemberPromote(ctx, id); err != nil {
		return fmt.Errorf("promote member %x: %w", id, err)
	}
	return nil
}

// ErrUnsettled is why a member is not removed now: the others have not been connected
// for some seconds, and might lose their majority.
var ErrUnsettled = errors.New("the other members have not been connected for long enough")

// RemoveMember takes a member out of the cluster, or fails with ErrUnsettled. Its store stops by itself, if it
// runs, and its data is of no use any more.
func (e *Etcd) RemoveMember(ctx context.Context, id uint64) error {
	ctx, leave, err := e.gate.call(ctx)
	if err != nil {
		return fmt.Errorf("remove member %x: %w", id, err)
	}
	defer leave()
	if _, err := e.client.MemberRemove(ctx, id); err != nil {
		if err.Error() == rpctypes.ErrUnhealthy.Error() { // the server's or the client's, which are two
			err = fmt.Errorf("%w: %w", ErrUnsettled, err)
		}
		return fmt.Errorf("remove member %x: %w", id, err)
	}
	return nil
}
