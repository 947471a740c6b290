package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Part is what a document has beyond the built-in ones.
type Part struct {
	Paths   map[string]any
	Schemas map[string]*spec.Schema
}

// Custom is the parts of custom resources. Its documents are made when somebody
// asks for them, and kept as long as the Custom is.
type Custom struct {
	v2 *Document
	v3 map[string]*Document
}

// NewCustom returns documents of which nothing is made yet. The keys of identities
// are paths, as those of Index.V3; the values change with the document. v3 returns
// the part of a path, v2 that of the one document of OpenAPI v2.
func NewCustom(identities map[string]string, v3 func(path string) (Part, error), v2 func() (Part, error)) *Custom {
	c := &Custom{v3: make(map[string]*Document, len(identities))}
	if len(identities) == 0 {
		return c
	}
	var all bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(identities)) {
		fmt.Fprintln(&all, path, identities[path])
		make := &maker{text: sync.OnceValues(func() ([]byte, error) { return mergedV3(path, v3) }), message: messageV3}
		c.v3[path] = make.document(hash(identities[path]))
	}
	make := &maker{text: sync.OnceValues(func() ([]byte, error) { return mergedV2(v2) }),
		message: func([]byte) ([]byte, error) { return messageV2(v2) }}
	c.v2 = make.document(hash(all.String()))
	return c
}

func hash(identity string) string { return fmt.Sprintf("%X", sha512.Sum512([]byte(identity)))[:64] }

// maker makes one document.
type maker struct {
	text    func() ([]byte, error)
	message func(text []byte) ([]byte, error)
}

// The names under which made documents stand in a Document.
const (
	madeJSON     = "json"
	madeProtobuf = "pb"
)

func (m *maker) document(hash string) *Document {
	asJSON := sync.OnceValues(func() ([]byte, error) { return pack(m.text()) })
	asMessage := sync.OnceValues(func() ([]byte, error) {
		text, err := m.text()
		if err != nil {
			return nil, err
		}
		return pack(m.message(text))
	})
	return &Document{Hash: hash, JSON: madeJSON, Protobuf: madeProtobuf, packed: func(name string) ([]byte, error) {
		if name == madeJSON {
			return asJSON()
		}
		return asMessage()
	}}
}

func pack(content []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	if _, err := zip.Write(content); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// mergedV3 is the document of a path: the part, and what is built in there.
func mergedV3(path string, v3 func(path string) (Part, error)) ([]byte, error) {
	part, err := v3(path)
	if err != nil {
		return nil, err
	}
	components := map[string]any{"schemas": part.Schemas}
	doc := map[string]any{
		"openapi": "3.0.0", "info": map[string]any{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
		"paths": part.Paths, "components": components,
	}
	index, err := load()
	if err != nil {
		return nil, err
	}
	builtIn, ok := index.V3[path]
	if !ok {
		return json.Marshal(doc)
	}
	body, err := unpack(builtIn.JSON)
	if err != nil {
		return nil, err
	}
	var have struct {
		Paths      map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(body, &have); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document of %s: %w", path, err)
	}
	paths, schemas := map[string]any{}, map[string]any{}
	for name, item := range part.Paths {
		paths[name] = item
	}
	for name, item := range have.Paths {
		paths[name] = item
	}
	for name, s := range part.Schemas {
		schemas[name] = s
	}
	for name, s := range have.Components.Schemas {
		schemas[name] = s
	}
	doc["paths"], components["schemas"] = paths, schemas
	return json.Marshal(doc)
}

func messageV3(text []byte) ([]byte, error) {
	doc, err := openapiv3.ParseDocument(text)
	if err != nil {
		return nil, fmt.Errorf("make a protobuf message of an OpenAPI document: %w", err)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(doc)
}

// mergedV2 is the built-in document with further paths and definitions. The text
// of the built-in ones is not parsed.
func mergedV2(v2 func() (Part, error)) ([]byte, error) {
	part, err := v2()
	if err != nil {
		return nil, err
	}
	index, err := load()
	if err != nil {
		return nil, err
	}
	body, err := unpack(index.V2.JSON)
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("read the OpenAPI v2 document: %w", err)
	}
	for name, more := range map[string]any{"paths": part.Paths, "definitions": part.Schemas} {
		text, err := json.Marshal(more)
		if err != nil {
			return nil, err
		}
		if len(text) <= len("{}") {
			continue
		}
		// Two objects, neither of them empty, become one.
		joined := append([]byte(nil), doc[name][:len(doc[name])-1]...)
		joined = append(joined, ',')
		doc[name] = append(joined, text[1:]...)
	}
	return json.Marshal(doc)
}

// messageV2 is the built-in message followed by one of the part alone: messages
// that stand one after the other are one message, whose repeated fields are those
// of both.
func messageV2(v2 func() (Part, error)) ([]byte, error) {
	part, err := v2()
	if err != nil {
		return nil, err
	}
	index, err := load()
	if err != nil {
		return nil, err
	}
	message, err := unpack(index.V2.Protobuf)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{"swagger": "2.0", "info": map[string]any{"title": "Kubernetes", "version": "v1.37.2"},
		"paths": part.Paths, "definitions": part.Schemas})
	if err != nil {
		return nil, err
	}
	doc, err := openapiv2.ParseDocument(text)
	if err != nil {
		return nil, fmt.Errorf("make a protobuf message of an OpenAPI document: %w", err)
	}
	more, err := proto.MarshalOptions{Deterministic: true}.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return append(message, more...), nil
}
