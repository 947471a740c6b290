package apiserver

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
	"skiff/apiserver/crd"
	"skiff/apiserver/openapi"
	"skiff/cache"
)

// customs is which custom resources are served: what the cached definitions say,
// looked up when it is asked for, so that whoever sees that a definition is
// established can use it at once.
type customs struct {
	builtIn []*api.Resource
	config  crd.Config
	table   *cache.Table // of the definitions; nil: there are none

	set atomic.Pointer[servedSet]

	mu    sync.Mutex
	known map[string]*crd.Definition // by name; guarded by mu
}

// servedSet is everything that is served at one state of the definitions.
type servedSet struct {
	state       cache.Snapshot
	definitions []*crd.Definition // by name
	documents   *documents
	openapi     func() *openapi.Custom
	resources   []*api.Resource // what is stored, each resource once
	changed     chan struct{}   // closed when another set has taken the place of this one
}

var definitionRow = api.For[*apiextensionsv1.CustomResourceDefinition]()

func newCustoms(s *Server, builtIn []*api.Resource) *customs {
	c := &customs{builtIn: builtIn, table: s.cache.Table(definitionRow), known: map[string]*crd.Definition{}, config: s.definitionConfig()}
	first := &servedSet{documents: newDocuments(builtIn), openapi: newOpenAPI(nil), resources: builtIn, changed: make(chan struct{})}
	if c.table != nil {
		first.state = c.table.Snapshot()
	}
	c.set.Store(first)
	return c
}

// row returns the row of a custom resource, or nil.
func (c *customs) row(gvr schema.GroupVersionResource) *api.Resource {
	if c.table == nil || !strings.Contains(gvr.Group, ".") {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := gvr.Resource + "." + gvr.Group
	entry, _ := c.table.Get("", name) // under the lock, so that nobody goes back
	if def := c.definitionLocked(name, entry); def != nil {
		return def.Row(gvr.Version)
	}
	return nil
}

// definitionLocked returns what is served for a definition's entry; nil: nothing.
func (c *customs) definitionLocked(name string, entry *cache.Entry) *crd.Definition {
	have := c.known[name]
	switch {
	case entry == nil || entry.Err() != nil:
		if have != nil {
			delete(c.known, name)
			have.Replace()
		}
		return nil
	case have != nil && have.Revision == entry.Revision():
		return have
	}
	d := entry.Object().(*apiextensionsv1.CustomResourceDefinition)
	if have != nil && have.Is(d) {
		have.Seen(entry.Revision(), loader(entry))
		return have
	}
	next := crd.New(c.config, d, have)
	next.Seen(entry.Revision(), loader(entry))
	c.known[name] = next
	if have != nil {
		have.Replace()
	}
	return next
}

// served returns everything that is served now.
func (c *customs) served() *servedSet {
	have := c.set.Load()
	if c.table == nil || have.state.Same(c.table.Snapshot()) {
		return have
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have = c.set.Load()
	next := &servedSet{state: c.table.Snapshot()}
	if have.state.Same(next.state) {
		return have
	}
	there := map[string]bool{}
	for entry := range next.state.All("") {
		if def := c.definitionLocked(entry.Name(), entry); def != nil {
			there[entry.Name()] = true
			next.definitions = append(next.definitions, def)
		}
	}
	for _, name := range slices.Collect(maps.Keys(c.known)) {
		if !there[name] {
			c.definitionLocked(name, nil)
		}
	}
	if slices.Equal(have.definitions, next.definitions) {
		next.documents, next.openapi, next.resources, next.changed = have.documents, have.openapi, have.resources, have.changed
		c.set.Store(next)
		return next
	}
	shown := slices.Clip(c.builtIn)
	next.resources, next.changed = slices.Clip(c.builtIn), make(chan struct{})
	for _, def := range next.definitions {
		shown = append(shown, def.Rows...)
		if def.Stored != nil {
			next.resources = append(next.resources, def.Stored)
		}
	}
	next.documents, next.openapi = newDocuments(shown), newOpenAPI(next.definitions)
	c.set.Store(next)
	close(have.changed)
	return next
}

// Resources returns the rows of all that is stored now, each resource once, and a
// channel that is closed when that may have changed. Those of custom resources
// show objects as they are stored, for whoever needs only their metadata.
func (s *Server) Resources() ([]*api.Resource, <-chan struct{}) {
	set := s.customs.served()
	return set.resources, set.changed
}

// newOpenAPI returns the documents of some definitions. Nothing is made of them yet.
func newOpenAPI(definitions []*crd.Definition) func() *openapi.Custom {
	return sync.OnceValue(func() *openapi.Custom { return openAPIOf(definitions) })
}

func openAPIOf(definitions []*crd.Definition) *openapi.Custom {
	identities := map[string]string{}
	for _, def := range definitions {
		for _, r := range def.Rows {
			identities["apis/"+r.Group+"/"+r.Version] += def.Identity() + "\n"
		}
	}
	return openapi.NewCustom(identities, func(path string) (openapi.Part, error) {
		parts := strings.Split(path, "/")
		published, err := crd.PublishV3(definitions, parts[1], parts[2])
		return openapi.Part(published), err
	}, func() (openapi.Part, error) {
		published, err := crd.PublishV2(definitions)
		return openapi.Part(published), err
	})
}

// loader reads a definition again when its schemas are needed: between times, only
// the cache's bytes of it are in memory.
func loader(entry *cache.Entry) func() *apiextensionsv1.CustomResourceDefinition {
	return func() *apiextensionsv1.CustomResourceDefinition {
		return entry.Object().(*apiextensionsv1.CustomResourceDefinition)
	}
}

// mayCreate refuses to create objects of a definition that is being deleted.
func mayCreate(row *api.Resource, name string) error {
	if row.Custom == nil || !row.Custom.Terminating {
		return nil
	}
	return apierrors.NewForbidden(row.GroupResource(), name, errors.New("create not allowed while custom resource definition is terminating"))
}
