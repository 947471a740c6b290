package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/sync/errgroup"
)

// served is a registry on a free loopback port.
type served struct {
	*Registry
	url, host string
}

func serve(t *testing.T, c Config) served {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return served{r, s.URL, strings.TrimPrefix(s.URL, "http://")}
}

func (s served) ref(t *testing.T, suffix string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.host + "/" + suffix)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (s served) push(t *testing.T, suffix string, img v1.Image) {
	t.Helper()
	if err := remote.Write(s.ref(t, suffix), img); err != nil {
		t.Fatal(err)
	}
}

// do makes one request of the protocol.
func (s served) do(t *testing.T, method, path string, body []byte, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// want makes a request and holds its status.
func (s served) want(t *testing.T, status int, method, path string, body []byte, header ...string) (*http.Response, string) {
	t.Helper()
	resp, b := s.do(t, method, path, body, header...)
	if resp.StatusCode != status {
		t.Errorf("%s %s: %s, want %d: %s", method, path, resp.Status, status, b)
	}
	return resp, b
}

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(512, 2)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestPushPullAndRestart(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, Config{Dir: dir})
	img := image(t)
	s.push(t, "example/web:v1", img)
	index, err := random.Index(256, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(s.ref(t, "multi:latest"), index); err != nil {
		t.Fatal(err)
	}

	again := serve(t, Config{Dir: dir})
	for _, s := range []served{s, again} {
		got, err := remote.Image(s.ref(t, "example/web:v1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got); err != nil {
			t.Error(err)
		}
		if digestOf(t, got) != digestOf(t, img) {
			t.Error("another image came back")
		}
		if _, err := remote.Image(s.ref(t, "example/web@"+digestOf(t, img))); err != nil {
			t.Errorf("by digest: %v", err)
		}
		gotIndex, err := remote.Index(s.ref(t, "multi"))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(gotIndex); err != nil {
			t.Error(err)
		}
	}
}

func TestCanonicalNames(t *testing.T) {
	r := &Registry{c: Config{Names: []string{"registry.skiff.local"}}}
	for _, c := range []struct{ ns, name, want string }{
		{"", "web", "docker.io/library/web"},
		{"", "library/web", "docker.io/library/web"},
		{"", "example/web", "docker.io/example/web"},
		{"", "docker.io/example/web", "docker.io/example/web"},
		{"", "index.docker.io/example/web", "docker.io/example/web"},
		{"", "ghcr.io/a/b/c", "ghcr.io/a/b/c"},
		{"", "registry.skiff.local/example/web", "docker.io/example/web"},
		{"docker.io", "example/web", "docker.io/example/web"},
		{"docker.io", "library/busybox", "docker.io/library/busybox"},
		{"registry-1.docker.io", "library/busybox", "docker.io/library/busybox"},
		{"index.docker.io", "busybox", "docker.io/library/busybox"},
		{"ghcr.io", "a/b", "ghcr.io/a/b"},
		{"example.com:5000", "a", "example.com:5000/a"},
		{"registry.skiff.local", "example/web", "docker.io/example/web"},
		{"localhost:5000", "example/web", "docker.io/example/web"},
		{"127.0.0.1:5000", "web", "docker.io/library/web"},
		{"[::1]:5000", "web", "docker.io/library/web"},
	} {
		if got, err := r.canonical(c.ns, c.name); err != nil || got != c.want {
			t.Errorf("ns=%s %s: %s (%v), want %s", c.ns, c.name, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "..", "a/../b", "A", "a/", "/a", "a//b", "-a", "a b", "a%2fb", strings.Repeat("a", 300)} {
		if got, err := r.canonical("", bad); err == nil {
			t.Errorf("%q was taken as %s", bad, got)
		}
	}
	if got, err := r.canonical("../x", "a"); err == nil {
		t.Errorf("a registry ../x was taken: %s", got)
	}
}

// What containerd asks of a mirror: the path without the registry, which stands in ns.
func TestPulledAsAMirror(t *testing.T) {
	s := serve(t, Config{Names: []string{"registry.skiff.local"}})
	img := image(t)
	s.push(t, "example/web:v1", img)
	for _, ns := range []string{"docker.io", "registry.skiff.local", "localhost:5000"} {
		resp, _ := s.want(t, http.StatusOK, "HEAD", "/v2/example/web/manifests/v1?ns="+ns, nil)
		if got := resp.Header.Get("Docker-Content-Digest"); got != digestOf(t, img) {
			t.Errorf("ns=%s: %s", ns, got)
		}
		if resp.Header.Get("Content-Type") != string(types.DockerManifestSchema2) || resp.ContentLength <= 0 {
			t.Errorf("ns=%s: %v", ns, resp.Header)
		}
	}
	_, body := s.want(t, http.StatusNotFound, "GET", "/v2/example/web/manifests/v1?ns=ghcr.io", nil)
	if !strings.Contains(body, "MANIFEST_UNKNOWN") {
		t.Errorf("the error is %s", body)
	}
}

func TestUploadInPieces(t *testing.T) {
	s := serve(t, Config{})
	begin := func() string {
		resp, _ := s.want(t, http.StatusAccepted, "POST", "/v2/a/b/blobs/uploads/", nil)
		return resp.Header.Get("Location")
	}
	content := []byte("the first piece, the second piece")

	at := begin()
	resp, _ := s.want(t, http.StatusAccepted, "PATCH", at, content[:16], "Content-Range", "0-15")
	if resp.Header.Get("Range") != "0-15" {
		t.Errorf("range %q", resp.Header.Get("Range"))
	}
	s.want(t, http.StatusRequestedRangeNotSatisfiable, "PATCH", at, content[16:], "Content-Range", "99-120")
	resp, _ = s.want(t, http.StatusNoContent, "GET", at, nil)
	if resp.Header.Get("Range") != "0-15" {
		t.Errorf("after a refused piece: %q", resp.Header.Get("Range"))
	}
	s.want(t, http.StatusAccepted, "PATCH", resp.Header.Get("Location"), content[16:20], "Content-Range", "16-19")
	resp, _ = s.want(t, http.StatusCreated, "PUT", at+"?digest="+sha(content), content[20:])
	if resp.Header.Get("Docker-Content-Digest") != sha(content) {
		t.Errorf("digest %q", resp.Header.Get("Docker-Content-Digest"))
	}
	s.want(t, http.StatusNotFound, "PUT", at+"?digest="+sha(content), nil) // the upload is over
	_, got := s.want(t, http.StatusOK, "GET", "/v2/other/name/blobs/"+sha(content), nil)
	if got != string(content) {
		t.Errorf("got %q", got)
	}
	_, got = s.want(t, http.StatusPartialContent, "GET", "/v2/a/b/blobs/"+sha(content), nil, "Range", "bytes=4-")
	if got != string(content[4:]) {
		t.Errorf("a range is %q", got)
	}

	// What is not what the client says it is never becomes a blob.
	at = begin()
	s.want(t, http.StatusAccepted, "PATCH", at, []byte("something else"))
	_, body := s.want(t, http.StatusBadRequest, "PUT", at+"?digest="+sha([]byte("wanted")), nil)
	if !strings.Contains(body, "DIGEST_INVALID") {
		t.Errorf("the error is %s", body)
	}
	s.want(t, http.StatusNotFound, "HEAD", "/v2/a/b/blobs/"+sha([]byte("wanted")), nil)

	// Given up, at once, by mount.
	at = begin()
	s.want(t, http.StatusNoContent, "DELETE", at, nil)
	s.want(t, http.StatusNotFound, "PATCH", at, []byte("x"))
	one := []byte("in one request")
	s.want(t, http.StatusCreated, "POST", "/v2/a/b/blobs/uploads/?digest="+sha(one), one)
	s.want(t, http.StatusCreated, "POST", "/v2/c/d/blobs/uploads/?mount="+sha(one)+"&from=a/b", nil)
	s.want(t, http.StatusAccepted, "POST", "/v2/c/d/blobs/uploads/?mount="+sha([]byte("absent"))+"&from=a/b", nil)
	if left, _ := s.names("uploads"); len(left) != 1 { // the one that the failed mount began
		t.Errorf("uploads left: %v", left)
	}
	if len(s.uploads) != 1 {
		t.Errorf("%d uploads are remembered", len(s.uploads))
	}
}

func TestUploadsDoNotSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, Config{Dir: dir})
	resp, _ := s.want(t, http.StatusAccepted, "POST", "/v2/a/b/blobs/uploads/", nil)
	s.want(t, http.StatusAccepted, "PATCH", resp.Header.Get("Location"), []byte("half"))
	again := serve(t, Config{Dir: dir})
	again.want(t, http.StatusNotFound, "PATCH", resp.Header.Get("Location"), []byte("rest"))
	if left, _ := os.ReadDir(filepath.Join(dir, "uploads")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A layer must not pass through memory as a whole, however many there are.
func TestALargeUploadTakesLittleMemory(t *testing.T) {
	s := serve(t, Config{})
	const size = 96 << 20
	h := sha256.New()
	io.CopyN(h, zeros{}, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req, err := http.NewRequest("POST", s.url+"/v2/big/blobs/uploads/?digest=sha256:"+hex.EncodeToString(h.Sum(nil)), io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	runtime.ReadMemStats(&after)
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated for a blob of %d", grown, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestManifestsAreChecked(t *testing.T) {
	s := serve(t, Config{})
	manifest := func(layer string) []byte {
		b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": types.OCIManifestSchema1,
			"config": map[string]any{"mediaType": types.OCIConfigJSON, "digest": sha([]byte("{}")), "size": 2},
			"layers": []any{map[string]any{"mediaType": types.OCILayer, "digest": layer, "size": 1}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s.want(t, http.StatusCreated, "POST", "/v2/a/blobs/uploads/?digest="+sha([]byte("{}")), []byte("{}"))
	oci := []string{"Content-Type", string(types.OCIManifestSchema1)}
	put := func(status int, ref string, body []byte, code string, header ...string) {
		t.Helper()
		if _, answer := s.want(t, status, "PUT", "/v2/a/manifests/"+ref, body, header...); !strings.Contains(answer, code) {
			t.Errorf("the error is %s, want %s", answer, code)
		}
	}
	put(http.StatusBadRequest, "v1", manifest(sha([]byte("absent"))), "MANIFEST_BLOB_UNKNOWN", oci...)
	put(http.StatusBadRequest, "v1", []byte("no json"), "MANIFEST_INVALID", oci...)
	put(http.StatusBadRequest, "v1", manifest(sha([]byte("{}"))), "MANIFEST_INVALID", "Content-Type", "text/plain")
	put(http.StatusBadRequest, "v1", manifest(sha([]byte("{}"))), "MANIFEST_INVALID", "Content-Type", string(types.OCIImageIndex))
	put(http.StatusBadRequest, sha([]byte("x")), manifest(sha([]byte("{}"))), "DIGEST_INVALID", oci...)
	put(http.StatusBadRequest, "-v1", manifest(sha([]byte("{}"))), "TAG_INVALID", oci...)
	put(http.StatusRequestEntityTooLarge, "v1", bytes.Repeat([]byte(" "), maxManifest+1), "MANIFEST_INVALID", oci...)
	put(http.StatusCreated, "v1", manifest(sha([]byte("{}"))), "", oci...)

	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex,
		"manifests": []any{map[string]any{"mediaType": types.OCIManifestSchema1, "digest": sha([]byte("nowhere")), "size": 1}}})
	if err != nil {
		t.Fatal(err)
	}
	put(http.StatusBadRequest, "all", index, "MANIFEST_BLOB_UNKNOWN", "Content-Type", string(types.OCIImageIndex))
}

func TestListsAndDeletes(t *testing.T) {
	s := serve(t, Config{})
	img := image(t)
	for _, suffix := range []string{"web:v1", "web:v2", "web:v3", "example/api:v1", "ghcr.io/a/b:v1"} {
		s.push(t, suffix, img)
	}
	_, body := s.want(t, http.StatusOK, "GET", "/v2/_catalog", nil)
	if body != `{"repositories":["example/api","ghcr.io/a/b","web"]}` {
		t.Error(body)
	}
	resp, body := s.want(t, http.StatusOK, "GET", "/v2/web/tags/list?n=2", nil)
	if body != `{"name":"web","tags":["v1","v2"]}` || resp.Header.Get("Link") != `</v2/web/tags/list?last=v2&n=2>; rel="next"` {
		t.Error(body, resp.Header)
	}
	resp, body = s.want(t, http.StatusOK, "GET", "/v2/web/tags/list?n=2&last=v2", nil)
	if body != `{"name":"web","tags":["v3"]}` || resp.Header.Get("Link") != "" {
		t.Error(body, resp.Header)
	}
	s.want(t, http.StatusOK, "GET", "/v2/web/tags/list?last=v3", nil)
	s.want(t, http.StatusBadRequest, "GET", "/v2/web/tags/list?n=-1", nil)
	s.want(t, http.StatusNotFound, "GET", "/v2/absent/tags/list", nil)
	repos, err := remote.Catalog(t.Context(), s.ref(t, "web").Context().Registry)
	if err != nil || len(repos) != 3 {
		t.Errorf("another client's catalog: %v, %v", repos, err)
	}

	s.want(t, http.StatusAccepted, "DELETE", "/v2/web/manifests/v2", nil)
	s.want(t, http.StatusNotFound, "GET", "/v2/web/manifests/v2", nil)
	s.want(t, http.StatusOK, "GET", "/v2/web/manifests/v1", nil)
	s.want(t, http.StatusAccepted, "DELETE", "/v2/web/manifests/"+digestOf(t, img), nil)
	s.want(t, http.StatusNotFound, "GET", "/v2/web/manifests/v1", nil)
	s.want(t, http.StatusNotFound, "GET", "/v2/web/tags/list", nil)
	s.want(t, http.StatusNotFound, "DELETE", "/v2/web/manifests/v1", nil)
	s.want(t, http.StatusOK, "GET", "/v2/example/api/manifests/v1", nil) // the same image elsewhere
}

func TestReferrers(t *testing.T) {
	s := serve(t, Config{})
	img := image(t)
	s.push(t, "web:v1", img)
	desc := v1.Descriptor{MediaType: types.DockerManifestSchema2, Size: 1}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	desc.Digest = d
	signature := mutate.Subject(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.test.signature"), desc).(v1.Image)
	s.push(t, "web@"+digestOf(t, signature), signature)
	_, body := s.want(t, http.StatusOK, "GET", "/v2/web/referrers/"+d.String(), nil)
	if !strings.Contains(body, digestOf(t, signature)) || !strings.Contains(body, "application/vnd.test.signature") {
		t.Error(body)
	}
	resp, body := s.want(t, http.StatusOK, "GET", "/v2/web/referrers/"+d.String()+"?artifactType=other", nil)
	if !strings.Contains(body, `"manifests":[]`) || resp.Header.Get("OCI-Filters-Applied") != "artifactType" || resp.Header.Get("Content-Type") != string(types.OCIImageIndex) {
		t.Error(body, resp.Header)
	}
}

func TestManyPushAtOnce(t *testing.T) {
	s := serve(t, Config{})
	shared := image(t)
	refs := make([]name.Reference, 12)
	for i := range refs {
		refs[i] = s.ref(t, fmt.Sprintf("r%d/web:v1", i%3))
	}
	var g errgroup.Group
	var mu sync.Mutex
	last := map[string]bool{}
	for _, ref := range refs {
		layer, err := random.Layer(4096, types.OCILayer)
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(shared, layer)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		last[digestOf(t, img)] = true
		mu.Unlock()
		g.Go(func() error {
			if err := remote.Write(ref, img); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			got, err := remote.Image(ref)
			if err != nil {
				return err
			}
			if d, err := got.Digest(); err != nil || !last[d.String()] {
				return fmt.Errorf("%s is %s, which nobody pushed (%v)", ref, d, err)
			}
			return validate.Image(got)
		})
	}
	g.Go(func() error { // garbage collection meanwhile takes nothing that is on its way
		for range 20 {
			if _, err := s.Sweep(time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	s := serve(t, Config{Keep: time.Hour})
	old, kept, index := image(t), image(t), empty.Index
	s.push(t, "web:v1", old)
	s.push(t, "web:v1", kept) // replaces it
	s.push(t, "other:v1", kept)
	multi := mutate.AppendManifests(index, mutate.IndexAddendum{Add: image(t)})
	if err := remote.WriteIndex(s.ref(t, "multi:v1"), multi); err != nil {
		t.Fatal(err)
	}
	s.want(t, http.StatusCreated, "POST", "/v2/a/blobs/uploads/?digest="+sha([]byte("stray")), []byte("stray"))

	if freed, err := s.Sweep(time.Now()); err != nil || freed != 0 {
		t.Errorf("too early: %d bytes, %v", freed, err)
	}
	if _, err := remote.Image(s.ref(t, "web@"+digestOf(t, old))); err != nil {
		t.Errorf("the replaced image went too early: %v", err)
	}
	later := time.Now().Add(2 * time.Hour)
	freed, err := s.Sweep(later)
	if err != nil || freed == 0 {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	if _, err := remote.Image(s.ref(t, "web@"+digestOf(t, old))); err == nil {
		t.Error("the replaced image is still there")
	}
	s.want(t, http.StatusNotFound, "HEAD", "/v2/a/blobs/"+sha([]byte("stray")), nil)
	for _, suffix := range []string{"web:v1", "other:v1"} {
		img, err := remote.Image(s.ref(t, suffix))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", suffix, err)
		}
	}
	if got, err := remote.Index(s.ref(t, "multi:v1")); err != nil || validate.Index(got) != nil {
		t.Errorf("the index lost something: %v", err)
	}

	// An index that is replaced takes its images along; an image that is tagged again stays.
	if err := remote.WriteIndex(s.ref(t, "multi:v1"), mutate.AppendManifests(index, mutate.IndexAddendum{Add: image(t)})); err != nil {
		t.Fatal(err)
	}
	s.push(t, "web:v1", old)
	s.push(t, "web:v1", kept)
	s.push(t, "web:v0", old)
	if _, err := s.Sweep(later.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(s.ref(t, "web:v0")); err != nil {
		t.Errorf("tagged again, yet gone: %v", err)
	}
	m, err := multi.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	s.want(t, http.StatusNotFound, "GET", "/v2/multi/manifests/"+m.Manifests[0].Digest.String(), nil)
}

func TestPushingMayNeedPermission(t *testing.T) {
	s := serve(t, Config{MayPush: func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "skiff" && password == "secret"
	}})
	if err := remote.Write(s.ref(t, "web:v1"), image(t)); err == nil {
		t.Error("a stranger pushed")
	}
	client, err := NewClient(ClientConfig{Endpoint: s.url, Username: "skiff", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Push(t.Context(), "web:v1", image(t), nil); err != nil {
		t.Error(err)
	}
	s.want(t, http.StatusOK, "GET", "/v2/web/manifests/v1", nil)
	s.want(t, http.StatusUnauthorized, "DELETE", "/v2/web/manifests/v1", nil)
}

func TestClient(t *testing.T) {
	s := serve(t, Config{})
	client, err := NewClient(ClientConfig{Endpoint: s.url})
	if err != nil {
		t.Fatal(err)
	}
	img := image(t)
	var last, total int64
	for _, ref := range []string{"example/web:v1", "ghcr.io/a/b:v2", "registry.example.com:5000/cc:v3", "busybox"} {
		digest, err := client.Push(t.Context(), ref, img, func(done, all int64) { last, total = done, all })
		if err != nil {
			t.Fatal(err)
		}
		if digest != digestOf(t, img) {
			t.Errorf("%s has digest %s", ref, digest)
		}
	}
	if last == 0 || last != total {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	index, err := random.Index(64, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Push(t.Context(), "multi:v1", index, nil); err != nil {
		t.Fatal(err)
	}
	for ns, p := range map[string]string{"docker.io": "example/web/manifests/v1", "ghcr.io": "a/b/manifests/v2", "registry.example.com:5000": "cc/manifests/v3"} {
		s.want(t, http.StatusOK, "HEAD", "/v2/"+p+"?ns="+ns, nil)
	}
	images, err := client.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range images {
		names = append(names, i.Repository+":"+i.Tag)
		if i.Size <= 0 || !strings.HasPrefix(i.Digest, "sha256:") {
			t.Errorf("%+v", i)
		}
	}
	want := []string{"busybox:latest", "example/web:v1", "ghcr.io/a/b:v2", "multi:v1", "registry.example.com:5000/cc:v3"}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if err := client.Delete(t.Context(), "ghcr.io/a/b:v2"); err != nil {
		t.Error(err)
	}
	if err := client.Delete(t.Context(), "ghcr.io/a/b:v2"); !errors.Is(err, errGone) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := client.Push(t.Context(), "Not A Ref", img, nil); err == nil {
		t.Error("nonsense was pushed")
	}
	if _, err := NewClient(ClientConfig{Endpoint: "127.0.0.1:5000"}); err == nil {
		t.Error("an address without a scheme was taken")
	}
}

func TestStatic(t *testing.T) {
	img := image(t)
	h, err := Static(img)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	for _, suffix := range []string{"pause:any", "some/thing@" + digestOf(t, img)} {
		ref, err := name.ParseReference(host + "/" + suffix)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got); err != nil {
			t.Error(err)
		}
	}
	ref, err := name.ParseReference(host + "/pause:x")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image(t)); err == nil {
		t.Error("something was pushed")
	}
}

func TestErrorsHaveTheProtocolsForm(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range []struct {
		method, path, code string
		status             int
	}{
		{"GET", "/v1/", "UNSUPPORTED", 404},
		{"GET", "/v2/a/b/c/d/unknown/x", "UNSUPPORTED", 404},
		{"GET", "/v2/web/blobs/" + sha([]byte("x")), "BLOB_UNKNOWN", 404},
		{"GET", "/v2/web/blobs/md5:x", "DIGEST_INVALID", 400},
		{"GET", "/v2/web/manifests/v1", "MANIFEST_UNKNOWN", 404},
		{"GET", "/v2/WEB/manifests/v1", "NAME_INVALID", 400},
		{"POST", "/v2/web/manifests/v1", "UNSUPPORTED", 405},
		{"PUT", "/v2/_catalog", "UNSUPPORTED", 405},
		{"GET", "/v2/a/%2e%2e/%2e%2e/manifests/v1", "NAME_INVALID", 400},
	} {
		_, body := s.want(t, c.status, c.method, c.path, nil)
		var e struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code != c.code || e.Errors[0].Message == "" {
			t.Errorf("%s %s: %s", c.method, c.path, body)
		}
	}
	s.want(t, http.StatusOK, "GET", "/v2/", nil)
	s.want(t, http.StatusOK, "GET", "/v2", nil)
}
