package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hexOf reads a digest. Only sha256 is stored; what every client uses.
func hexOf(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", invalid("DIGEST_INVALID", fmt.Sprintf("%q is no sha256 digest", digest))
	}
	return h, nil
}

func blobPath(hexDigest string) string { return path.Join("blobs/sha256", hexDigest) }

// blob serves or deletes content.
func (r *Registry) blob(w http.ResponseWriter, req *http.Request, digest string) error {
	h, err := hexOf(digest)
	if err != nil {
		return err
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		return r.readBlob(w, req, h)
	case http.MethodDelete:
		// Repositories share content: it goes when no manifest refers to it any more (see Sweep).
		if _, err := r.root.Stat(blobPath(h)); err != nil {
			return unknownBlob(err)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return methodNotAllowed()
}

func (r *Registry) readBlob(w http.ResponseWriter, req *http.Request, h string) error {
	if req.Method == http.MethodHead {
		if err := r.touch(h); err != nil { // a client that finds it here does not send it again: it has to stay until its manifest comes
			return err
		}
	}
	f, err := r.root.Open(blobPath(h))
	if err != nil {
		return unknownBlob(err)
	}
	defer f.Close()
	w.Header().Set("Docker-Content-Digest", "sha256:"+h)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Etag", `"sha256:`+h+`"`)
	http.ServeContent(w, req, "", time.Time{}, f) // knows ranges
	return nil
}

func unknownBlob(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("BLOB_UNKNOWN", "the registry does not have that blob")
	}
	return err
}

// touch makes content as young as if it had just come.
func (r *Registry) touch(h string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	now := time.Now()
	return unknownBlob(r.root.Chtimes(blobPath(h), now, now))
}

// upload is a blob that is on its way.
type upload struct {
	mu     sync.Mutex // held by the one request that adds to it
	file   *os.File
	hash   hash.Hash // over what the file holds
	size   int64
	last   time.Time // when something came last; under Registry.uploadMu
	closed bool
}

const maxUploads = 512

// beginUpload starts an upload, takes a whole blob at once, or finds that the blob is here already.
func (r *Registry) beginUpload(w http.ResponseWriter, req *http.Request, repo string) error {
	if req.Method != http.MethodPost {
		return methodNotAllowed()
	}
	query := req.URL.Query()
	if h, err := hexOf(query.Get("mount")); err == nil && r.touch(h) == nil {
		return created(w, req, repo, h)
	}
	id := randomID()
	f, err := r.root.OpenFile(path.Join("uploads", id), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	u := &upload{file: f, hash: sha256.New()}
	if err := r.register(id, u); err != nil {
		return errors.Join(err, f.Close(), r.root.Remove(path.Join("uploads", id)))
	}
	if digest := query.Get("digest"); digest != "" {
		u.mu.Lock()
		defer u.mu.Unlock()
		defer r.forget(id, u)
		return r.finish(w, req, repo, id, u)
	}
	w.Header().Set("Location", uploadLocation(req, repo, id))
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", "0-0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (r *Registry) register(id string, u *upload) error {
	r.uploadMu.Lock()
	defer r.uploadMu.Unlock()
	if len(r.uploads) >= maxUploads {
		return &failure{http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many uploads are under way"}
	}
	u.last = time.Now()
	r.uploads[id] = u
	return nil
}

// forget ends an upload, whether it became a blob or not. The caller holds u.mu.
func (r *Registry) forget(id string, u *upload) {
	r.uploadMu.Lock()
	delete(r.uploads, id)
	r.uploadMu.Unlock()
	if !u.closed {
		u.closed = true
		u.file.Close()
	}
	r.root.Remove(path.Join("uploads", id)) // no longer there where it became a blob
}

func (r *Registry) find(id string) (*upload, error) {
	r.uploadMu.Lock()
	defer r.uploadMu.Unlock()
	u, ok := r.uploads[id]
	if !ok {
		return nil, notFound("BLOB_UPLOAD_UNKNOWN", "there is no such upload: begin again")
	}
	u.last = time.Now()
	return u, nil
}

// upload adds to an upload (PATCH), completes it (PUT), gives it up (DELETE) or tells how far it is (GET).
func (r *Registry) upload(w http.ResponseWriter, req *http.Request, repo, id string) error {
	u, err := r.find(id)
	if err != nil {
		return err
	}
	if !u.mu.TryLock() {
		return &failure{http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is adding to this upload"}
	}
	defer u.mu.Unlock()
	if u.closed {
		return notFound("BLOB_UPLOAD_UNKNOWN", "the upload has ended: begin again")
	}
	switch req.Method {
	case http.MethodGet:
		u.describe(w, req, repo, id, http.StatusNoContent)
		return nil
	case http.MethodPatch:
		if err := u.take(req); err != nil {
			return err
		}
		u.describe(w, req, repo, id, http.StatusAccepted)
		return nil
	case http.MethodPut:
		defer r.forget(id, u)
		return r.finish(w, req, repo, id, u)
	case http.MethodDelete:
		r.forget(id, u)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return methodNotAllowed()
}

func (u *upload) describe(w http.ResponseWriter, req *http.Request, repo, id string, status int) {
	w.Header().Set("Location", uploadLocation(req, repo, id))
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, u.size-1), 10))
	w.WriteHeader(status)
}

// take appends a request's body. A client that sends pieces says where each belongs; it must be where the last one ended.
func (u *upload) take(req *http.Request) error {
	if r := req.Header.Get("Content-Range"); r != "" {
		var from, to int64
		if _, err := fmt.Sscanf(strings.TrimPrefix(r, "bytes "), "%d-%d", &from, &to); err != nil || from != u.size {
			return &failure{http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf("the next piece begins at %d", u.size)}
		}
	}
	n, err := io.Copy(io.MultiWriter(u.file, u.hash), req.Body)
	u.size += n
	if err != nil {
		return fmt.Errorf("take the upload: %w", err)
	}
	return nil
}

// finish takes the last piece and turns the upload into a blob, if it is what the client says it is.
func (r *Registry) finish(w http.ResponseWriter, req *http.Request, repo, id string, u *upload) error {
	h, err := hexOf(req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	if err := u.take(req); err != nil {
		return err
	}
	if got := hex.EncodeToString(u.hash.Sum(nil)); got != h {
		return invalid("DIGEST_INVALID", fmt.Sprintf("the content is sha256:%s and not sha256:%s", got, h))
	}
	if err := errors.Join(u.file.Sync(), u.file.Close()); err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	u.closed = true
	if err := r.commit(path.Join("uploads", id), h); err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	return created(w, req, repo, h)
}

// commit gives a complete file its place among the blobs.
func (r *Registry) commit(file, h string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := r.root.Rename(file, blobPath(h)); err != nil {
		return err
	}
	return r.syncDir("blobs/sha256")
}

func created(w http.ResponseWriter, req *http.Request, repo, h string) error {
	w.Header().Set("Location", located(req, "/v2/"+pathName(req, repo)+"/blobs/sha256:"+h))
	w.Header().Set("Docker-Content-Digest", "sha256:"+h)
	w.WriteHeader(http.StatusCreated)
	return nil
}

func uploadLocation(req *http.Request, repo, id string) string {
	return located(req, "/v2/"+pathName(req, repo)+"/blobs/uploads/"+id)
}

// pathName is the repository as the request's path names it, so that a client stays within the name that it began with.
func pathName(req *http.Request, repo string) string {
	p := strings.TrimPrefix(req.URL.Path, "/v2/")
	if i := strings.LastIndex(p, "/blobs/"); i > 0 {
		return p[:i]
	}
	if i := strings.LastIndex(p, "/manifests/"); i > 0 {
		return p[:i]
	}
	return repo
}

// located keeps the query's ns in an address that the client is sent to.
func located(req *http.Request, p string) string {
	if ns := req.URL.Query().Get("ns"); ns != "" {
		return p + "?ns=" + ns
	}
	return p
}

// writeFile writes a small file so that it is whole or not there, and on disk.
func (r *Registry) writeFile(name string, content []byte) error {
	temp := path.Join("uploads", randomID())
	f, err := r.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, r.root.Remove(temp))
	}
	if err := r.root.Rename(temp, name); err != nil {
		return errors.Join(err, r.root.Remove(temp))
	}
	return r.syncDir(path.Dir(name))
}

// syncDir makes a rename in a directory last.
func (r *Registry) syncDir(dir string) error {
	d, err := r.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	writeTyped(w, status, "application/json", v)
}

func writeTyped(w http.ResponseWriter, status int, mediaType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only values made here come here
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}
