package apiserver

import "context"

// delete answers DELETE of one object.
func (s *Server) delete(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
