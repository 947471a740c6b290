package apiserver

import "context"

// scale answers GET, PUT and PATCH of the scale subresource.
func (s *Server) scale(ctx context.Context, r *Request) (*Result, error) { panic("in work") }
