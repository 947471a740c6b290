package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// Named is an image with the references that its archive gave it. Exactly one of Image and Index is set.
type Named struct {
	Names []string // empty where the archive names none: the user has to
	Image v1.Image
	Index v1.ImageIndex // an image for several platforms, all of which are in the archive
}

// Archive is an opened OCI layout or `docker save` archive. Its images read from files until Close.
type Archive struct {
	Images []Named
	temp   string // unpacked files, removed by Close; "" for a directory that was there
}

// Close gives back what Load unpacked. The images cannot be read afterwards.
func (a *Archive) Close() error {
	if a.temp == "" {
		return nil
	}
	return os.RemoveAll(a.temp)
}

// Load opens an OCI layout or a `docker save` archive: a directory or a tar, plain or gzip, with any number of images.
func Load(p string) (*Archive, error) {
	info, err := os.Stat(p)
	if err != nil {
		return nil, fmt.Errorf("load images from %s: %w", p, err)
	}
	a := &Archive{}
	dir := p
	if !info.IsDir() {
		if dir, err = unpack(p); err != nil {
			return nil, fmt.Errorf("load images from %s: %w", p, err)
		}
		a.temp = dir
	}
	if a.Images, err = readArchive(dir); err != nil {
		return nil, fmt.Errorf("load images from %s: %w", p, errors.Join(err, a.Close()))
	}
	return a, nil
}

// readArchive prefers the OCI form where an archive has both, as Docker's newer ones do: there the layers are as they were pulled.
func readArchive(dir string) ([]Named, error) {
	has := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	switch {
	case has("oci-layout") && has("index.json"):
		return readLayout(dir)
	case has("manifest.json"):
		return readDocker(dir)
	}
	return nil, errors.New("it is neither an OCI layout (index.json) nor a docker archive (manifest.json)")
}

// Annotations that tools write the image's name into: containerd and Docker the whole reference, others only the tag or both.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	imageNameAnnotation = "io.containerd.image.name"
)

func readLayout(dir string) ([]Named, error) {
	p, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	index, err := p.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	byDigest := map[v1.Hash]int{} // one image under two names has two entries in the index
	var images []Named
	for _, d := range manifest.Manifests {
		i, seen := byDigest[d.Digest]
		if !seen {
			n, err := readDescriptor(index, d)
			if err != nil {
				return nil, fmt.Errorf("read image %s: %w", d.Digest, err)
			}
			if n == nil {
				continue
			}
			i, images = len(images), append(images, *n)
			byDigest[d.Digest] = i
		}
		if name := annotatedName(d.Annotations); name != "" {
			images[i].Names = append(images[i].Names, name)
		}
	}
	if len(images) == 0 {
		return nil, errors.New("the layout holds no image")
	}
	return images, nil
}

// annotatedName is the image's reference; a bare tag names nothing.
func annotatedName(a map[string]string) string {
	if n := a[imageNameAnnotation]; n != "" {
		return n
	}
	if n := a[refNameAnnotation]; strings.ContainsAny(n, ":/@") {
		return n
	}
	return ""
}

// readDescriptor opens what one entry of the top index points to; nil for what is no image.
func readDescriptor(index v1.ImageIndex, d v1.Descriptor) (*Named, error) {
	switch {
	case d.MediaType.IsImage():
		img, err := index.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		return &Named{Image: img}, nil
	case d.MediaType.IsIndex():
		inner, err := index.ImageIndex(d.Digest)
		if err != nil {
			return nil, err
		}
		return readIndex(inner)
	}
	return nil, nil
}

// readIndex keeps an image for several platforms whole if the archive has all of them; else it takes the one for this machine, since
// tools save an index of which they hold one platform only.
func readIndex(inner v1.ImageIndex) (*Named, error) {
	if complete(inner) {
		return &Named{Index: inner}, nil
	}
	here := match.Platforms(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
	images, err := partial.FindImages(inner, here)
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("it has no image for linux/%s", runtime.GOARCH)
	}
	return &Named{Image: images[0]}, nil
}

func complete(index v1.ImageIndex) bool {
	m, err := index.IndexManifest()
	if err != nil {
		return false
	}
	for _, d := range m.Manifests {
		if !d.MediaType.IsImage() {
			return false // an index in an index, or something else: push one platform rather than fail half-way
		}
		img, err := index.Image(d.Digest)
		if err != nil || !readable(img) {
			return false
		}
	}
	return len(m.Manifests) > 0
}

// readable says whether an image's manifest, configuration and layers are all there.
func readable(img v1.Image) bool {
	if _, err := img.RawConfigFile(); err != nil {
		return false
	}
	layers, err := img.Layers()
	if err != nil {
		return false
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return false
		}
		r.Close()
	}
	return true
}

// dockerManifest is an entry of the manifest.json in a `docker save` archive.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func readDocker(dir string) ([]Named, error) {
	root, err := os.OpenRoot(dir) // the names in the archive must not lead out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	raw, err := root.ReadFile("manifest.json")
	if err != nil {
		return nil, err
	}
	var manifests []dockerManifest
	if err := json.Unmarshal(raw, &manifests); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w", err)
	}
	if len(manifests) == 0 {
		return nil, errors.New("the archive holds no image")
	}
	var images []Named
	for _, m := range manifests {
		img, err := readDockerImage(root, m)
		if err != nil {
			return nil, fmt.Errorf("read image %s: %w", strings.Join(append(m.RepoTags, m.Config), " "), err)
		}
		images = append(images, Named{Names: m.RepoTags, Image: img})
	}
	return images, nil
}

// readDockerImage makes an OCI image of the archive's files, with the configuration byte for byte, so that the image's ID stays.
// Its layers stay uncompressed, as the archive has them: compressing them for a push over loopback would only cost time.
func readDockerImage(root *os.Root, m dockerManifest) (v1.Image, error) {
	config, err := root.ReadFile(m.Config)
	if err != nil {
		return nil, err
	}
	parsed, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	if len(parsed.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("its configuration lists %d layers and the manifest %d", len(parsed.RootFS.DiffIDs), len(m.Layers))
	}
	img := &archivedImage{config: config}
	for i, name := range m.Layers {
		l, err := archivedLayer(root, name, parsed.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", name, err)
		}
		img.layers = append(img.layers, l)
	}
	if err := img.describe(); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(img)
}

// unpack writes a tar's files below a new temporary directory.
func unpack(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, err := decompressed(f)
	if err != nil {
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "skiff-load-*")
	if err != nil {
		return "", err
	}
	if err := unpackInto(dir, tar.NewReader(r), info.Size()*densest); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// densest is more than gzip can compress anything. A tar that claims more than that holds files of nothing but holes, to fill the disk.
const densest = 1100

func unpackInto(dir string, t *tar.Reader, limit int64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if limit -= h.Size; limit < 0 {
			return fmt.Errorf("unpack %s: the archive claims to hold more than it can", h.Name)
		}
		if err := unpackEntry(root, h, t); err != nil {
			return fmt.Errorf("unpack %s: %w", h.Name, err)
		}
	}
}

// unpackEntry writes one file. Links are kept, since old archives store equal layers once; os.Root refuses any that leads out.
func unpackEntry(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.FromSlash(strings.TrimPrefix(path.Clean("/"+h.Name), "/"))
	if name == "" {
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		if filepath.IsAbs(h.Linkname) || strings.HasPrefix(path.Join(path.Dir(filepath.ToSlash(name)), h.Linkname), "../") {
			return fmt.Errorf("its link %s leads out of the archive", h.Linkname)
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.FromSlash(path.Clean(h.Linkname)), name)
	}
	return nil
}

// form is what a file's first bytes say it is.
type form int

const (
	formOther form = iota
	formELF
	formTar
	formGzip
	formZstd
)

func sniff(file string) (form, error) {
	f, err := os.Open(file)
	if err != nil {
		return formOther, fmt.Errorf("look into %s: %w", file, err)
	}
	defer f.Close()
	return sniffReader(bufio.NewReaderSize(f, tarBlock)), nil
}

const tarBlock = 512 // a tar's first header, in which "ustar" stands at 257

func sniffReader(r *bufio.Reader) form {
	head, _ := r.Peek(tarBlock) // a shorter file is judged by what there is
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return formELF
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return formGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return formZstd
	case len(head) == tarBlock && bytes.HasPrefix(head[257:], []byte("ustar")):
		return formTar
	}
	return formOther
}

// decompressed reads a tar whether it is compressed or not.
func decompressed(f fs.File) (io.Reader, error) {
	r := bufio.NewReaderSize(f, 1<<16)
	switch sniffReader(r) {
	case formTar:
		return r, nil
	case formGzip:
		return gzip.NewReader(r)
	case formZstd:
		return nil, errors.New("it is compressed with zstd: decompress it first (zstd -d)")
	}
	return nil, errors.New("it is not a tar archive")
}
