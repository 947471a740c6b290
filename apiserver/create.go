package apiserver

import "context"

// create answers POST to a collection.
func (s *Server) create(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
