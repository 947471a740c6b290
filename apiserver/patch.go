package apiserver

import "context"

// patch answers PATCH, to an object or to one of its parts.
func (s *Server) patch(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
