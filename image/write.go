package image

import (
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// WriteLayout writes images as one OCI layout into dir, which is made if need be. An image with several names has an entry for each.
func WriteLayout(dir string, images ...Named) error {
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write OCI layout %s: %w", dir, err)
	}
	for _, n := range images {
		if err := appendNamed(p, n); err != nil {
			return fmt.Errorf("write OCI layout %s: %w", dir, err)
		}
	}
	return nil
}

func appendNamed(p layout.Path, n Named) error {
	names := n.Names
	if len(names) == 0 {
		names = []string{""}
	}
	for _, ref := range names {
		var options []layout.Option
		if ref != "" {
			options = append(options, layout.WithAnnotations(map[string]string{refNameAnnotation: ref, imageNameAnnotation: ref}))
		}
		var err error
		if n.Index != nil {
			err = p.AppendIndex(n.Index, options...)
		} else {
			err = p.AppendImage(n.Image, options...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// WriteArchive writes images in the form of `docker save`. An image for several platforms has no such form.
func WriteArchive(w io.Writer, images ...Named) error {
	refs := map[name.Reference]v1.Image{}
	for _, n := range images {
		if n.Image == nil {
			return fmt.Errorf("write docker archive: %v is for several platforms: write an OCI layout instead", n.Names)
		}
		for _, s := range n.Names {
			ref, err := name.ParseReference(s)
			if err != nil {
				return fmt.Errorf("write docker archive: %w", err)
			}
			refs[ref] = n.Image
		}
		if len(n.Names) == 0 {
			d, err := n.Image.Digest()
			if err != nil {
				return fmt.Errorf("write docker archive: %w", err)
			}
			ref, err := name.NewDigest("unnamed@" + d.String())
			if err != nil {
				return fmt.Errorf("write docker archive: %w", err)
			}
			refs[ref] = n.Image
		}
	}
	if err := tarball.MultiRefWrite(refs, w); err != nil {
		return fmt.Errorf("write docker archive: %w", err)
	}
	return nil
}
