package apiserver

import "context"

// action returns what serves a subresource that is not the object itself, or
// nil: the verb's own function serves it (status, finalize, resize …).
func (s *Server) action(r *Request) func(context.Context, *Request) (*Result, error) {
	return nil
}
