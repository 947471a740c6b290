package apiserver

import (
	"context"
	"fmt"
)

// Forget makes the past up to now unreadable, in the store and in the cache: what
// time does to it by and by. For tests.
func (s *Server) Forget(ctx context.Context) error {
	revision, err := s.store.Revision(ctx)
	if err == nil {
		err = s.cache.WaitFor(ctx, revision)
	}
	if err != nil {
		return fmt.Errorf("forget the past: %w", err)
	}
	s.cache.Forget(revision)
	return s.store.Compact(ctx, revision)
}
