package client

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

// Leader says how a component takes turns with others of its kind. It uses the
// same Lease as upstream's component of that name, so that only one of both is
// at work, and a second Lease, NAME-epoch, which is written only when the leader
// changes: writes that are fenced by it are refused once another leads.
type Leader struct {
	Client Client
	// Namespace and Name of the Lease: kube-system, kube-controller-manager.
	Namespace, Name string
	// Identity of this candidate, different from all others that may be alive. A
	// candidate that comes back with the identity of the holder takes over at
	// once: give the same one again only where the old one is known to be dead.
	Identity string
	// Life is how long a leader that is not heard of is waited for, in whole seconds,
	// the same for all candidates. 0: 15 s, as upstream's components.
	Life   time.Duration
	Logger *slog.Logger // nil: slog.Default()
}

// The terms of upstream's components: parts of 15 seconds.
const usualLife = 15 * time.Second

func (l Leader) renewUntil() time.Duration { return l.Life * 2 / 3 } // after that long without success the leader steps down
func (l Leader) retryEvery() time.Duration { return l.Life * 2 / 15 }

// Run calls lead while this candidate is the leader: its context ends when the
// lead is lost, and lead must return soon then. It returns when ctx ends, or with
// lead's error.
func (l Leader) Run(ctx context.Context, lead func(ctx context.Context, fenced Client, epoch Epoch) error) error {
	if l.Logger == nil {
		l.Logger = slog.Default()
	}
	if l.Life == 0 {
		l.Life = usualLife
	}
	for ctx.Err() == nil {
		epoch, err := l.acquire(ctx)
		if err != nil {
			l.Logger.Debug("not leading", "lease", l.Name, "reason", err)
			if !pause(ctx, l.retryEvery()) {
				return nil
			}
			continue
		}
		if err := l.term(ctx, epoch, lead); err != nil {
			return err
		}
	}
	return nil
}

// term leads until the lease is lost or ctx ends.
func (l Leader) term(ctx context.Context, epoch Epoch, lead func(ctx context.Context, fenced Client, epoch Epoch) error) error {
	term, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- lead(term, l.Client.Fenced(epoch), epoch) }()
	defer end()

	renewed := time.Now()
	tick := time.NewTicker(l.retryEvery())
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err == nil && ctx.Err() == nil {
				err = fmt.Errorf("leader of %s: it stopped leading by itself", l.Name)
			}
			l.release(ctx)
			return err
		case <-tick.C:
			if err := l.renew(ctx); err == nil {
				renewed = time.Now()
			} else if time.Since(renewed) > l.renewUntil() || apierrors.IsConflict(err) {
				l.Logger.Warn("lost the lead", "lease", l.Name, "reason", err)
				end()
				return <-done
			}
		}
	}
}

// acquire takes the lease if it is free, and begins a new epoch.
func (l Leader) acquire(ctx context.Context) (Epoch, error) {
	now := time.Now()
	lease, err := Get[*coordinationv1.Lease](ctx, l.Client, l.Namespace, l.Name)
	switch {
	case apierrors.IsNotFound(err):
		if _, err := Create(ctx, l.Client, l.lease(l.Name, now, 0)); err != nil {
			return Epoch{}, err
		}
	case err != nil:
		return Epoch{}, err
	default:
		if holder := l.holder(lease); holder != "" && holder != l.Identity && lease.Spec.RenewTime != nil &&
			now.Before(lease.Spec.RenewTime.Add(l.Life)) {
			return Epoch{}, fmt.Errorf("%s leads", holder)
		}
		if _, err := Update(ctx, l.Client, "", l.next(lease, now)); err != nil {
			return Epoch{}, err
		}
	}
	return l.begin(ctx, now)
}

// begin writes the epoch object: from then on the writes of earlier leaders are refused.
func (l Leader) begin(ctx context.Context, now time.Time) (Epoch, error) {
	name := l.Name + "-epoch"
	e := Epoch{Resource: api.For[*coordinationv1.Lease](), Namespace: l.Namespace, Name: name}
	old, err := Get[*coordinationv1.Lease](ctx, l.Client, l.Namespace, name)
	var now1 *coordinationv1.Lease
	switch {
	case apierrors.IsNotFound(err):
		now1, err = Create(ctx, l.Client, l.lease(name, now, 0))
	case err == nil:
		fresh := l.lease(name, now, transitions(old)+1)
		fresh.ResourceVersion = old.ResourceVersion
		now1, err = Update(ctx, l.Client, "", fresh)
	}
	if err != nil {
		return e, fmt.Errorf("begin epoch of %s: %w", l.Name, err)
	}
	e.ResourceVersion = now1.ResourceVersion
	return e, nil
}

// renew shows that the leader is alive. A Conflict means that it no longer leads.
func (l Leader) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.renewUntil()/2)
	defer cancel()
	lease, err := Get[*coordinationv1.Lease](ctx, l.Client, l.Namespace, l.Name)
	if err != nil {
		return err
	}
	if holder := l.holder(lease); holder != l.Identity {
		return apierrors.NewConflict(api.For[*coordinationv1.Lease]().GroupResource(), l.Name, fmt.Errorf("%q leads", holder))
	}
	next := lease.DeepCopy()
	next.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	_, err = Update(ctx, l.Client, "", next)
	if apierrors.IsConflict(err) {
		return fmt.Errorf("renew: %v", err) // somebody else wrote: look again before giving up
	}
	return err
}

// release gives the lease up, so that the next leader need not wait.
func (l Leader) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	lease, err := Get[*coordinationv1.Lease](ctx, l.Client, l.Namespace, l.Name)
	if err != nil || l.holder(lease) != l.Identity {
		return
	}
	next := lease.DeepCopy()
	empty, second := "", int32(1)
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds = &empty, &second
	if _, err := Update(ctx, l.Client, "", next); err != nil {
		l.Logger.Debug("lease not released", "lease", l.Name, "reason", err)
	}
}

func (l Leader) holder(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// next is the lease as held by this candidate from now on.
func (l Leader) next(lease *coordinationv1.Lease, now time.Time) *coordinationv1.Lease {
	n := transitions(lease)
	if l.holder(lease) != l.Identity {
		n++
	}
	next := lease.DeepCopy()
	next.Spec = l.lease(l.Name, now, n).Spec
	return next
}

func (l Leader) lease(name string, now time.Time, transitions int32) *coordinationv1.Lease {
	seconds := int32(l.Life / time.Second)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: name},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       &l.Identity,
			LeaseDurationSeconds: &seconds,
			AcquireTime:          &metav1.MicroTime{Time: now},
			RenewTime:            &metav1.MicroTime{Time: now},
			LeaseTransitions:     &transitions,
		},
	}
}

func transitions(lease *coordinationv1.Lease) int32 {
	if lease.Spec.LeaseTransitions == nil {
		return 0
	}
	return *lease.Spec.LeaseTransitions
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
