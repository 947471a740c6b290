package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// tree is what becomes one layer: paths in the image, each with its header and where its bytes are. The bytes are read when the
// layer is, so a large file is never held in memory.
type tree struct {
	entries map[string]entry // by clean path without leading slash; invariant: every parent has an entry once layer is called
}

type entry struct {
	header *tar.Header
	file   string // path on this machine; "" when data holds the content
	data   []byte
}

func newTree() *tree { return &tree{entries: map[string]entry{}} }

func (t *tree) size() int { return len(t.entries) }

// skeleton adds what programs expect of a root file system: a world-writable /tmp, and names for root and for the user that the
// program runs as.
func (t *tree) skeleton() {
	t.addBytes("/etc/passwd", []byte("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"), 0o644)
	t.addBytes("/etc/group", []byte("root:x:0:\nnonroot:x:65532:\n"), 0o644)
	t.put("/tmp", entry{header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o1777}})
	t.put("/home/nonroot", entry{header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o700, Uid: 65532, Gid: 65532}})
}

func (t *tree) put(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	e.header.Name = name
	t.entries[name] = e
}

func (t *tree) addBytes(name string, data []byte, mode int64) {
	t.put(name, entry{header: &tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}, data: data})
}

// addContent adds a regular file whose bytes are in e; mode 0 keeps the mode of the file on this machine.
func (t *tree) addContent(name string, e entry, mode int64) error {
	size := int64(len(e.data))
	if e.file != "" {
		info, err := os.Stat(e.file)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", e.file)
		}
		size = info.Size()
		if mode == 0 {
			mode = int64(info.Mode().Perm())
		}
	}
	e.header = &tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: size}
	t.put(name, e)
	return nil
}

// addDir adds everything below dir. Two names of one file stay one file; sockets, which mean nothing in an image, are left out.
func (t *tree) addDir(dir string) error {
	firstName := map[[2]uint64]string{} // device and inode to the name it was first seen under
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		e, err := fileEntry(file, info)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
			id := [2]uint64{uint64(st.Dev), st.Ino}
			if first, seen := firstName[id]; seen {
				e = entry{header: &tar.Header{Typeflag: tar.TypeLink, Linkname: first, Mode: e.header.Mode}}
			} else {
				firstName[id] = filepath.ToSlash(rel)
			}
		}
		t.put(filepath.ToSlash(rel), e)
		return nil
	})
}

func fileEntry(file string, info fs.FileInfo) (entry, error) {
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(file); err != nil {
			return entry{}, err
		}
	}
	full, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return entry{}, err
	}
	h := &tar.Header{ // a fresh header: times, owners and names of this machine stay here
		Typeflag: full.Typeflag, Linkname: full.Linkname, Mode: full.Mode, Size: full.Size,
		Devmajor: full.Devmajor, Devminor: full.Devminor,
	}
	if !info.Mode().IsRegular() {
		return entry{header: h}, nil
	}
	if caps, err := fileCapabilities(file); err != nil {
		return entry{}, err
	} else if caps != "" {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": caps}
	}
	return entry{header: h, file: file}, nil
}

// fileCapabilities reads what setcap wrote; "" when there is nothing, or the file system keeps no such attribute.
func fileCapabilities(file string) (string, error) {
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr(file, "security.capability", buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the capabilities of %s: %w", file, err)
	}
	return string(buf[:n]), nil
}

// layer is the tree as an image layer. It is compressed for speed: images made here travel over loopback or one switch, where the
// compressor would be the slowest part.
func (t *tree) layer(at time.Time) (v1.Layer, error) {
	t.addParents()
	open := func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(t.write(w, at)) }() // ends when the reader has read all or closed
		return r, nil
	}
	options := []tarball.LayerOption{tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed)}
	if t.bytes() <= keepCompressed {
		options = append(options, tarball.WithCompressedCaching)
	}
	return tarball.LayerFromOpener(open, options...)
}

// keepCompressed is the content size up to which a layer is compressed once and kept; a larger one is compressed again each time it is
// read, which costs time but no memory.
const keepCompressed = 128 << 20

func (t *tree) bytes() (n int64) {
	for _, e := range t.entries {
		n += e.header.Size
	}
	return n
}

func (t *tree) addParents() {
	for _, name := range t.names() {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := t.entries[dir]; !ok {
				t.put(dir, entry{header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}})
			}
		}
	}
}

func (t *tree) names() []string {
	names := make([]string, 0, len(t.entries))
	for n := range t.entries {
		names = append(names, n)
	}
	// Component by component, as a walk goes: a directory comes before what is in it, a hard link after the name it points to.
	slices.SortFunc(names, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	return names
}

func (t *tree) write(w io.Writer, at time.Time) error {
	tw := tar.NewWriter(w)
	for _, name := range t.names() {
		if err := t.entries[name].write(tw, at); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return tw.Close()
}

func (e entry) write(tw *tar.Writer, at time.Time) error {
	h := *e.header
	h.ModTime = at
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if e.file == "" {
		_, err := io.Copy(tw, bytes.NewReader(e.data))
		return err
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

// tarLayer takes a tar file, plain or gzip, as a layer.
func tarLayer(file string) (v1.Layer, error) {
	return tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed))
}
