// Command openapi generates the OpenAPI documents that apiserver/openapi embeds:
// its paths follow from api.Catalogue, its schemas from the types and comments
// of k8s.io/api. It is a module of its own, so that the generators are no part
// of Skiff.
//
// `go generate` first makes the package models, which is not kept: it is large,
// and follows from go.mod.
package main

//go:generate go tool openapi-gen --output-dir models --output-pkg skiff/tools/openapi/models --output-file openapi.go --report-filename /dev/null k8s.io/api/admissionregistration/v1 k8s.io/api/apps/v1 k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 k8s.io/api/autoscaling/v1 k8s.io/api/autoscaling/v2 k8s.io/api/batch/v1 k8s.io/api/certificates/v1 k8s.io/api/coordination/v1 k8s.io/api/core/v1 k8s.io/api/discovery/v1 k8s.io/api/events/v1 k8s.io/api/flowcontrol/v1 k8s.io/api/networking/v1 k8s.io/api/node/v1 k8s.io/api/policy/v1 k8s.io/api/rbac/v1 k8s.io/api/resource/v1 k8s.io/api/scheduling/v1 k8s.io/api/scheduling/v1alpha3 k8s.io/api/storage/v1 k8s.io/api/storagemigration/v1 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 k8s.io/kube-aggregator/pkg/apis/apiregistration/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/util/intstr k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/version
//go:generate go run . -out ../../apiserver/openapi/documents

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	namer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/api"
	"skiff/apiserver/openapi"
	"skiff/tools/openapi/models"
)

func main() {
	out := flag.String("out", "", "directory that gets the documents")
	flag.Parse()
	if *out == "" {
		log.Fatal("-out is required")
	}
	if err := generate(*out); err != nil {
		log.Fatal(err)
	}
}

func generate(dir string) error {
	types := scheme.Scheme
	utilruntime.Must(apiextensionsv1.AddToScheme(types))
	utilruntime.Must(apiregistrationv1.AddToScheme(types))
	g := generator{dir: dir, names: namer.NewDefinitionNamer(types)}
	index := openapi.Index{V3: map[string]openapi.Document{}}
	var err error
	if index.V2, err = g.v2(routes(api.Catalogue)); err != nil {
		return fmt.Errorf("OpenAPI v2: %w", err)
	}
	for root, rows := range byVersion(api.Catalogue) {
		if index.V3[root], err = g.v3(root, routes(rows)); err != nil {
			return fmt.Errorf("OpenAPI v3 of %s: %w", root, err)
		}
	}
	body, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.json"), append(body, '\n'), 0o644)
}

// byVersion sorts rows under the path of their group and version.
func byVersion(rows []*api.Resource) map[string][]*api.Resource {
	out := map[string][]*api.Resource{}
	for _, r := range rows {
		out[strings.TrimPrefix(root(r), "/")] = append(out[strings.TrimPrefix(root(r), "/")], r)
	}
	return out
}

type generator struct {
	dir   string
	names *namer.DefinitionNamer
}

var info = &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "v1.37.2"}}

func idAndTags(r common.Route) (string, []string, error) {
	return r.OperationName(), []string{r.(route).tag}, nil
}

func (g *generator) v2(routes common.RouteContainer) (openapi.Document, error) {
	bearer := spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}}
	swagger, err := builder.BuildOpenAPISpecFromRoutes([]common.RouteContainer{routes}, &common.Config{
		ProtocolList: []string{"https"}, Info: info, GetDefinitions: models.GetOpenAPIDefinitions,
		GetDefinitionName: g.names.GetDefinitionName, GetOperationIDAndTagsFromRoute: idAndTags,
		DefaultResponse:     &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		CommonResponses:     map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}},
		SecurityDefinitions: &bearer, DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	})
	if err != nil {
		return openapi.Document{}, err
	}
	text, err := json.Marshal(swagger)
	if err != nil {
		return openapi.Document{}, err
	}
	doc, err := openapiv2.ParseDocument(text)
	if err != nil {
		return openapi.Document{}, err
	}
	return g.write("v2", text, doc)
}

func (g *generator) v3(root string, routes common.RouteContainer) (openapi.Document, error) {
	built, err := builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{routes}, &common.OpenAPIV3Config{
		Info: info, GetDefinitions: models.GetOpenAPIDefinitions,
		GetDefinitionName: g.names.GetDefinitionName, GetOperationIDAndTagsFromRoute: idAndTags,
		DefaultResponse: &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
		CommonResponses: map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}},
		SecuritySchemes: spec3.SecuritySchemes{"BearerToken": &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
	})
	if err != nil {
		return openapi.Document{}, err
	}
	text, err := json.Marshal(built)
	if err != nil {
		return openapi.Document{}, err
	}
	doc, err := openapiv3.ParseDocument(text)
	if err != nil {
		return openapi.Document{}, err
	}
	return g.write("v3_"+strings.ReplaceAll(root, "/", "_"), text, doc)
}

// write packs a document in both encodings. The same input gives the same bytes.
func (g *generator) write(name string, text []byte, message proto.Message) (openapi.Document, error) {
	binary, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return openapi.Document{}, err
	}
	doc := openapi.Document{Hash: fmt.Sprintf("%X", sha512.Sum512(text))[:64], JSON: name + ".json.gz", Protobuf: name + ".pb.gz"}
	for file, content := range map[string][]byte{doc.JSON: text, doc.Protobuf: binary} {
		var packed bytes.Buffer
		zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return openapi.Document{}, err
		}
		if _, err := zip.Write(content); err != nil {
			return openapi.Document{}, err
		}
		if err := zip.Close(); err != nil {
			return openapi.Document{}, err
		}
		if err := os.WriteFile(filepath.Join(g.dir, file), packed.Bytes(), 0o644); err != nil {
			return openapi.Document{}, err
		}
	}
	return doc, nil
}
