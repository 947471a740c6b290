// Package openapi serves the description of the API in OpenAPI v2 and v3. The
// documents are generated (tools/openapi) from the catalogue and the comments of
// k8s.io/api's types, compressed, and embedded: serving them costs nothing at
// start, and next to nothing afterwards. Those of custom resources are made when
// they are asked for, and joined with these (custom.go). apiserver calls it for
// paths under /openapi; it never looks at what is stored.
package openapi

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/munnerz/goautoneg"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

//go:generate go -C ../../tools/openapi generate .

//go:embed documents
var documents embed.FS

// Index is documents/index.json: what there is.
type Index struct {
	// V2 is the document at /openapi/v2, V3 those below /openapi/v3/, by path
	// ("api/v1", "apis/apps/v1").
	V2 Document            `json:"v2"`
	V3 map[string]Document `json:"v3"`
}

// Document is one document in its encodings.
type Document struct {
	// Hash of the content; it is part of the URL that clients may cache for ever.
	Hash string `json:"hash"`
	// JSON and Protobuf are files in documents, compressed with gzip.
	JSON     string `json:"json"`
	Protobuf string `json:"protobuf"`

	packed func(name string) ([]byte, error) // of documents that are made; nil: it is a file
}

// The media types, the default first. The first protobuf name of v2 is its
// official one, which has no slash and so cannot be parsed.
const (
	mediaJSON = "application/json"
	mediaV2   = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	mediaV2At = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	mediaV3   = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	mediaV3At = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// load reads the index. It is done once.
var load = sync.OnceValues(func() (*Index, error) {
	raw, err := documents.ReadFile("documents/index.json")
	if err != nil {
		return nil, fmt.Errorf("read the index of OpenAPI documents: %w", err)
	}
	var index Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("read the index of OpenAPI documents: %w", err)
	}
	return &index, nil
})

// Handler serves /openapi/v2, /openapi/v3 and /openapi/v3/…. elsewhere are documents
// of v3 that others serve, by path, and what changes with them.
func Handler(custom *Custom, elsewhere map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { serve(w, req, custom, elsewhere) })
}

func serve(w http.ResponseWriter, req *http.Request, custom *Custom, elsewhere map[string]string) {
	index, err := load()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	path := strings.TrimSuffix(req.URL.Path, "/")
	switch {
	case path == "/openapi/v2":
		doc := &index.V2
		if custom.v2 != nil {
			doc = custom.v2
		}
		doc.serve(w, req, mediaV2, mediaV2At)
	case path == "/openapi/v3":
		index.serveRoot(w, req, custom, elsewhere)
	case strings.HasPrefix(path, "/openapi/v3/"):
		name := strings.TrimPrefix(path, "/openapi/v3/")
		doc, ok := index.V3[name]
		if made := custom.v3[name]; made != nil {
			doc, ok = *made, true
		}
		if !ok {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		doc.serve(w, req, mediaV3, mediaV3At)
	default:
		http.Error(w, "404 page not found", http.StatusNotFound)
	}
}

// serveRoot lists the documents with URLs that name their content.
func (x *Index) serveRoot(w http.ResponseWriter, req *http.Request, custom *Custom, elsewhere map[string]string) {
	type link struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := make(map[string]link, len(x.V3))
	for path, doc := range x.V3 {
		paths[path] = link{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(doc.Hash)}
	}
	for path, doc := range custom.v3 {
		paths[path] = link{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(doc.Hash)}
	}
	for path, identity := range elsewhere {
		paths[path] = link{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(hash(identity))}
	}
	body, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaJSON)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
}

func (d Document) serve(w http.ResponseWriter, req *http.Request, protobuf ...string) {
	if asked := req.URL.Query().Get("hash"); asked != "" {
		if asked != d.Hash {
			at := *req.URL
			at.RawQuery = url.Values{"hash": {d.Hash}}.Encode()
			http.Redirect(w, req, at.RequestURI(), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	media, file := d.choose(req.Header.Get("Accept"), protobuf)
	if file == "" {
		http.Error(w, "only the following media types are accepted: "+mediaJSON+", "+protobuf[0], http.StatusNotAcceptable)
		return
	}
	header := w.Header()
	header.Set("Vary", "Accept, Accept-Encoding")
	header.Set("Content-Type", media)
	etag := `"` + d.Hash + "-" + file + `"`
	header.Set("Etag", etag)
	if req.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if err := d.send(w, req, file); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// choose returns the media type and the file for an Accept header; no file: there is none.
func (d Document) choose(accept string, protobuf []string) (media, file string) {
	if accept == "" {
		return mediaJSON, d.JSON
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		name := clause.Type + "/" + clause.SubType
		switch name {
		case mediaJSON, "*/*", "application/*":
			return mediaJSON, d.JSON
		}
		for _, p := range protobuf {
			if name == p {
				return protobuf[0], d.Protobuf
			}
		}
	}
	return "", ""
}

// send writes a file: as it is where the client takes gzip.
func (d Document) send(w http.ResponseWriter, req *http.Request, name string) error {
	read := func(name string) ([]byte, error) { return fs.ReadFile(documents, "documents/"+name) }
	if d.packed != nil {
		read = d.packed
	}
	packed, err := read(name)
	if err != nil {
		return fmt.Errorf("read an OpenAPI document: %w", err)
	}
	if strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(packed)
		return nil
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("read an OpenAPI document: %w", err)
	}
	io.Copy(w, unpacked)
	return nil
}

// metaDocument has all that documents of custom resources refer to.
const metaDocument = "apis/apps/v1"

// MetaSchemas are the schemas of the types that custom resources share with all
// others: metadata, options, Status, Scale. They are read when first asked for.
var MetaSchemas = sync.OnceValues(func() (map[string]*spec.Schema, error) {
	index, err := load()
	if err != nil {
		return nil, err
	}
	body, err := unpack(index.V3[metaDocument].JSON)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("read the schemas of %s: %w", metaDocument, err)
	}
	out := map[string]*spec.Schema{}
	for name, raw := range doc.Components.Schemas {
		if !strings.HasPrefix(name, "io.k8s.apimachinery.") && !strings.HasPrefix(name, "io.k8s.api.autoscaling.v1.Scale") {
			continue
		}
		out[name] = &spec.Schema{}
		if err := json.Unmarshal(raw, out[name]); err != nil {
			return nil, fmt.Errorf("read the schema of %s: %w", name, err)
		}
	}
	return out, nil
})

// unpack reads a file of documents.
func unpack(name string) ([]byte, error) {
	packed, err := fs.ReadFile(documents, "documents/"+name)
	if err != nil {
		return nil, fmt.Errorf("read an OpenAPI document: %w", err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("read an OpenAPI document: %w", err)
	}
	return io.ReadAll(unpacked)
}
