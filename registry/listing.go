package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// names lists a directory, sorted; none where there is no directory.
func (r *Registry) names(dir string) ([]string, error) {
	d, err := r.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// repos lists the repositories by their full names.
func (r *Registry) repos() ([]string, error) {
	dirs, err := r.names("repos")
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	var repos []string
	for _, d := range dirs {
		if name, err := url.PathUnescape(d); err == nil {
			repos = append(repos, name)
		}
	}
	return repos, nil
}

// tagsOf maps a repository's tags to digests, as hex.
func (r *Registry) tagsOf(repo string) (map[string]string, error) {
	names, err := r.names(path.Join(repoDir(repo), "tags"))
	if err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	tags := map[string]string{}
	for _, tag := range names {
		b, err := r.root.ReadFile(tagPath(repo, tag))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list tags: %w", err)
		}
		tags[tag] = string(b)
	}
	return tags, nil
}

func (r *Registry) catalog(w http.ResponseWriter, req *http.Request) error {
	if req.Method != http.MethodGet {
		return methodNotAllowed()
	}
	repos, err := r.repos()
	if err != nil {
		return err
	}
	for i := range repos {
		repos[i] = familiar(repos[i])
	}
	slices.Sort(repos)
	page, err := paged(w, req, repos)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"repositories": page})
	return nil
}

func (r *Registry) tags(w http.ResponseWriter, req *http.Request, repo string) error {
	if req.Method != http.MethodGet {
		return methodNotAllowed()
	}
	if _, err := r.root.Stat(repoDir(repo)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return notFound("NAME_UNKNOWN", "the registry has no repository "+familiar(repo))
		}
		return err
	}
	tags, err := r.names(path.Join(repoDir(repo), "tags"))
	if err != nil {
		return err
	}
	page, err := paged(w, req, tags)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": pathRepo(req), "tags": page})
	return nil
}

// pathRepo is the name that the client asked with, which it expects in the answer.
func pathRepo(req *http.Request) string {
	p := req.URL.Path[len("/v2/"):]
	return p[:len(p)-len("/tags/list")]
}

// paged cuts a sorted list as n and last ask, and links to the next page.
func paged(w http.ResponseWriter, req *http.Request, all []string) ([]string, error) {
	q := req.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if s := q.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, invalid("PAGINATION_NUMBER_INVALID", fmt.Sprintf("n=%q is no number of entries", s))
		}
		if n < len(all) {
			if all = all[:n]; n > 0 {
				q.Set("last", all[n-1])
				w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.Path, q.Encode()))
			}
		}
	}
	if all == nil {
		all = []string{}
	}
	return all, nil
}

// referrers lists the manifests of a repository whose subject is the given one: signatures, bills of materials.
func (r *Registry) referrers(w http.ResponseWriter, req *http.Request, repo, digest string) error {
	if req.Method != http.MethodGet {
		return methodNotAllowed()
	}
	if _, err := hexOf(digest); err != nil {
		return err
	}
	wanted := req.URL.Query().Get("artifactType")
	type referrer struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int64             `json:"size"`
		ArtifactType string            `json:"artifactType,omitempty"`
		Annotations  map[string]string `json:"annotations,omitempty"`
	}
	found := []referrer{}
	manifests, err := r.names(path.Join(repoDir(repo), "manifests"))
	if err != nil {
		return err
	}
	for _, h := range manifests {
		c, size, err := r.contentsOf(h)
		if err != nil || c.Subject == nil || c.Subject.Digest != digest {
			continue // one that cannot be read refers to nothing
		}
		kind := c.ArtifactType
		if kind == "" && c.Config != nil {
			kind = c.Config.MediaType
		}
		if wanted != "" && kind != wanted {
			continue
		}
		_, mediaType, err := r.resolve(repo, "sha256:"+h)
		if err != nil {
			continue
		}
		found = append(found, referrer{mediaType, "sha256:" + h, size, kind, c.Annotations})
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeTyped(w, http.StatusOK, string(types.OCIImageIndex), map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": found})
	return nil
}
