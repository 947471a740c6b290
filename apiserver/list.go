package apiserver

import (
	"context"
	"io"

	"skiff/api"
	"skiff/cache"
)

// List is a part of a resource, all of one revision.
type List struct {
	Resource  *api.Resource
	Entries   []*cache.Entry // as Resource's version shows them
	Revision  int64
	Continue  string // token for the next part; "": this was the last
	Remaining *int64 // objects after this part; nil: not known
}

// list answers GET of a collection.
func (s *Server) list(ctx context.Context, r *Request) (*Result, error) { panic("being written") }

// Encode writes the list in the form that out names (As "" only: tables and
// partial metadata are table.go's).
func (l *List) Encode(w io.Writer, out Output) error { panic("being written") }
