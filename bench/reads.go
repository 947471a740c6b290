package bench

import (
	"context"
	"fmt"
	"net/http"
)

// get reads pods, one of them at a time.
func get(accept string) func(*run, context.Context, *meter) error {
	return func(r *run, ctx context.Context, m *meter) error {
		if err := r.ensure(ctx, r.c.Objects); err != nil {
			return err
		}
		return m.measure(ctx, func(ctx context.Context) error {
			return m.each(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
				// A large odd step: neighbours in time are no neighbours in the store.
				n, err := r.target.do(ctx, request{method: http.MethodGet, path: r.path("pods/") + r.pods[i*7919%len(r.pods)], accept: accept})
				m.bytes.Add(n)
				return err
			})
		})
	}
}

// listers is how many lists run at once: answers are large, and more of them
// would measure the server's memory instead.
const listers = 4

// list reads all pods of the namespace, or those of a selector that one in a
// hundred has, as an informer does when it starts (resourceVersion=0).
func list(accept, encoding, selector string) func(*run, context.Context, *meter) error {
	return func(r *run, ctx context.Context, m *meter) error {
		if err := r.ensure(ctx, r.c.Objects); err != nil {
			return err
		}
		query, want := "?resourceVersion=0", len(r.pods)
		if selector != "" {
			query, want = query+"&"+selector, 0
			for i := range r.made {
				if i%100 == 17 && i >= r.made-len(r.pods) {
					want++
				}
			}
		}
		// What is measured must be the whole answer.
		if got, err := r.items(ctx, r.path("pods"), query); err != nil || got != want {
			return fmt.Errorf("list pods%s: %d items instead of %d (%w)", query, got, want, err)
		}
		return m.measure(ctx, func(ctx context.Context) error {
			return m.each(ctx, min(listers, r.c.Clients), m.n, func(ctx context.Context, _ int) error {
				n, err := r.target.do(ctx, request{method: http.MethodGet, path: r.path("pods") + query, accept: accept, encoding: encoding})
				m.bytes.Add(n)
				return err
			})
		})
	}
}
