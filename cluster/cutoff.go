package cluster

import (
	"context"
	"errors"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api"
	"skiff/client"
)

// link is a simulated node's way to the API server, which can be cut: requests
// fail, those under way too (what became of them is not known), and feeds stand
// still until the node returns.
type link struct {
	mu   sync.Mutex
	cut  context.Context // ends when the node is cut off; guarded by mu
	off  context.CancelFunc
	back chan struct{} // closed while the node is not cut off; guarded by mu
}

var errCutOff = errors.New("the node is cut off")

func newLink() *link {
	l := &link{back: make(chan struct{})}
	l.restore()
	return l
}

// sever cuts the link; one that is cut stays so.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.Err() == nil {
		l.back = make(chan struct{})
		l.off()
	}
}

// restore undoes sever.
func (l *link) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut == nil || l.cut.Err() != nil {
		l.cut, l.off = context.WithCancel(context.Background())
		close(l.back)
	}
}

// through returns a context that ends with ctx, or when the link is cut.
func (l *link) through(ctx context.Context) (context.Context, context.CancelFunc, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.Err() != nil {
		return nil, nil, errCutOff
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.cut, func() { cancel(errCutOff) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// whole waits until the link is whole; not ok: ctx ended first.
func (l *link) whole(ctx context.Context) (ok bool) {
	l.mu.Lock()
	back := l.back
	l.mu.Unlock()
	select {
	case <-back:
		return true
	case <-ctx.Done():
		return false
	}
}

// linkedClient is a client over a link.
type linkedClient struct {
	client.Client
	link *link
}

// over makes one request over the link.
func over[T any](c linkedClient, ctx context.Context, request func(context.Context) (T, error)) (answer T, err error) {
	through, done, err := c.link.through(ctx)
	if err != nil {
		return answer, err
	}
	defer done()
	answer, err = request(through)
	if context.Cause(through) == errCutOff {
		var none T
		return none, errCutOff // it may have come through: the node does not hear of it
	}
	return answer, err
}

func (c linkedClient) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	return over(c, ctx, func(ctx context.Context) (api.Object, error) { return c.Client.Get(ctx, r, namespace, name) })
}

func (c linkedClient) List(ctx context.Context, r *api.Resource, o client.ListOptions) ([]api.Object, string, error) {
	var revision string
	list, err := over(c, ctx, func(ctx context.Context) (list []api.Object, err error) {
		list, revision, err = c.Client.List(ctx, r, o)
		return list, err
	})
	return list, revision, err
}

func (c linkedClient) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	return over(c, ctx, func(ctx context.Context) (api.Object, error) { return c.Client.Create(ctx, obj) })
}

func (c linkedClient) Update(ctx context.Context, sub string, obj api.Object) (api.Object, error) {
	return over(c, ctx, func(ctx context.Context) (api.Object, error) { return c.Client.Update(ctx, sub, obj) })
}

func (c linkedClient) Patch(ctx context.Context, r *api.Resource, namespace, name string, p client.Patch) (api.Object, error) {
	return over(c, ctx, func(ctx context.Context) (api.Object, error) { return c.Client.Patch(ctx, r, namespace, name, p) })
}

func (c linkedClient) Delete(ctx context.Context, r *api.Resource, namespace, name string, o metav1.DeleteOptions) error {
	_, err := over(c, ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.Client.Delete(ctx, r, namespace, name, o)
	})
	return err
}

func (c linkedClient) Post(ctx context.Context, r *api.Resource, namespace, name, sub string, body runtime.Object) (runtime.Object, error) {
	return over(c, ctx, func(ctx context.Context) (runtime.Object, error) {
		return c.Client.Post(ctx, r, namespace, name, sub, body)
	})
}

func (c linkedClient) Fenced(e client.Epoch) client.Client {
	return linkedClient{c.Client.Fenced(e), c.link}
}

// Follow hands the feed on while the link is whole. A feed that nobody reads
// catches up by itself.
func (c linkedClient) Follow(ctx context.Context, sources ...client.Source) *client.Feed {
	feed, out := c.Client.Follow(ctx, sources...), make(chan client.Batch)
	go func() {
		defer close(out)
		for batch := range feed.C {
			if !c.link.whole(ctx) {
				return
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return &client.Feed{C: out}
}
