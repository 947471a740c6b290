// Package namespace empties namespaces that are being deleted: pods first, then
// all else, then it lets the namespace go. It is a loop of its own shape, since
// what it reads is every kind there is, live, and only while a namespace ends; a
// view of all that for the rest of the time would be waste. It deletes only what
// a linearizable list has just shown, by name and UID.
package namespace

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sync/errgroup"

	"skiff/api"
	"skiff/client"
)

// Name is the service account.
const Name = "namespace-controller"

// Config says what a namespace may hold.
type Config struct {
	Client client.Client
	// Resources are all that is served now. Nil: the catalogue.
	Resources func() []*api.Resource
	Logger    *slog.Logger // nil: slog.Default()
}

const (
	namespacesAtOnce = 10
	deletesAtOnce    = 16
	// again is the longest that a namespace waits before it is looked at anew
	// though nothing in it changed.
	again = 15 * time.Second
)

// Run empties namespaces until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Resources == nil {
		c.Resources = func() []*api.Resource { return api.Catalogue }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var group errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); _ = group.Wait() }()

	feed := c.Client.Follow(ctx, client.Source{Resource: api.For[*corev1.Namespace]()})
	slots := make(chan struct{}, namespacesAtOnce)
	busy := map[types.UID]bool{}
	ended := make(chan types.UID)
	for {
		select {
		case <-ctx.Done():
			return nil
		case uid := <-ended:
			delete(busy, uid)
		case batch, ok := <-feed.C:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("namespace controller: the feed ended")
			}
			for _, change := range batch.Changes {
				ns, ok := change.New.(*corev1.Namespace)
				if !ok || ns.DeletionTimestamp == nil || done(ns) || busy[ns.UID] {
					continue
				}
				busy[ns.UID] = true
				group.Go(func() error {
					select {
					case slots <- struct{}{}:
						defer func() { <-slots }()
						ending{c, ns.Name, ns.UID}.run(ctx)
					case <-ctx.Done():
					}
					select {
					case ended <- ns.UID:
					case <-ctx.Done():
					}
					return nil
				})
			}
		}
	}
}

// done tells whether we have nothing to do with the namespace any more.
func done(ns *corev1.Namespace) bool {
	return !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
}

// ending is one namespace on its way out.
type ending struct {
	c    Config
	name string
	uid  types.UID
}

// run empties the namespace and lets it go; it returns when it has, or ctx ends.
func (e ending) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		ns, err := client.Get[*corev1.Namespace](ctx, e.c.Client, "", e.name)
		if apierrors.IsNotFound(err) || err == nil && (ns.UID != e.uid || ns.DeletionTimestamp == nil || done(ns)) {
			return
		}
		var left content
		if err == nil {
			left = e.empty(ctx)
			err = e.tell(ctx, ns, left)
		}
		if err == nil && left.empty() {
			if err = e.letGo(ctx); err == nil {
				return
			}
		}
		if err == nil && len(left.errs) == 0 {
			failures = 0
			e.waitForChange(ctx, left)
			continue
		}
		if err != nil {
			e.c.Logger.Debug("namespace is not empty yet", "namespace", e.name, "error", err)
		}
		failures++
		pause(ctx, min(50*time.Millisecond<<min(failures, 10), again))
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

// content is what is left of a namespace after a round of deletions.
type content struct {
	remaining  map[*api.Resource]int
	finalizers map[string]int
	errs       []error
}

func (c content) empty() bool { return len(c.remaining) == 0 && len(c.errs) == 0 }

// empty deletes what there is. Pods end before anything that they may need while
// they do (network policies, service accounts).
func (e ending) empty(ctx context.Context) content {
	left := content{remaining: map[*api.Resource]int{}, finalizers: map[string]int{}}
	pods := api.For[*corev1.Pod]()
	e.emptyOf(ctx, pods, &left)
	if !left.empty() {
		return left
	}
	for _, r := range e.c.Resources() {
		if r != pods && r.Namespaced && r.Prefix != "" && r.View == nil && r.Has("list") && r.Has("delete") {
			e.emptyOf(ctx, r, &left)
		}
	}
	return left
}

// emptyOf deletes all objects of one resource and counts those that stay.
func (e ending) emptyOf(ctx context.Context, r *api.Resource, left *content) {
	objs, _, err := e.c.Client.List(ctx, r, client.ListOptions{Namespace: e.name})
	if err != nil {
		left.errs = append(left.errs, err)
		return
	}
	var mu sync.Mutex // guards *left
	var group errgroup.Group
	group.SetLimit(deletesAtOnce)
	for _, obj := range objs {
		group.Go(func() error {
			var err error
			if obj.GetDeletionTimestamp() == nil {
				err = e.delete(ctx, r, obj)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				left.errs = append(left.errs, err)
			}
			return nil
		})
	}
	_ = group.Wait() // its funcs return nil
	if len(objs) == 0 {
		return
	}
	objs, _, err = e.c.Client.List(ctx, r, client.ListOptions{Namespace: e.name})
	if err != nil {
		left.errs = append(left.errs, err)
		return
	}
	for _, obj := range objs {
		left.remaining[r]++
		for _, f := range obj.GetFinalizers() {
			left.finalizers[f]++
		}
	}
}

// delete deletes exactly this object.
func (e ending) delete(ctx context.Context, r *api.Resource, obj api.Object) error {
	uid, background := obj.GetUID(), metav1.DeletePropagationBackground
	err := e.c.Client.Delete(ctx, r, obj.GetNamespace(), obj.GetName(), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background,
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // that one is gone; the list that follows shows what is there now
	}
	return err
}

// waitForChange returns when something of what is left changes (a second later,
// so that many changes are one round), is gone altogether, or after a while.
func (e ending) waitForChange(ctx context.Context, left content) {
	ctx, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	var sources []client.Source
	for _, r := range e.c.Resources() { // in a fixed order
		if left.remaining[r] > 0 {
			sources = append(sources, client.Source{Resource: r, Namespace: e.name})
		}
	}
	count := 0
	var settle <-chan time.Time
	first := true
	feed := e.c.Client.Follow(ctx, sources...)
	for {
		select {
		case <-ctx.Done():
			return
		case <-settle:
			return
		case batch, ok := <-feed.C:
			if !ok {
				return
			}
			for _, change := range batch.Changes {
				switch {
				case change.Old == nil:
					count++
				case change.New == nil:
					count--
				}
			}
			if count == 0 {
				return
			}
			if !first && settle == nil {
				timer := time.NewTimer(time.Second)
				defer timer.Stop()
				settle = timer.C
			}
			first = false
		}
	}
}

// letGo takes our finalizer away; with the last one the API server removes the
// namespace. A conflict is an error like others: the next round sees why.
func (e ending) letGo(ctx context.Context) error {
	ns, err := client.Get[*corev1.Namespace](ctx, e.c.Client, "", e.name)
	if apierrors.IsNotFound(err) || err == nil && (ns.UID != e.uid || done(ns)) {
		return nil
	}
	if err != nil {
		return err
	}
	next := ns.DeepCopy()
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := e.c.Client.Update(ctx, "finalize", next); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}
