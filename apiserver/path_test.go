package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"skiff/api"
	"skiff/store"
)

var paths = []struct {
	method, path string
	want         target
}{
	{"GET", "/", target{verb: "get"}},
	{"GET", "/api", target{verb: "get"}},
	{"GET", "/api/v1", target{verb: "get"}},
	{"GET", "/apis/apps/v1", target{verb: "get"}},
	{"POST", "/livez", target{verb: "post"}},
	{"GET", "/api/v1/pods", target{isResource: true, version: "v1", resource: "pods", verb: "list"}},
	{"HEAD", "/api/v1/pods/", target{isResource: true, version: "v1", resource: "pods", verb: "list"}},
	{"GET", "/api/v1/namespaces", target{isResource: true, version: "v1", resource: "namespaces", verb: "list"}},
	{"GET", "/api/v1/namespaces/a", target{isResource: true, version: "v1", resource: "namespaces", namespace: "a", name: "a", verb: "get"}},
	{"PUT", "/api/v1/namespaces/a/finalize", target{isResource: true, version: "v1", resource: "namespaces", namespace: "a", name: "a", subresource: "finalize", verb: "update"}},
	{"PATCH", "/api/v1/namespaces/a/status", target{isResource: true, version: "v1", resource: "namespaces", namespace: "a", name: "a", subresource: "status", verb: "patch"}},
	{"DELETE", "/api/v1/namespaces/a/pods", target{isResource: true, version: "v1", resource: "pods", namespace: "a", verb: "deletecollection"}},
	{"POST", "/apis/apps/v1/namespaces/a/deployments", target{isResource: true, group: "apps", version: "v1", resource: "deployments", namespace: "a", verb: "create"}},
	{"GET", "/api/v1/namespaces/a/pods/p/proxy/x/y/", target{isResource: true, version: "v1", resource: "pods", namespace: "a", name: "p", subresource: "proxy", rest: "/x/y/", verb: "get"}},
	{"GET", "/api/v1/namespaces/a/pods/p/proxy/", target{isResource: true, version: "v1", resource: "pods", namespace: "a", name: "p", subresource: "proxy", rest: "/", verb: "get"}},
	{"GET", "/api/v1/watch/pods", target{isResource: true, version: "v1", resource: "pods", verb: "watch", watchPath: true}},
	{"GET", "/api/v1/watch/namespaces/a/pods/p", target{isResource: true, version: "v1", resource: "pods", namespace: "a", name: "p", verb: "watch", watchPath: true}},
	{"GET", "//api/v1/pods", target{isResource: true, version: "v1", resource: "pods", verb: "list", malformed: true}},
	{"GET", "/api/v1//pods", target{isResource: true, version: "v1", name: "pods", verb: "get", malformed: true}},
	{"GET", "/api/v1/namespaces//pods", target{isResource: true, version: "v1", resource: "pods", verb: "list", malformed: true}},
	{"GET", "/apis//v1/pods", target{isResource: true, version: "v1", resource: "pods", verb: "list", malformed: true}},
}

func TestParsePath(t *testing.T) {
	for _, c := range paths {
		if got := parsePath(c.method, c.path); got != c.want {
			t.Errorf("%s %s\n got %+v\nwant %+v", c.method, c.path, got, c.want)
		}
	}
}

// FuzzParsePath: what authorization sees of a path is what Kubernetes' own
// parser sees, or nothing is served there.
func FuzzParsePath(f *testing.F) {
	for _, c := range paths {
		f.Add(c.method, c.path)
	}
	f.Add("GET", "/api/v1/namespaces/a/pods/..%2f..%2fsecrets/s")
	f.Add("GET", "/apis/apps/v1/watch")
	oracle := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	f.Fuzz(func(t *testing.T, method, path string) {
		if !strings.HasPrefix(path, "/") || method == "" || strings.ContainsAny(method, " \x00") {
			return
		}
		got := parsePath(method, path)
		want, err := oracle.NewRequestInfo(&http.Request{Method: method, URL: &url.URL{Path: path}})
		if err != nil || got.malformed || want.Verb == "proxy" {
			return
		}
		if got.isResource != want.IsResourceRequest {
			t.Fatalf("%s %q: resource %v, upstream %v", method, path, got.isResource, want.IsResourceRequest)
		}
		if !got.isResource {
			return
		}
		// Kubernetes takes what follows a watched name for nothing; here it is a
		// subresource, which no watch has.
		if got.watchPath {
			want.Subresource = got.subresource
		}
		if got.verb != want.Verb || got.group != want.APIGroup || got.version != want.APIVersion || got.resource != want.Resource ||
			got.namespace != want.Namespace || got.name != want.Name || got.subresource != want.Subresource {
			t.Fatalf("%s %q\n got %+v\nwant %+v", method, path, got, want)
		}
	})
}

// The key that a request reaches in the store is the one whose resource,
// namespace and name were authorized.
func TestLocateNamesTheKey(t *testing.T) {
	s, err := New(Config{Store: store.OpenMemory(store.MemoryConfig{}), Resources: api.Catalogue})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/api/v1/namespaces/a/secrets/s":                      "/registry/secrets/a/s",
		"/api/v1/namespaces/a/pods/p%2F..%2F..%2Fsecrets%2Fs": "refused",
		"/api/v1/namespaces/a/pods/..":                        "refused",
		"/api/v1/namespaces/../secrets/s":                     "refused",
		"/api/v1/namespaces/a/pods/%2e%2e":                    "refused",
		"/api/v1/namespaces/a/pods/%252e":                     "refused",
		"/api/v1/namespaces/a%2Fpods/secrets/s":               "refused",
		"/api/v1/namespaces//secrets/s":                       "refused",
		"/api/v1/secrets/s":                                   "refused",
		"/api/v1/namespaces/a/nodes/n":                        "refused",
		"/api/v1/nodes/n":                                     "/registry/minions/n",
		"/api/v1/namespaces/a":                                "/registry/namespaces/a",
		"/api/v1/namespaces/a/namespaces/b":                   "refused",
		"/api/v1/namespaces/a/pods/p/status/x":                "refused",
		"/api/v1/namespaces/a/pods/p/log/x":                   "refused",
	} {
		r := s.locate(httptest.NewRequest("GET", path, nil))
		got := "refused"
		if served(r) == nil && r.checkNames() == nil {
			got = r.Resource.Key(r.Namespace, r.Name)
		}
		if got != want {
			t.Errorf("GET %s reaches %s, want %s", path, got, want)
		}
	}
}
