package apiserver

import (
	"context"
	"iter"
	"slices"

	"golang.org/x/sync/errgroup"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/apiserver/admission/dynamic"
	"skiff/apiserver/alloc"
)

// write is what the verbs that write have of their own: create, update, patch,
// delete and deletecollection, each in the file of its name, and the
// subresources binding, eviction and scale.
type write struct {
	admission admission.Chain
	asking    admission.Chain // of admission, the steps that ask webhooks and policies
	dynamic   *dynamic.Admission
	owners    *owners
	services  *alloc.Services
	quotas    *quotas
}

func newWrite(s *Server) (write, error) {
	limitCopies()
	chain := admission.New(admission.Config{Reader: reader{s}, Authorizer: s.authz})
	asked, err := newDynamic(s, chain)
	if err != nil {
		return write{}, err
	}
	asking := asked.Steps()
	quotas := &quotas{s: s, waiting: map[string][]*charge{}}
	return write{
		// Policies and webhooks judge what the others have made. Nobody gives others
		// more than they have themselves. Quota comes last: only what all others let
		// pass is charged.
		admission: slices.Concat(chain, asking, admission.Chain{{Name: "RBACEscalation", Validate: s.checkEscalation}, quotas.step()}),
		asking:    asking,
		dynamic:   asked,
		quotas:    quotas,
		owners:    newOwners(s.log),
		services:  alloc.New(alloc.Config{Store: s.store, Cluster: addressBook{s}, Log: s.log}),
	}, nil
}

// run does what belongs to writing but to no request, until ctx ends.
func (w *write) run(ctx context.Context, s *Server) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { w.owners.prepare(ctx); return nil })
	group.Go(func() error { return s.repair(ctx) })
	group.Go(func() error { w.dynamic.Run(ctx); return nil })
	return group.Wait()
}

// reader is the cluster's state as admission sees it: the cache, without
// authorization, since it is the server itself that looks.
type reader struct{ s *Server }

// Get reads from the cache.
func (r reader) Get(row *api.Resource, namespace, name string) (api.Object, bool) {
	entry, ok := r.s.table(row).Get(namespace, name)
	if !ok || entry.Err() != nil {
		return nil, false
	}
	return entry.Object(), true
}

// Live reads the newest state.
func (r reader) Live(ctx context.Context, row *api.Resource, namespace, name string) (api.Object, error) {
	entry, err := r.s.currentStored(ctx, row, namespace, name)
	if err != nil {
		return nil, err
	}
	return entry.Object(), nil
}

// List reads a namespace, or with "" all, from the cache.
func (r reader) List(row *api.Resource, namespace string) iter.Seq[api.Object] {
	return func(yield func(api.Object) bool) {
		for entry := range r.s.table(row).Snapshot().All(namespace) {
			if entry.Err() == nil && !yield(entry.Object()) {
				return
			}
		}
	}
}
