package node

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	"skiff/api"
	"skiff/client"
)

// services follows all services for the containers' environment. The first
// function waits for the first snapshot; the second one is to be run. Both are nil
// where containers get no such variables.
func (a *Agent) services() (func() ([]*corev1.Service, error), func(context.Context) error) {
	if a.c.NoServiceEnv {
		return nil, nil
	}
	var mu sync.RWMutex
	known := make(chan struct{})
	ended := make(chan struct{})
	all := map[string]*corev1.Service{}
	get := func() ([]*corev1.Service, error) {
		select {
		case <-known:
		case <-ended:
			return nil, context.Canceled
		}
		mu.RLock()
		defer mu.RUnlock()
		out := make([]*corev1.Service, 0, len(all))
		for _, s := range all {
			out = append(out, s)
		}
		return out, nil
	}
	follow := func(ctx context.Context) error {
		defer close(ended)
		first := true
		for batch := range a.c.Client.Follow(ctx, client.Source{Resource: api.For[*corev1.Service]()}).C {
			mu.Lock()
			for _, c := range batch.Changes {
				key := c.Object().GetNamespace() + "/" + c.Object().GetName()
				if c.New == nil {
					delete(all, key)
				} else {
					all[key] = c.New.(*corev1.Service)
				}
			}
			mu.Unlock()
			if first {
				close(known)
				first = false
			}
		}
		return nil
	}
	return get, follow
}

// lazyHandler is the server's handler before and after the server is there.
type lazyHandler struct{ h atomic.Pointer[http.Handler] }

func (l *lazyHandler) set(h http.Handler) { l.h.Store(&h) }

func (l *lazyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := l.h.Load()
	if h == nil {
		http.Error(w, "the node agent is starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}
