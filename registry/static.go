package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Static serves one image, whatever the repository and tag it is asked for: the images that come with the program reach a node's
// containerd that way, without a network. It can only be read.
func Static(img v1.Image) (http.Handler, error) {
	s := &static{content: map[string]func() (io.ReadCloser, int64, error){}}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	id, err := img.ConfigName()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("serve image: %w", err)
	}
	s.manifest, s.mediaType, s.digest = raw, string(mediaType), digest.String()
	s.content[id.String()] = func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(config)), int64(len(config)), nil
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return nil, fmt.Errorf("serve image: %w", err)
		}
		s.content[h.String()] = func() (io.ReadCloser, int64, error) {
			size, err := l.Size()
			if err != nil {
				return nil, 0, err
			}
			r, err := l.Compressed()
			return r, size, err
		}
	}
	return s, nil
}

type static struct {
	manifest          []byte
	mediaType, digest string
	content           map[string]func() (io.ReadCloser, int64, error) // by digest
}

func (s *static) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	n := len(parts)
	switch {
	case writes(req.Method):
		http.Error(w, "the images that come with the program can only be read", http.StatusMethodNotAllowed)
	case n == 1 && parts[0] == "v2":
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{}")
	case n >= 4 && parts[n-2] == "manifests" && (!strings.Contains(parts[n-1], ":") || parts[n-1] == s.digest):
		s.send(w, req, s.mediaType, s.digest, io.NopCloser(bytes.NewReader(s.manifest)), int64(len(s.manifest)))
	case n >= 4 && parts[n-2] == "blobs" && s.content[parts[n-1]] != nil:
		r, size, err := s.content[parts[n-1]]()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.send(w, req, "application/octet-stream", parts[n-1], r, size)
	default:
		http.NotFound(w, req)
	}
}

func (s *static) send(w http.ResponseWriter, req *http.Request, mediaType, digest string, r io.ReadCloser, size int64) {
	defer r.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if req.Method == http.MethodHead {
		return
	}
	io.Copy(w, r) // a client that went away is no error of ours
}
