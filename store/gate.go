package store

import (
	"context"
	"sync"
)

// gate lets calls in until it is shut, and lets whoever shuts it wait until all
// that came in have left.
type gate struct {
	ctx  context.Context // ends when the gate is shut; its cause says why
	stop context.CancelCauseFunc

	mu    sync.RWMutex
	shut  bool
	calls sync.WaitGroup // that are inside; Add only with mu held and shut false
	loops sync.WaitGroup // those that ctx ends: watches, the reaper; Add as for calls
}

func newGate() *gate {
	ctx, stop := context.WithCancelCause(context.Background())
	return &gate{ctx: ctx, stop: stop}
}

// enter fails if ctx is over, or with the cause if the gate is shut; else leave must
// follow.
func (g *gate) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return g.add(&g.calls)
}

func (g *gate) leave() { g.calls.Done() }

// call is enter, for what can take long: the context that it returns ends when the
// gate shuts, too.
func (g *gate) call(ctx context.Context) (context.Context, func(), error) {
	if err := g.enter(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := g.over(ctx)
	return ctx, func() { cancel(); g.leave() }, nil
}

// loop runs f in a goroutine, unless the gate is shut. f must end when the
// context that it is given does, which is soon after the gate shuts.
func (g *gate) loop(f func(context.Context)) error {
	if err := g.add(&g.loops); err != nil {
		return err
	}
	go func() {
		defer g.loops.Done()
		f(g.ctx)
	}()
	return nil
}

func (g *gate) add(to *sync.WaitGroup) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.shut {
		return context.Cause(g.ctx)
	}
	to.Add(1)
	return nil
}

// close shuts the gate; the reason of the first time stays.
func (g *gate) close(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	g.stop(cause)
}

// over is done when ctx is, or the gate shuts.
func (g *gate) over(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	return ctx, func() {
		unhook()
		cancel(context.Canceled)
	}
}
