package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// archivedImage is one image of a `docker save` archive, under an OCI manifest made here, since the archive has none.
type archivedImage struct {
	config   []byte
	layers   []v1.Layer
	manifest []byte
	byDigest map[v1.Hash]v1.Layer
}

// describe makes the manifest once all layers are there.
func (a *archivedImage) describe() error {
	hash, size, err := v1.SHA256(bytes.NewReader(a.config))
	if err != nil {
		return err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: hash, Size: size},
	}
	a.byDigest = map[v1.Hash]v1.Layer{}
	for _, l := range a.layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return fmt.Errorf("describe layer: %w", err)
		}
		m.Layers = append(m.Layers, *d)
		a.byDigest[d.Digest] = l
	}
	a.manifest, err = json.Marshal(m)
	return err
}

func (a *archivedImage) RawConfigFile() ([]byte, error)      { return a.config, nil }
func (a *archivedImage) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a *archivedImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a *archivedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	l, ok := a.byDigest[h]
	if !ok {
		return nil, fmt.Errorf("layer %s is not in the archive", h)
	}
	return l, nil
}

// archivedLayer opens one layer's file and holds it against the identity that the image's configuration gives it.
func archivedLayer(root *os.Root, name string, want v1.Hash) (v1.Layer, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	where := filepath.Join(root.Name(), name)
	form, err := sniff(where)
	if err != nil {
		return nil, err
	}
	if form == formGzip {
		return tarball.LayerFromFile(where, tarball.WithMediaType(types.OCILayer))
	}
	got, size, err := v1.SHA256(f)
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, fmt.Errorf("its content is %s where the image's configuration says %s", got, want)
	}
	return plainLayer{file: where, hash: got, size: size}, nil
}

// plainLayer is an uncompressed layer in a file: its digest in the registry and its identity in the configuration are one.
type plainLayer struct {
	file string
	hash v1.Hash
	size int64
}

func (l plainLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l plainLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l plainLayer) Size() (int64, error)                 { return l.size, nil }
func (l plainLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l plainLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l plainLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.file) }
