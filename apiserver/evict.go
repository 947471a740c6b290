package apiserver

import "context"

// evict answers POST to pods/eviction.
func (s *Server) evict(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
