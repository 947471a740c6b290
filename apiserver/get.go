package apiserver

import "context"

// get answers GET of one object.
func (s *Server) get(ctx context.Context, r *Request) (*Result, error) { panic("being written") }
