package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// ClientConfig says where a cluster's registry is.
type ClientConfig struct {
	Endpoint           string            // e.g. http://127.0.0.1:5000
	Transport          http.RoundTripper // nil: http.DefaultTransport; for TLS with the cluster's CA
	Username, Password string            // both "": none
}

// Client pushes to and lists a cluster's registry, for `skiff image`.
type Client struct {
	c    ClientConfig
	http *http.Client
	base *url.URL
}

// NewClient checks the configuration. It connects to nothing.
func NewClient(c ClientConfig) (*Client, error) {
	base, err := url.Parse(c.Endpoint)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("registry: %q is no http address", c.Endpoint)
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	return &Client{c: c, base: base, http: &http.Client{Transport: c.Transport}}, nil
}

// Push stores an image or an index in the registry under ref, so that every node finds it by exactly that reference, and returns its
// digest. ref is what a pod's spec will say: example/web:v1, ghcr.io/a/b:1. progress, if not nil, is called as bytes go out.
func (c *Client) Push(ctx context.Context, ref string, what remote.Taggable, progress func(done, total int64)) (digest string, err error) {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(&mirrorTransport{c: c, ns: parsed.Context().RegistryStr()})}
	var told chan struct{}
	if progress != nil {
		updates := make(chan v1.Update, 16)
		told = make(chan struct{})
		go func() { // ends when remote closes updates
			defer close(told)
			for u := range updates {
				if u.Error == nil {
					progress(u.Complete, u.Total)
				}
			}
		}()
		options = append(options, remote.WithProgress(updates))
	}
	var hash v1.Hash
	switch w := what.(type) {
	case v1.ImageIndex:
		if err = remote.WriteIndex(parsed, w, options...); err == nil {
			hash, err = w.Digest()
		}
	case v1.Image:
		if err = remote.Write(parsed, w, options...); err == nil {
			hash, err = w.Digest()
		}
	default:
		return "", fmt.Errorf("push %s: it is neither an image nor an index", ref)
	}
	if told != nil {
		<-told
	}
	if err != nil {
		return "", fmt.Errorf("push %s to %s: %w", ref, c.c.Endpoint, err)
	}
	return hash.String(), nil
}

// mirrorTransport sends what is meant for the registry of a reference to the cluster's, as a node's containerd does with a mirror.
type mirrorTransport struct {
	c  *Client
	ns string
}

func (t *mirrorTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.Host = t.c.base.Scheme, t.c.base.Host, t.c.base.Host
	t.c.authenticate(req)
	q := req.URL.Query()
	q.Set("ns", t.ns)
	req.URL.RawQuery = q.Encode()
	return t.c.c.Transport.RoundTrip(req)
}

func (c *Client) authenticate(req *http.Request) {
	if c.c.Username != "" || c.c.Password != "" {
		req.SetBasicAuth(c.c.Username, c.c.Password)
	}
}

// Image is one tag in the registry.
type Image struct {
	Repository string `json:"repository"` // as people write it: example/web
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"` // of what a node pulls, in bytes; of all platforms for an index
}

// List names all tags in the registry, by repository and tag.
func (c *Client) List(ctx context.Context) ([]Image, error) {
	var images []Image
	err := c.pages(ctx, "/v2/_catalog?n=500", func(page listPage) error {
		for _, repo := range page.Repositories {
			if err := c.listTags(ctx, repo, &images); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the images in %s: %w", c.c.Endpoint, err)
	}
	return images, nil
}

func (c *Client) listTags(ctx context.Context, repo string, into *[]Image) error {
	err := c.pages(ctx, "/v2/"+repo+"/tags/list?n=500", func(page listPage) error {
		for _, tag := range page.Tags {
			img, err := c.describe(ctx, repo, tag)
			if errors.Is(err, errGone) {
				continue
			}
			if err != nil {
				return err
			}
			*into = append(*into, img)
		}
		return nil
	})
	if errors.Is(err, errGone) { // deleted between the catalog and now
		return nil
	}
	return err
}

// describe adds up what a tag's manifest refers to.
func (c *Client) describe(ctx context.Context, repo, ref string) (Image, error) {
	var m contents
	h, err := c.get(ctx, "/v2/"+repo+"/manifests/"+ref, &m)
	if err != nil {
		return Image{}, err
	}
	img := Image{Repository: repo, Tag: ref, Digest: h.Get("Docker-Content-Digest")}
	if m.Config != nil {
		img.Size += m.Config.Size
	}
	for _, l := range m.Layers {
		img.Size += l.Size
	}
	for _, child := range m.Manifests {
		one, err := c.describe(ctx, repo, child.Digest)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return Image{}, err
		}
		img.Size += one.Size
	}
	return img, nil
}

// Delete takes a tag away, or by digest a manifest with all its tags.
func (c *Client) Delete(ctx context.Context, ref string) error {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	p := "/v2/" + parsed.Context().RepositoryStr() + "/manifests/" + parsed.Identifier() + "?ns=" + url.QueryEscape(parsed.Context().RegistryStr())
	resp, err := c.do(ctx, http.MethodDelete, p)
	if err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	return resp.Body.Close()
}

type listPage struct {
	Repositories []string `json:"repositories"`
	Tags         []string `json:"tags"`
}

var nextPage = regexp.MustCompile(`<([^>]+)>; rel="next"`)

// pages calls each with every page of a list.
func (c *Client) pages(ctx context.Context, p string, each func(listPage) error) error {
	for p != "" {
		var page listPage
		h, err := c.get(ctx, p, &page)
		if err != nil {
			return err
		}
		if err := each(page); err != nil {
			return err
		}
		p = ""
		if m := nextPage.FindStringSubmatch(h.Get("Link")); m != nil {
			p = m[1]
		}
	}
	return nil
}

var errGone = errors.New("not found")

func (c *Client) get(ctx context.Context, p string, into any) (http.Header, error) {
	resp, err := c.do(ctx, http.MethodGet, p)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4*maxManifest)).Decode(into); err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", p, err)
	}
	return resp.Header, nil
}

// do makes one request and turns refusals into errors. The caller closes the body.
func (c *Client) do(ctx context.Context, method, p string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.c.Endpoint, "/")+p, nil)
	if err != nil {
		return nil, err
	}
	c.authenticate(req)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	message, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // only to tell
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %s", errGone, message)
	}
	return nil, fmt.Errorf("%s: %s", resp.Status, message)
}
