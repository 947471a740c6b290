package apiserver

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
	"skiff/apiserver/openapi"
)

// servePath answers requests for paths that are not resources: discovery,
// OpenAPI, health, metrics, version, profiles.
func (s *Server) servePath(ctx context.Context, r *Request) (*Result, error) {
	if r.HTTP == nil {
		return nil, notFoundHere()
	}
	if own := s.frontConfig.Paths[r.Path]; own != nil {
		return &Result{Stream: own}, nil
	}
	if result, err := s.stream(r); result != nil || err != nil {
		return result, err
	}
	if r.Verb != "get" && r.Verb != "head" {
		if s.discovery().object(r) != nil {
			return nil, methodNotAllowed()
		}
		return nil, notFoundHere()
	}
	docs := s.discovery()
	path := strings.TrimSuffix(r.Path, "/")
	if path == "/api" || path == "/apis" {
		if result := docs.aggregate(r, path); result != nil {
			return result, nil
		}
	}
	if err := r.negotiate(r.HTTP); err != nil {
		return nil, err
	}
	if obj := docs.object(r); obj != nil {
		return &Result{Object: obj}, nil
	}
	return nil, notFoundHere()
}

// stream finds the handlers that write by themselves.
func (s *Server) stream(r *Request) (*Result, error) {
	under := func(root string) bool { return r.Path == root || strings.HasPrefix(r.Path, root+"/") }
	var h http.HandlerFunc
	switch {
	case under("/livez"), under("/readyz"), under("/healthz"):
		h = s.health
	case r.Path == "/metrics":
		h = s.metrics.handler().ServeHTTP
	case r.Path == "/version", r.Path == "/version/":
		h = func(w http.ResponseWriter, req *http.Request) { writeJSON(w, Version()) }
	case under("/openapi/v2"), under("/openapi/v3"):
		h = openapi.Handler(s.customs.served().openapi(), s.aggregatedOpenAPI()).ServeHTTP
	case r.Path == "/openid/v1/jwks" && s.authConfig.Issuer != nil:
		h = func(w http.ResponseWriter, req *http.Request) {
			sendDocument(w, "application/jwk-set+json", s.authConfig.Issuer.Keys())
		}
	case r.Path == "/.well-known/openid-configuration" && s.authConfig.Issuer != nil:
		body, err := s.discoverIssuer()
		if err != nil {
			return nil, err
		}
		h = func(w http.ResponseWriter, req *http.Request) { sendDocument(w, "application/json", body) }
	case under("/debug/pprof"):
		h = profile
	case under(strings.TrimSuffix(flowDebug, "/")):
		h = s.flowDump
	case r.Path == "/":
		h = func(w http.ResponseWriter, req *http.Request) {
			writeJSON(w, metav1.RootPaths{Paths: s.rootPaths()})
		}
	default:
		return nil, nil
	}
	if r.Verb != "get" && r.Verb != "head" && !under("/debug/pprof") {
		return nil, methodNotAllowed()
	}
	return &Result{Stream: h}, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// sendDocument writes a document about the issuer, which others may keep for an hour.
func sendDocument(w http.ResponseWriter, media string, body []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Write(body)
}

// profile is net/http/pprof, without its registration with the default mux.
func profile(w http.ResponseWriter, req *http.Request) {
	switch strings.TrimPrefix(req.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(w, req)
	case "profile":
		pprof.Profile(w, req)
	case "symbol":
		pprof.Symbol(w, req)
	case "trace":
		pprof.Trace(w, req)
	default:
		pprof.Index(w, req)
	}
}

// rootPaths lists what there is, for whoever asks for "/".
func (s *Server) rootPaths() []string {
	paths := []string{"/.well-known/openid-configuration", "/debug/pprof", "/healthz", "/livez", "/metrics",
		"/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"}
	for _, c := range s.healthChecks() {
		paths = append(paths, "/healthz/"+c.Name)
		if c.Live {
			paths = append(paths, "/livez/"+c.Name)
		}
		if c.Ready {
			paths = append(paths, "/readyz/"+c.Name)
		}
	}
	for path := range s.customs.served().documents.get().plain {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// documents are discovery's answers. They are made when first asked for.
type documents struct {
	rows []*api.Resource
	once sync.Once
	set  discoverySet
}

func newDocuments(rows []*api.Resource) *documents { return &documents{rows: rows} }

func (d *documents) get() *discoverySet {
	d.once.Do(func() { d.set = newDiscoverySet(d.rows) })
	return &d.set
}

// discoverySet is discovery of one set of rows.
type discoverySet struct {
	groups []group
	plain  map[string]runtime.Object // by path
	stale  map[schema.GroupVersion]bool
}

func newDiscoverySet(rows []*api.Resource) discoverySet {
	set := discoverySet{groups: groupsOf(rows), plain: map[string]runtime.Object{}}
	set.plain["/apis"] = groupList(set.groups)
	core := &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}}
	for _, g := range set.groups {
		base := "/apis/" + g.name
		if g.name == "" {
			base = "/api"
		} else {
			one := g.discovery()
			one.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			set.plain[base] = &one
		}
		for _, v := range g.versions {
			set.plain[base+"/"+v.version] = resourceList(g.name, v)
			if g.name == "" {
				core.Versions = append(core.Versions, v.version)
			}
		}
	}
	set.plain["/api"] = core
	return set
}

// object returns the document at the request's path, or nil.
func (set *discoverySet) object(r *Request) runtime.Object {
	obj := set.plain[strings.TrimSuffix(r.Path, "/")]
	if core, ok := obj.(*metav1.APIVersions); ok {
		with := *core
		with.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: r.HTTP.Host}}
		return &with
	}
	return obj
}

// aggregate answers clients that accept all of discovery in one document; nil:
// this one does not.
func (set *discoverySet) aggregate(r *Request, path string) *Result {
	media, version := wantsAggregated(r.HTTP.Header.Get("Accept"))
	if media == "" {
		return nil
	}
	var doc runtime.Object
	if list := aggregated(set.groups, path == "/api", set.stale); version == "v2" {
		doc = list
	} else {
		doc = asBeta(list)
	}
	return &Result{Stream: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header := w.Header()
		header.Add("Vary", "Accept")
		out := Output{MediaType: media}
		sum := sha512.New()
		if err := encodeObject(sum, doc, out); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		etag := fmt.Sprintf("\"%X\"", sum.Sum(nil))
		header.Set("ETag", etag)
		header.Set("Cache-Control", "public")
		if req.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		body := &bodyWriter{to: w, code: http.StatusOK, gzip: acceptsGzip(req),
			media: media + ";g=apidiscovery.k8s.io;v=" + version + ";as=APIGroupDiscoveryList"}
		if err := encodeObject(body, doc, out); err == nil {
			body.finish()
		}
	})}
}

// wantsAggregated returns the media type and the version of the first clause of
// an Accept header that can be answered, if that is one for aggregated discovery.
func wantsAggregated(accept string) (media, version string) {
	if !strings.Contains(accept, "apidiscovery.k8s.io") {
		return "", ""
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, media := range objectTypes {
			if !matches(&clause, media) {
				continue
			}
			if v := clause.Params["v"]; clause.Params["g"] == "apidiscovery.k8s.io" && clause.Params["as"] == "APIGroupDiscoveryList" && (v == "v2" || v == "v2beta1") {
				return media, v
			}
			if clause.Params["as"] == "" && clause.Params["g"] == "" {
				return "", ""
			}
		}
	}
	return "", ""
}
