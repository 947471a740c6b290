package client

import (
	"context"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"skiff/api"
)

// Informer returns a client-go informer of all objects of a resource, for libraries
// that want one. It is fed by Follow: in process it holds the cache's own objects,
// not copies, which nobody may change. Who wants it runs it; it ends with ctx, too.
func Informer(ctx context.Context, c Client, r *api.Resource) cache.SharedIndexInformer {
	byNamespace := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	return cache.NewSharedIndexInformer(&follow{ctx: ctx, client: c, resource: r}, r.Kind.New(), 0, byNamespace)
}

// follow is Follow as client-go's reflectors ask for it: each list begins a new
// feed, and the watch after it is that feed's rest.
type follow struct {
	ctx      context.Context
	client   Client
	resource *api.Resource

	mu   sync.Mutex
	feed *Feed // whose first batch the last list was
	end  context.CancelFunc
}

// IsWatchListSemanticsUnSupported tells reflectors to list first and watch then.
func (f *follow) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.ListerWatcher.
func (f *follow) List(metav1.ListOptions) (runtime.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end != nil {
		f.end()
	}
	ctx, end := context.WithCancel(f.ctx)
	f.feed, f.end = f.client.Follow(ctx, Source{Resource: f.resource}), end
	first, ok := <-f.feed.C
	if !ok {
		return nil, context.Canceled
	}
	list := &internalversion.List{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(first.Revision, 10)}}
	for _, c := range first.Changes {
		list.Items = append(list.Items, c.New)
	}
	return list, nil
}

// Watch implements cache.ListerWatcher. It goes on where the last list ended.
func (f *follow) Watch(metav1.ListOptions) (watch.Interface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.feed == nil {
		return nil, context.Canceled // there was no list, or its feed has been watched
	}
	w := &followWatch{events: make(chan watch.Event), end: f.end, done: make(chan struct{})}
	go w.run(f.feed)
	f.feed = nil
	return w, nil
}

// followWatch is a feed as a watch.
type followWatch struct {
	events chan watch.Event
	end    context.CancelFunc
	done   chan struct{}
	once   sync.Once
}

// Stop implements watch.Interface.
func (w *followWatch) Stop() {
	w.once.Do(func() {
		close(w.done)
		w.end()
	})
}

// ResultChan implements watch.Interface.
func (w *followWatch) ResultChan() <-chan watch.Event { return w.events }

func (w *followWatch) run(feed *Feed) {
	defer close(w.events)
	for batch := range feed.C {
		for _, c := range batch.Changes {
			e := watch.Event{Type: watch.Modified, Object: c.Object()}
			switch {
			case c.Old == nil:
				e.Type = watch.Added
			case c.New == nil:
				e.Type = watch.Deleted
			}
			select {
			case w.events <- e:
			case <-w.done:
				return
			}
		}
	}
}
