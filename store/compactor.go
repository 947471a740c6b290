package store

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// CompactorConfig says what a Compactor compacts, and when.
type CompactorConfig struct {
	Store Store
	// Interval is how often it compacts, and how much history it leaves at least.
	// 0 means 5 minutes.
	Interval time.Duration
	// Logger gets compactions that did not happen. nil: nobody does.
	Logger *slog.Logger
}

// Compactor keeps a store's history short.
type Compactor struct{ c CompactorConfig }

// NewCompactor returns a compactor that does nothing until Run.
func NewCompactor(c CompactorConfig) (*Compactor, error) {
	if c.Store == nil {
		return nil, errors.New("compactor: no store is given")
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Compactor{c}, nil
}

// Run compacts, at each interval, to the revision of one interval ago, until ctx
// ends. Several processes may do so for one store: each leaves an interval.
func (c *Compactor) Run(ctx context.Context) error {
	ticker := time.NewTicker(c.c.Interval)
	defer ticker.Stop()
	then, err := c.c.Store.Revision(ctx)
	for {
		if err != nil && ctx.Err() == nil {
			c.c.Logger.Warn("the store's history could not be compacted", "revision", then, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now, failed := c.c.Store.Revision(ctx)
		if err = failed; err != nil {
			continue
		}
		if err = c.c.Store.Compact(ctx, then); err == nil || errors.Is(err, ErrCompacted) {
			err, then = nil, now
		}
	}
}
