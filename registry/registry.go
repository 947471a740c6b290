// Package registry is the container registry inside the cluster. It owns one directory with images, speaks the OCI distribution
// protocol (docker push, crane, skopeo, containerd) over it, and writes the hosts.toml files through which every node's containerd asks
// it first. The server mounts it as an http.Handler, `skiff image load` pushes to it, nodes pull from it; it calls nobody.
//
// A repository's name is a reference's, in full: what is pushed as example/web is docker.io/example/web, and a node that is asked for
// the image example/web:v1 finds it here before it would ask docker.io. (containerd tells a mirror the registry it asks for: ?ns=docker.io.)
//
// Everything is in files and streams through: no request holds more than a manifest (4 MiB at most) in memory, and what a client was told
// is stored was flushed to disk before.
//
//	blobs/sha256/<hex>             content by digest: layers, configurations, manifests
//	repos/<name>/manifests/<hex>   a repository has this manifest; the file holds its media type
//	repos/<name>/tags/<tag>        the file holds the digest
//	repos/<name>/replaced/<hex>    the manifest lost its last tag when this file was made
//	uploads/<id>                   a blob that is on its way
//
// Lock order: upload.mu before Registry.mu.
package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says where the images are and who may change them.
type Config struct {
	Dir string // made if need be
	// Names are the hosts by which users call this registry in image references, beside loopback addresses, e.g. registry.skiff.local.
	// A reference to one of them means the same repository as one without a host.
	Names []string
	// MayPush tells who may write and delete. nil: everybody who reaches the handler. Everybody may read.
	MayPush func(*http.Request) bool
	// Keep is how long a manifest stays that has lost its last tag, and content that nothing refers to. 0 means 24 hours.
	Keep   time.Duration
	Logger *slog.Logger // nil: slog.Default
}

// Registry is an open registry. It is an http.Handler for /v2/….
type Registry struct {
	c    Config
	root *os.Root // of Config.Dir: no name from a request leads out of it
	log  *slog.Logger

	// mu is held shared while a blob is found or comes to be, alone while manifests, tags or garbage change. Never while a body is read.
	mu      sync.RWMutex
	uploads map[string]*upload // guarded by uploadMu
	// uploadMu guards the table only; an upload has its own lock.
	uploadMu sync.Mutex
}

const defaultKeep = 24 * time.Hour

// New opens the registry's directory. Uploads that were cut off by the last stop are removed.
func New(c Config) (*Registry, error) {
	if c.Dir == "" {
		return nil, errors.New("registry: no directory is given")
	}
	if c.Keep == 0 {
		c.Keep = defaultKeep
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, dir := range []string{"blobs/sha256", "repos"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("open registry: %w", err)
		}
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if err := errors.Join(root.RemoveAll("uploads"), root.Mkdir("uploads", 0o755)); err != nil {
		return nil, fmt.Errorf("open registry: %w", errors.Join(err, root.Close()))
	}
	return &Registry{c: c, root: root, log: c.Logger.With("component", "registry"), uploads: map[string]*upload{}}, nil
}

// Close gives the directory back.
func (r *Registry) Close() error { return r.root.Close() }

const sweepEvery = time.Hour

// Run removes what nobody refers to any more, now and each hour, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	for {
		if freed, err := r.Sweep(time.Now()); err != nil {
			r.log.Error("the registry's garbage could not be removed", "error", err)
		} else if freed > 0 {
			r.log.Info("removed what no image uses any more", "bytes", freed)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// ServeHTTP answers the distribution protocol.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if err := r.serve(w, req); err != nil {
		r.refuse(w, req, err)
	}
}

// serve finds out what is meant by the path. A repository's name may have any number of parts, so the path is read from its end.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) error {
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2")
	if !ok {
		return notFound("UNSUPPORTED", "the registry's API begins with /v2/")
	}
	// The API's root asks for credentials too: it is where docker and crane find out whether they should send any.
	if (writes(req.Method) || strings.Trim(rest, "/") == "") && r.c.MayPush != nil && !r.c.MayPush(req) {
		w.Header().Set("WWW-Authenticate", `Basic realm="skiff registry"`)
		return &failure{http.StatusUnauthorized, "UNAUTHORIZED", "pushing to this registry needs authentication"}
	}
	switch strings.Trim(rest, "/") {
	case "":
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{}")
		return nil
	case "_catalog":
		return r.catalog(w, req)
	}
	parts := strings.Split(strings.Trim(rest, "/"), "/")
	n := len(parts)
	if n >= 3 && parts[n-2] == "blobs" && parts[n-1] == "uploads" {
		return r.within(parts[:n-2], req, func(repo string) error { return r.beginUpload(w, req, repo) })
	}
	if n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads" {
		return r.within(parts[:n-3], req, func(repo string) error { return r.upload(w, req, repo, parts[n-1]) })
	}
	if n < 3 {
		return notFound("NAME_UNKNOWN", "the path names no repository")
	}
	return r.within(parts[:n-2], req, func(repo string) error {
		switch parts[n-2] {
		case "manifests":
			return r.manifest(w, req, repo, parts[n-1])
		case "blobs":
			return r.blob(w, req, parts[n-1])
		case "referrers":
			return r.referrers(w, req, repo, parts[n-1])
		case "tags":
			if parts[n-1] == "list" {
				return r.tags(w, req, repo)
			}
		}
		return notFound("UNSUPPORTED", "the registry knows no "+parts[n-2])
	})
}

// within calls do with the canonical name of the repository that the path's parts and the query's ns name.
func (r *Registry) within(parts []string, req *http.Request, do func(repo string) error) error {
	repo, err := r.canonical(req.URL.Query().Get("ns"), strings.Join(parts, "/"))
	if err != nil {
		return err
	}
	return do(repo)
}

func writes(method string) bool { return method != http.MethodGet && method != http.MethodHead }

// canonical is the full name of a repository: ns is the registry that a mirror was asked for, "" where the client came for us.
func (r *Registry) canonical(ns, name string) (string, error) {
	if ns != "" && r.own(ns) {
		ns = ""
	}
	if ns == "" {
		first, rest, more := strings.Cut(name, "/")
		switch {
		case more && r.own(first):
			return r.canonical("", rest)
		case more && isHost(first):
			ns, name = first, rest
		default:
			ns = dockerHub
		}
	}
	if ns == "index.docker.io" || ns == "registry-1.docker.io" {
		ns = dockerHub
	}
	if ns == dockerHub && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	full := ns + "/" + name
	if !validHost(ns) || !validName(name) || len(url.PathEscape(full)) > 255 {
		return "", &failure{http.StatusBadRequest, "NAME_INVALID", fmt.Sprintf("%q is no repository name", full)}
	}
	return full, nil
}

const dockerHub = "docker.io"

// familiar is a repository's name as people write it.
func familiar(repo string) string {
	if short, ok := strings.CutPrefix(repo, dockerHub+"/library/"); ok {
		return short
	}
	return strings.TrimPrefix(repo, dockerHub+"/")
}

// own tells whether a host in a reference means this registry. Loopback does: on a node, nothing else there could be meant.
func (r *Registry) own(host string) bool {
	for _, n := range r.c.Names {
		if host == n {
			return true
		}
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// isHost is the rule by which a reference's first part is a registry.
func isHost(s string) bool { return s == "localhost" || strings.ContainsAny(s, ".:") }

func validHost(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]_") == "" && !strings.Contains(s, "..")
}

// validName holds a path against the protocol's grammar: parts of lower-case letters and digits, between them . _ __ or dashes.
func validName(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return false
		}
		if strings.ContainsAny(part[:1]+part[len(part)-1:], "._-") || strings.Contains(part, "..") {
			return false
		}
	}
	return s != ""
}

// failure is an error that the client is told, in the protocol's form.
type failure struct {
	status  int
	code    string // the protocol's, e.g. BLOB_UNKNOWN
	message string
}

func (f *failure) Error() string { return f.message }

func notFound(code, message string) error { return &failure{http.StatusNotFound, code, message} }
func invalid(code, message string) error  { return &failure{http.StatusBadRequest, code, message} }

func methodNotAllowed() error {
	return &failure{http.StatusMethodNotAllowed, "UNSUPPORTED", "the registry has no such operation"}
}

// refuse answers with an error. What is our own fault is logged, since the client cannot help it.
func (r *Registry) refuse(w http.ResponseWriter, req *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		if req.Context().Err() == nil {
			r.log.Error("a request to the registry was not served", "method", req.Method, "path", req.URL.Path, "error", err)
		}
		f = &failure{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	}
	h := w.Header()
	for _, key := range []string{"Content-Length", "Docker-Content-Digest", "Etag"} {
		h.Del(key)
	}
	writeJSON(w, f.status, map[string]any{"errors": []any{map[string]string{"code": f.code, "message": f.message}}})
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
