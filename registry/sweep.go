package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// Sweep removes, as of now: manifests that lost their last tag longer than Keep ago, content that no manifest refers to and that has
// not been touched for as long, and uploads that stand still. It returns how many bytes of content that freed. Requests wait meanwhile.
func (r *Registry) Sweep(now time.Time) (freed int64, err error) {
	before := now.Add(-r.c.Keep)
	r.dropStaleUploads(now.Add(-uploadIdle))
	r.mu.Lock()
	defer r.mu.Unlock()
	used, err := r.markLocked(before)
	if err != nil {
		return 0, fmt.Errorf("sweep the registry: %w", err)
	}
	blobs, err := r.names("blobs/sha256")
	if err != nil {
		return 0, fmt.Errorf("sweep the registry: %w", err)
	}
	for _, h := range blobs {
		if used[h] {
			continue
		}
		info, err := r.root.Stat(blobPath(h))
		if err != nil || info.ModTime().After(before) {
			continue
		}
		if err := ignoreMissing(r.root.Remove(blobPath(h))); err != nil {
			return freed, fmt.Errorf("sweep the registry: %w", err)
		}
		freed += info.Size()
	}
	return freed, nil
}

// markLocked drops what was replaced and names all content that the remaining manifests need.
func (r *Registry) markLocked(before time.Time) (map[string]bool, error) {
	repos, err := r.repos()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, repo := range repos {
		if err := r.dropReplacedLocked(repo, before); err != nil {
			return nil, err
		}
		manifests, err := r.names(path.Join(repoDir(repo), "manifests"))
		if err != nil {
			return nil, err
		}
		for _, h := range manifests {
			used[h] = true
			c, _, err := r.contentsOf(h)
			if err != nil {
				return nil, err // an unreadable manifest: what it needs is not known, so nothing is removed
			}
			for _, part := range c.parts() {
				used[part] = true
			}
		}
	}
	return used, nil
}

// dropReplacedLocked drops manifests that were replaced long enough ago, and with an index the manifests that only it has.
func (r *Registry) dropReplacedLocked(repo string, before time.Time) error {
	replaced, err := r.names(path.Join(repoDir(repo), "replaced"))
	if err != nil || len(replaced) == 0 {
		return err
	}
	held, err := r.heldLocked(repo)
	if err != nil {
		return err
	}
	for _, h := range replaced {
		info, err := r.root.Stat(replacedPath(repo, h))
		if err != nil || info.ModTime().After(before) || held[h] {
			continue
		}
		c, _, err := r.contentsOf(h)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := r.dropLocked(repo, h); err != nil {
			return err
		}
		for _, m := range c.Manifests {
			if child, err := hexOf(m.Digest); err == nil && !held[child] {
				if err := r.dropLocked(repo, child); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// heldLocked are the manifests that have a tag, or that an index with a tag refers to.
func (r *Registry) heldLocked(repo string) (map[string]bool, error) {
	tags, err := r.tagsOf(repo)
	if err != nil {
		return nil, err
	}
	held := map[string]bool{}
	for _, h := range tags {
		held[h] = true
		c, _, err := r.contentsOf(h)
		if err != nil {
			return nil, err
		}
		for _, m := range c.Manifests {
			if child, err := hexOf(m.Digest); err == nil {
				held[child] = true
			}
		}
	}
	return held, nil
}

// contentsOf reads a stored manifest.
func (r *Registry) contentsOf(h string) (contents, int64, error) {
	var c contents
	b, err := r.root.ReadFile(blobPath(h))
	if err != nil {
		return c, 0, fmt.Errorf("read manifest sha256:%s: %w", h, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, 0, fmt.Errorf("read manifest sha256:%s: %w", h, err)
	}
	return c, int64(len(b)), nil
}

// parts are the digests, as hex, of all that a manifest refers to directly.
func (c contents) parts() []string {
	all := append(append([]descriptor{}, c.Layers...), c.Manifests...)
	if c.Config != nil {
		all = append(all, *c.Config)
	}
	var hexes []string
	for _, d := range all {
		if h, err := hexOf(d.Digest); err == nil {
			hexes = append(hexes, h)
		}
	}
	return hexes
}

// uploadIdle is how long an upload may stand still.
const uploadIdle = time.Hour

func (r *Registry) dropStaleUploads(before time.Time) {
	r.uploadMu.Lock()
	stale := map[string]*upload{}
	for id, u := range r.uploads {
		if u.last.Before(before) {
			stale[id] = u
		}
	}
	r.uploadMu.Unlock()
	for id, u := range stale {
		if u.mu.TryLock() { // one that a request is adding to does not stand still
			r.forget(id, u)
			u.mu.Unlock()
		}
	}
}
