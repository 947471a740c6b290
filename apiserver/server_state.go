package apiserver

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

// Config says what a Server stands on.
type Config struct {
	// Store is opened and closed by the caller. Required.
	Store store.Store
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// Resources are the rows that are served; nil: api.Catalogue.
	Resources []*api.Resource
	// History is how many bytes of past events the cache keeps; 0: 32 MiB.
	History int64

	// Front is what HTTP needs: listeners, limits, audit, the way to nodes.
	Front FrontConfig
	// Auth is what authentication, authorization and bootstrap need.
	Auth AuthConfig
}

// Server is the API: it answers requests from sockets and from components in
// the same process through serve.
type Server struct {
	config Config
	log    *slog.Logger
	store  store.Store
	cache  *cache.Cache
	rows   map[schema.GroupVersionResource]*api.Resource // built-in ones
	ready  chan struct{}                                 // closed when requests may come

	customs     *customs
	aggregation *aggregation

	front // http.go: limits, audit, discovery, metrics
	auth  // authorize.go: authn, authz, bootstrap
	write // create.go: admission, allocation, managed fields
}

// New checks the configuration and starts nothing.
func New(c Config) (*Server, error) {
	if c.Store == nil {
		return nil, fmt.Errorf("apiserver: Config.Store is required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Resources == nil {
		c.Resources = api.Catalogue
	}
	s := &Server{config: c, log: c.Logger, store: c.Store, ready: make(chan struct{}),
		rows: make(map[schema.GroupVersionResource]*api.Resource, len(c.Resources))}
	for _, r := range c.Resources {
		s.rows[r.GVR()] = r
	}
	var err error
	if s.cache, err = cache.New(cache.Config{Store: c.Store, Resources: c.Resources, History: c.History, Logger: c.Logger}); err != nil {
		return nil, err
	}
	s.customs = newCustoms(s, c.Resources)
	s.aggregation = newAggregation()
	if s.front, err = newFront(s, c.Front); err != nil {
		return nil, err
	}
	if s.auth, err = newAuth(s, c.Auth); err != nil {
		return nil, err
	}
	if s.write, err = newWrite(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Run serves until ctx ends: it fills the cache, writes what every cluster
// starts with, and then lets requests in.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.cache.Run(ctx) })
	group.Go(func() error {
		if err := s.cache.WaitReady(ctx); err != nil {
			return nil // the cache's own error is the one to return
		}
		if err := s.bootstrap(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("bootstrap: %w", err)
		}
		close(s.ready)
		return nil
	})
	group.Go(func() error { return s.keepDefinitions(ctx) })
	group.Go(func() error { return s.auth.run(ctx, s) })  // what authentication and authorization keep up to date
	group.Go(func() error { return s.write.run(ctx, s) }) // what belongs to writing but to no request
	group.Go(func() error { return s.keepAvailability(ctx) })
	group.Go(func() error { return s.runPresence(ctx) })  // endpoints of the servers that are there
	group.Go(func() error { return s.front.run(ctx, s) }) // listeners; health answers before ready
	return group.Wait()
}

// Ready is closed when the server answers requests.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// rowFor returns the row that is served under a group, version and resource, or nil.
func (s *Server) rowFor(gvr schema.GroupVersionResource) *api.Resource {
	if r := s.rows[gvr]; r != nil {
		return r
	}
	return s.customs.row(gvr)
}

// table returns where the objects of a row are; nil: the row stores nothing. A
// view's table is that of the row that stores its objects; all versions of a custom
// resource share one.
func (s *Server) table(r *api.Resource) *cache.Table { return s.cache.Table(r) }
