package apiserver

import "context"

// bind answers POST to pods/binding and to bindings.
func (s *Server) bind(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
