package store

import "context"

// watch runs follow in a loop of the gate; follow sends what it sees and returns
// why it stopped: the cause of its context's end, or something else.
func watch(ctx context.Context, g *gate, follow func(context.Context, chan<- Batch) error) *Watcher {
	out := make(chan Batch)
	w := &Watcher{C: out}
	err := g.loop(func(context.Context) {
		defer close(out)
		ctx, cancel := g.over(ctx)
		defer cancel()
		w.err = follow(ctx, out)
	})
	if err != nil {
		w.err = err
		close(out)
	}
	return w
}
