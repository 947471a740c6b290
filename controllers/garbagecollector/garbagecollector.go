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
	"slices"
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
	Logger    *slog.Logger // nil: slog.Default()
}

const workers = 20

// collector is a run of the garbage collector over a fixed set of resources.
type collector struct {
	c         Config
	resources []*api.Resource
	queue     workqueue.TypedRateLimitingInterface[types.UID]

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
	for ctx.Err() == nil {
		if err := runOver(ctx, c, collected(c.Resources())); err != nil {
			return err
		}
	}
	return nil
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

// runOver collects until ctx ends or other resources are served.
func runOver(ctx context.Context, c Config, resources []*api.Resource) error {
	ctx, cancel := context.WithCancel(ctx)
	g := &collector{
		c: c, resources: resources, graph: newGraph(), absent: map[reference]bool{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](5*time.Millisecond, time.Minute)),
	}
	var group sync.WaitGroup
	defer func() {
		cancel()
		g.queue.ShutDown()
		group.Wait()
	}()
	var sources []client.Source
	for _, r := range resources {
		sources = append(sources, client.Source{Resource: r})
	}
	feed := c.Client.Follow(ctx, sources...)
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-feed.C:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("garbage collector: the feed ended")
			}
			definitions := g.learn(batch)
			if first { // the graph is whole: now it may be acted on
				for range workers {
					group.Go(func() { g.work(ctx) })
				}
			}
			if definitions && !slices.Equal(resources, collected(c.Resources())) {
				return nil
			}
		}
	}
}

// learn takes changes into the graph and queues what they concern; it tells
// whether other resources may be served now.
func (g *collector) learn(batch client.Batch) (definitions bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, change := range batch.Changes {
		definitions = definitions || change.Resource.Name == "customresourcedefinitions" || change.Resource.Name == "apiservices"
		for _, uid := range g.graph.apply(change) {
			g.queue.Add(uid)
		}
	}
	return definitions
}

func (g *collector) work(ctx context.Context) {
	for {
		uid, stop := g.queue.Get()
		if stop {
			return
		}
		if err := g.settle(ctx, uid); err != nil && ctx.Err() == nil {
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
