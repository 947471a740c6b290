// Package garbagecollector deletes objects whose owners are all gone, and carries
// out the two other ways to delete an owner: with its dependents first
// (foreground), or without them (orphan).
//
// It is a loop of its own shape: its keys are objects of every kind, and before
// it deletes one it must have read live what the deletion rests on. The graph
// (graph.go) only says where to look. An object is deleted when a linearizable
// read of it, and of each of its owners by name and UID, says that no owner is
// there; and the delete carries that read's UID and resourceVersion, so that an
// owner that was added meanwhile makes it fail.
package garbagecollector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"skiff/api"
	"skiff/client"
)

// Name is the service account.
const Name = "generic-garbage-collector"

// Config says what may own and be owned.
type Config struct {
	Client client.Client
	// Resources are all that is served now. Nil: the catalogue.
	Resources func() []*api.Resource
	// Changed is closed when Resources may return others than before the call. Nil:
	// it always returns the same.
	Changed func() <-chan struct{}
	Logger  *slog.Logger // nil: slog.Default()
}

const workers = 20

// collector is a run of the garbage collector.
type collector struct {
	c     Config
	queue workqueue.TypedRateLimitingInterface[types.UID]

	// whole is held by the workers, each while it is at work, and by the one who
	// starts to follow further resources, until the graph has them.
	whole sync.RWMutex
	// following are the resources in the graph, and how to stop following them. Only
	// the goroutine of run writes it, with whole held.
	following map[*api.Resource]context.CancelFunc

	mu     sync.Mutex
	graph  *graph             // guarded by mu
	absent map[reference]bool // guarded by mu: owners that a live read did not find; UIDs do not come back
}

// Run collects until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Resources == nil {
		c.Resources = func() []*api.Resource { return api.Catalogue }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Changed == nil {
		c.Changed = func() <-chan struct{} { return nil }
	}
	return newCollector(c).run(ctx)
}

func newCollector(c Config) *collector {
	return &collector{
		c: c, graph: newGraph(), absent: map[reference]bool{}, following: map[*api.Resource]context.CancelFunc{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](5*time.Millisecond, time.Minute)),
	}
}

// collected are the resources that take part: all that is stored, once, but events.
func collected(all []*api.Resource) (out []*api.Resource) {
	for _, r := range all {
		if r.Prefix != "" && r.View == nil && r.Name != "events" && r.Has("list") && r.Has("watch") && r.Has("delete") {
			out = append(out, r)
		}
	}
	return out
}

// run follows what is served, and collects, until ctx ends.
func (g *collector) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer func() {
		cancel()
		g.queue.ShutDown()
		group.Wait()
	}()
	ended := make(chan error, 1)
	for first := true; ; first = false {
		changed := g.c.Changed() // before it is asked what there is
		if !g.follow(ctx, &group, ended) {
			return nil
		}
		if first { // the graph is whole: now it may be acted on
			for range workers {
				group.Go(func() { g.work(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-changed:
		}
	}
}

// follow follows the resources that are served and not followed yet, with one feed
// for all of them, and forgets those that are no longer served. It returns when the
// graph has what there is; false: ctx has ended.
func (g *collector) follow(ctx context.Context, group *sync.WaitGroup, ended chan<- error) bool {
	g.whole.Lock()
	defer g.whole.Unlock()
	served := collected(g.c.Resources())
	still := make(map[*api.Resource]bool, len(served))
	for _, r := range served {
		still[r] = true
	}
	gone := map[*api.Resource]bool{}
	for r, stop := range g.following {
		if !still[r] {
			stop()
			delete(g.following, r)
			gone[r] = true
		}
	}
	g.forget(gone)
	var sources []client.Source
	feedCtx, stop := context.WithCancel(ctx)
	for _, r := range served {
		if g.following[r] == nil {
			sources = append(sources, client.Source{Resource: r})
		}
	}
	if len(sources) == 0 {
		stop()
		return true
	}
	shared := &sharedStop{left: len(sources), stop: stop}
	for _, s := range sources {
		g.following[s.Resource] = shared.one()
	}
	feed := g.c.Client.Follow(feedCtx, sources...)
	batch, ok := <-feed.C
	if !ok {
		return false
	}
	g.learn(batch)
	group.Go(func() {
		for batch := range feed.C {
			g.learn(batch)
		}
		if feedCtx.Err() == nil {
			select {
			case ended <- errors.New("garbage collector: the feed ended"):
			default:
			}
		}
	})
	return true
}

// sharedStop stops a feed of several resources when none of them is served any more.
type sharedStop struct {
	left int // guarded by collector.whole
	stop context.CancelFunc
}

func (s *sharedStop) one() context.CancelFunc {
	return func() {
		if s.left--; s.left == 0 {
			s.stop()
		}
	}
}

// forget takes the objects of resources out of the graph: their feeds may have
// been stopped before they told of the last deletions.
func (g *collector) forget(resources map[*api.Resource]bool) {
	if len(resources) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, n := range g.graph.nodes {
		if resources[n.resource] {
			for _, concerned := range g.graph.remove(uid) {
				g.queue.Add(concerned)
			}
		}
	}
}

// learn takes changes into the graph and queues what they concern.
func (g *collector) learn(batch client.Batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, change := range batch.Changes {
		for _, uid := range g.graph.apply(change) {
			g.queue.Add(uid)
		}
	}
}

func (g *collector) work(ctx context.Context) {
	for {
		uid, stop := g.queue.Get()
		if stop {
			return
		}
		g.whole.RLock()
		err := g.settle(ctx, uid)
		g.whole.RUnlock()
		if err != nil && ctx.Err() == nil {
			g.c.Logger.Debug("garbage collection is tried again", "uid", uid, "error", err)
			g.queue.AddRateLimited(uid)
		} else {
			g.queue.Forget(uid)
		}
		g.queue.Done(uid)
	}
}

// settle does what there is to do about one object.
func (g *collector) settle(ctx context.Context, uid types.UID) error {
	g.mu.Lock()
	n, ok := g.graph.nodes[uid]
	var at node
	var certain bool
	if ok {
		at, certain = *n, g.graph.surelyOwned(n)
	}
	g.mu.Unlock()
	switch {
	case !ok:
		return nil
	case at.orphaning:
		return g.orphan(ctx, at)
	case at.foreground:
		return g.deleteDependents(ctx, at)
	case at.deleting, certain:
		return nil
	}
	return g.collect(ctx, at)
}

// live reads the object again; nil: that one is gone.
func (g *collector) live(ctx context.Context, n node) (api.Object, error) {
	obj, err := g.c.Client.Get(ctx, n.resource, n.namespace, n.name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s %s/%s: %w", n.resource, n.namespace, n.name, err)
	case obj.GetUID() != n.uid:
		return nil, nil
	}
	return obj, nil
}
