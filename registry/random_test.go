package registry

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"pgregory.net/rapid"
)

// The registry does what a map from tags to digests does, whatever is pushed, deleted, swept and restarted in between, and no image that
// has a tag ever lacks a part.
func TestAgainstAMap(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("15"); err != nil { // each one waits for hundreds of flushes to disk
			t.Fatal(err)
		}
	}
	images := make([]v1.Image, 4)
	for i := range images {
		images[i] = image(t)
	}
	dirs := 0
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dirs++
		c := Config{Dir: fmt.Sprintf("%s/%d", base, dirs), Keep: time.Minute}
		now := time.Now()
		r, err := New(c)
		if err != nil {
			rt.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.ServeHTTP(w, req) }))
		defer server.Close()
		defer func() { r.Close() }()
		model := map[string]string{} // repository:tag to digest
		ref := func(rt *rapid.T) (string, name.Reference) {
			s := rapid.SampledFrom([]string{"web", "example/web"}).Draw(rt, "repo") + ":" + rapid.SampledFrom([]string{"v1", "v2"}).Draw(rt, "tag")
			parsed, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/" + s)
			if err != nil {
				rt.Fatal(err)
			}
			return s, parsed
		}
		rt.Repeat(map[string]func(*rapid.T){
			"push": func(rt *rapid.T) {
				s, ref := ref(rt)
				img := images[rapid.IntRange(0, len(images)-1).Draw(rt, "image")]
				if err := remote.Write(ref, img); err != nil {
					rt.Fatal(err)
				}
				d, err := img.Digest()
				if err != nil {
					rt.Fatal(err)
				}
				model[s] = d.String()
			},
			"delete tag": func(rt *rapid.T) {
				s, ref := ref(rt)
				if err := remote.Delete(ref); (err == nil) != (model[s] != "") {
					rt.Fatalf("delete %s: %v; the map has %q", s, err, model[s])
				}
				delete(model, s)
			},
			"delete digest": func(rt *rapid.T) {
				s, ref := ref(rt)
				if model[s] == "" {
					return
				}
				if err := remote.Delete(ref.Context().Digest(model[s])); err != nil {
					rt.Fatal(err)
				}
				repo, digest := s[:strings.Index(s, ":")+1], model[s]
				for k, d := range model {
					if strings.HasPrefix(k, repo) && d == digest {
						delete(model, k)
					}
				}
			},
			"sweep": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "seconds")) * time.Second)
				if _, err := r.Sweep(now); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(rt *rapid.T) {
				if err := r.Close(); err != nil {
					rt.Fatal(err)
				}
				if r, err = New(c); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				client, err := NewClient(ClientConfig{Endpoint: server.URL})
				if err != nil {
					rt.Fatal(err)
				}
				list, err := client.List(t.Context())
				if err != nil {
					rt.Fatal(err)
				}
				var got, want []string
				for _, i := range list {
					got = append(got, i.Repository+":"+i.Tag+" "+i.Digest)
				}
				for k, d := range model {
					want = append(want, k+" "+d)
				}
				slices.Sort(want)
				if slices.Sort(got); !slices.Equal(got, want) {
					rt.Fatalf("the registry lists %v, the map %v", got, want)
				}
				for k := range model {
					parsed, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/" + k)
					if err != nil {
						rt.Fatal(err)
					}
					img, err := remote.Image(parsed)
					if err != nil {
						rt.Fatal(err)
					}
					if err := validate.Image(img, validate.Fast); err != nil {
						rt.Fatal(err)
					}
				}
			},
		})
	})
}

// No path, query or body makes the registry panic, answer with its own fault, or touch what is outside its directory.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v2/web/manifests/v1", "ns=docker.io", "")
	f.Add("PUT", "/v2/web/manifests/v1", "", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	f.Add("POST", "/v2/a/b/blobs/uploads/", "digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "")
	f.Add("GET", "/v2/../../etc/tags/list", "n=5&last=x", "")
	f.Add("DELETE", "/v2/..%2f..%2fx/manifests/..", "ns=..", "")
	f.Add("PATCH", "/v2/web/blobs/uploads/..", "", "x")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, err := New(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		req := httptest.NewRequest("GET", "/", strings.NewReader(body))
		req.Method, req.URL = method, &url.URL{Path: path, RawQuery: query}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %s?%s: %d %s", method, path, query, w.Code, w.Body)
		}
	})
}
