// Package resourcequota keeps what the status of each ResourceQuota says is used
// true. The API server raises it when it admits a write; here it is lowered when
// objects go, and set right when it is wrong. It is a loop of its own shape, since
// it follows only those resources that a quota names, and only in namespaces that
// have one. It keeps sums, never objects.
package resourcequota

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
	"skiff/api/quota"
	"skiff/client"
)

// Name is the service account.
const Name = "resourcequota-controller"

// Config is what the controller stands on.
type Config struct {
	Client client.Client
	// Resources are all that is served now. Nil: the catalogue.
	Resources func() []*api.Resource
	// Resync is how often all is counted anew; 0: 5 minutes.
	Resync time.Duration
	// Settle is how long what was charged counts though its object is not seen: the
	// write may be under way. 0: 2 seconds.
	Settle time.Duration
	Logger *slog.Logger // nil: slog.Default()
}

// unknownAgain is when a quota over a resource that is not served is looked at anew.
const unknownAgain = 10 * time.Second

var quotaRow = api.For[*corev1.ResourceQuota]()

// Run keeps all quotas until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Resources == nil {
		c.Resources = func() []*api.Resource { return api.Catalogue }
	}
	if c.Resync == 0 {
		c.Resync = 5 * time.Minute
	}
	if c.Settle == 0 {
		c.Settle = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(ctx)
	keepers := keepers{config: c, at: map[string]*keeper{}}
	defer func() { cancel(); keepers.wait.Wait() }()
	feed := c.Client.Follow(ctx, client.Source{Resource: quotaRow})
	for batch := range feed.C {
		for _, change := range batch.Changes {
			keepers.note(ctx, change)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("resource quota controller: the feed ended")
}

// keepers holds one goroutine for each namespace that has quotas.
type keepers struct {
	config Config
	at     map[string]*keeper // by namespace
	wait   sync.WaitGroup
}

// keeper keeps the quotas of a namespace.
type keeper struct {
	Config
	namespace string
	quotas    map[string]bool // by name; only Run's goroutine touches it
	stop      context.CancelFunc
}

// note starts a namespace's keeper with its first quota, and stops it with the last.
func (k *keepers) note(ctx context.Context, change client.Change) {
	obj := change.Object()
	ns := obj.GetNamespace()
	have := k.at[ns]
	switch {
	case change.New != nil && have == nil:
		ctx, stop := context.WithCancel(ctx)
		have = &keeper{Config: k.config, namespace: ns, quotas: map[string]bool{obj.GetName(): true}, stop: stop}
		k.at[ns] = have
		k.wait.Go(func() { have.run(ctx) })
	case change.New != nil:
		have.quotas[obj.GetName()] = true
	case have != nil:
		if delete(have.quotas, obj.GetName()); len(have.quotas) == 0 {
			have.stop()
			delete(k.at, ns)
		}
	}
}

// run counts, and counts anew whenever what is to be counted changes.
func (k *keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := k.count(ctx); err != nil && ctx.Err() == nil {
			k.Logger.Warn("quotas are not kept", "namespace", k.namespace, "error", err)
			pause(ctx, time.Second)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// count follows what the namespace's quotas name, and writes what is used, until a
// quota wants something else counted.
func (k *keeper) count(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := client.List[*corev1.ResourceQuota](ctx, k.Client, client.ListOptions{Namespace: k.namespace})
	if err != nil {
		return err
	}
	rows, known := k.named(list)
	sources := []client.Source{{Resource: quotaRow, Namespace: k.namespace}}
	for _, r := range rows {
		if r != quotaRow {
			sources = append(sources, client.Source{Resource: r, Namespace: k.namespace})
		}
	}
	again := k.Resync
	if !known {
		again = min(again, unknownAgain)
	}
	end, wake := time.NewTimer(again), time.NewTimer(again)
	defer func() { end.Stop(); wake.Stop(); cancel() }()
	l := newLedger(rows, list, k.Settle)
	feed := k.Client.Follow(ctx, sources...)
	for {
		select {
		case batch, ok := <-feed.C:
			if !ok {
				return nil
			}
			if !l.apply(batch, time.Now()) {
				return nil
			}
		case <-wake.C:
		case <-end.C:
			return nil
		}
		if next := k.write(ctx, l); !next.IsZero() {
			wake.Reset(max(time.Until(next), 10*time.Millisecond))
		}
	}
}

// named returns the resources that the quotas name, and whether all that they
// count is served.
func (k *keeper) named(list []*corev1.ResourceQuota) (rows []*api.Resource, known bool) {
	known = true
	all := k.Resources()
	for _, q := range list {
		for name := range q.Spec.Hard {
			if gr, ok := quota.Counted(name); ok && !slices.ContainsFunc(all, func(r *api.Resource) bool { return r.GroupResource() == gr }) {
				known = false
			}
		}
	}
	for _, r := range all {
		m := quota.Of(r.GroupResource())
		if !r.Namespaced || r.Prefix == "" || r.View != nil || m == nil {
			continue
		}
		if slices.ContainsFunc(list, func(q *corev1.ResourceQuota) bool { return len(m.Names(q.Spec.Hard)) > 0 }) {
			rows = append(rows, r)
		}
	}
	return rows, known
}

// write writes each status that is not as it should be. It returns when to look
// again though nothing changes; zero: never.
func (k *keeper) write(ctx context.Context, l *ledger) (next time.Time) {
	now := time.Now()
	next = l.expire(now)
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, a := range l.accounts {
		want, at := a.want(now)
		sooner(at)
		if want == nil {
			continue
		}
		q := a.quota.DeepCopy()
		q.Status = *want
		got, err := client.Update(ctx, k.Client, "status", q)
		switch {
		case err == nil:
			a.quota, a.seen = got, got.Status.Used
		case apierrors.IsConflict(err), apierrors.IsNotFound(err):
			// The feed tells soon what is there now.
		default:
			k.Logger.Debug("status of a quota not written", "namespace", k.namespace, "quota", q.Name, "error", err)
			sooner(now.Add(time.Second))
		}
	}
	return next
}

// sameSpec tells whether two quotas want the same counted.
func sameSpec(a, b *corev1.ResourceQuota) bool {
	return a.UID == b.UID && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}
