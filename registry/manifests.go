package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

const maxManifest = 4 << 20 // the size that the protocol asks registries to take

var validTag = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func repoDir(repo string) string { return path.Join("repos", url.PathEscape(repo)) }

func manifestPath(repo, h string) string { return path.Join(repoDir(repo), "manifests", h) }
func tagPath(repo, tag string) string    { return path.Join(repoDir(repo), "tags", tag) }
func replacedPath(repo, h string) string { return path.Join(repoDir(repo), "replaced", h) }

// manifest serves, stores or deletes what a tag or a digest names.
func (r *Registry) manifest(w http.ResponseWriter, req *http.Request, repo, ref string) error {
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		return r.readManifest(w, req, repo, ref)
	case http.MethodPut:
		return r.putManifest(w, req, repo, ref)
	case http.MethodDelete:
		if err := r.deleteManifest(repo, ref); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return methodNotAllowed()
}

// resolve turns a tag or digest into the digest, as hex, of a manifest that the repository has, and its media type.
func (r *Registry) resolve(repo, ref string) (h, mediaType string, err error) {
	if strings.Contains(ref, ":") {
		if h, err = hexOf(ref); err != nil {
			return "", "", err
		}
	} else {
		if !validTag.MatchString(ref) {
			return "", "", invalid("TAG_INVALID", fmt.Sprintf("%q is no tag", ref))
		}
		b, err := r.root.ReadFile(tagPath(repo, ref))
		if err != nil {
			return "", "", unknownManifest(repo, ref, err)
		}
		h = string(b)
	}
	b, err := r.root.ReadFile(manifestPath(repo, h))
	if err != nil {
		return "", "", unknownManifest(repo, ref, err)
	}
	return h, string(b), nil
}

func unknownManifest(repo, ref string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("MANIFEST_UNKNOWN", fmt.Sprintf("%s has no manifest %s", familiar(repo), ref))
	}
	return err
}

func (r *Registry) readManifest(w http.ResponseWriter, req *http.Request, repo, ref string) error {
	h, mediaType, err := r.resolve(repo, ref)
	if err != nil {
		return err
	}
	f, err := r.root.Open(blobPath(h))
	if err != nil {
		return unknownManifest(repo, ref, err)
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", "sha256:"+h)
	w.Header().Set("Etag", `"sha256:`+h+`"`)
	http.ServeContent(w, req, "", time.Time{}, f)
	return nil
}

// contents is what a manifest or an index refers to, of either form.
type contents struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *descriptor       `json:"config"`
	Layers       []descriptor      `json:"layers"`
	Manifests    []descriptor      `json:"manifests"`
	Subject      *descriptor       `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

type descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls,omitempty"` // content that is elsewhere
}

func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, repo, ref string) error {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxManifest+1))
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if len(body) > maxManifest {
		return &failure{http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "a manifest has at most 4 MiB"}
	}
	sum := sha256.Sum256(body)
	h := hex.EncodeToString(sum[:])
	isDigest := strings.Contains(ref, ":")
	if isDigest {
		if want, err := hexOf(ref); err != nil || want != h {
			return invalid("DIGEST_INVALID", fmt.Sprintf("the manifest is sha256:%s and not %s", h, ref))
		}
	} else if !validTag.MatchString(ref) {
		return invalid("TAG_INVALID", fmt.Sprintf("%q is no tag", ref))
	}
	c, mediaType, err := parseManifest(body, req.Header.Get("Content-Type"))
	if err != nil {
		return err
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkContents(repo, c); err != nil {
		return err
	}
	if err := r.storeManifest(repo, h, mediaType, body); err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	if !isDigest {
		if err := r.setTagLocked(repo, ref, h); err != nil {
			return fmt.Errorf("store tag: %w", err)
		}
	}
	if c.Subject != nil {
		w.Header().Set("OCI-Subject", c.Subject.Digest)
	}
	w.Header().Set("Location", located(req, "/v2/"+pathName(req, repo)+"/manifests/sha256:"+h))
	w.Header().Set("Docker-Content-Digest", "sha256:"+h)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// parseManifest reads a manifest of a form that nodes can use, and says which form it is.
func parseManifest(body []byte, contentType string) (contents, string, error) {
	var c contents
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&c); err != nil {
		return c, "", invalid("MANIFEST_INVALID", "the manifest is no JSON: "+err.Error())
	}
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	if mediaType == "" {
		mediaType = c.MediaType
	}
	if c.MediaType != "" && c.MediaType != mediaType {
		return c, "", invalid("MANIFEST_INVALID", fmt.Sprintf("the manifest says it is %s, the request %s", c.MediaType, mediaType))
	}
	if t := types.MediaType(mediaType); !t.IsImage() && !t.IsIndex() {
		return c, "", invalid("MANIFEST_INVALID", fmt.Sprintf("%q is no form of manifest that the registry knows", mediaType))
	}
	return c, mediaType, nil
}

// checkContents refuses a manifest of which a part is missing: a node could not run it. The caller holds mu, so that nothing found
// here is swept before the manifest holds it.
func (r *Registry) checkContents(repo string, c contents) error {
	var parts []descriptor
	if c.Config != nil {
		parts = append(parts, *c.Config)
	}
	parts = append(parts, c.Layers...)
	for _, p := range parts {
		if len(p.URLs) > 0 {
			continue
		}
		h, err := hexOf(p.Digest)
		if err != nil {
			return err
		}
		if _, err := r.root.Stat(blobPath(h)); err != nil {
			return &failure{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", fmt.Sprintf("the manifest refers to %s, which was not pushed", p.Digest)}
		}
	}
	for _, m := range c.Manifests {
		h, err := hexOf(m.Digest)
		if err != nil {
			return err
		}
		if _, err := r.root.Stat(manifestPath(repo, h)); err != nil && types.MediaType(m.MediaType).IsImage() {
			return &failure{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", fmt.Sprintf("the index refers to %s, which was not pushed to %s", m.Digest, familiar(repo))}
		}
	}
	return nil
}

func (r *Registry) storeManifest(repo, h, mediaType string, body []byte) error {
	for _, dir := range []string{"manifests", "tags", "replaced"} {
		if err := r.root.MkdirAll(path.Join(repoDir(repo), dir), 0o755); err != nil {
			return err
		}
	}
	if err := r.writeFile(blobPath(h), body); err != nil {
		return err
	}
	return r.writeFile(manifestPath(repo, h), []byte(mediaType))
}

// setTagLocked moves a tag, and notes the manifest that has none any more.
func (r *Registry) setTagLocked(repo, tag, h string) error {
	old, err := r.root.ReadFile(tagPath(repo, tag))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.writeFile(tagPath(repo, tag), []byte(h)); err != nil {
		return err
	}
	if err := ignoreMissing(r.root.Remove(replacedPath(repo, h))); err != nil {
		return err
	}
	if len(old) == 0 || string(old) == h {
		return nil
	}
	return r.noteReplacedLocked(repo, string(old))
}

// noteReplacedLocked marks a manifest that lost a tag, unless it has another.
func (r *Registry) noteReplacedLocked(repo, h string) error {
	tags, err := r.tagsOf(repo)
	if err != nil {
		return err
	}
	for _, tagged := range tags {
		if tagged == h {
			return nil
		}
	}
	return r.writeFile(replacedPath(repo, h), nil)
}

// deleteManifest takes away a tag, or a manifest with all its tags.
func (r *Registry) deleteManifest(repo, ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, _, err := r.resolve(repo, ref)
	if err != nil {
		return err
	}
	if !strings.Contains(ref, ":") {
		if err := r.root.Remove(tagPath(repo, ref)); err != nil {
			return fmt.Errorf("delete tag: %w", err)
		}
		return r.noteReplacedLocked(repo, h)
	}
	return r.dropLocked(repo, h)
}

// dropLocked removes a manifest and its tags from a repository, and the repository when that was the last. The content goes with the
// next sweep.
func (r *Registry) dropLocked(repo, h string) error {
	tags, err := r.tagsOf(repo)
	if err != nil {
		return err
	}
	for tag, tagged := range tags {
		if tagged == h {
			if err := ignoreMissing(r.root.Remove(tagPath(repo, tag))); err != nil {
				return fmt.Errorf("delete tag: %w", err)
			}
		}
	}
	if err := errors.Join(ignoreMissing(r.root.Remove(replacedPath(repo, h))), ignoreMissing(r.root.Remove(manifestPath(repo, h)))); err != nil {
		return fmt.Errorf("delete manifest: %w", err)
	}
	left, err := r.names(path.Join(repoDir(repo), "manifests"))
	if err != nil || len(left) > 0 {
		return err
	}
	return r.root.RemoveAll(repoDir(repo))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
