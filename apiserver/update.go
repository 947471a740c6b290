package apiserver

import "context"

// update answers PUT, to an object or to one of its parts.
func (s *Server) update(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
