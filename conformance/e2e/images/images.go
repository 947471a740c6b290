// Package images makes the container images that upstream's e2e suite asks for, without any registry: from programs of the modules
// that this module already names, and from Debian's packages. The runner (package e2e) calls it; the table in
// conformance/README.md says how each image differs from upstream's.
//
// It writes one OCI layout with all of them. It never talks to a cluster: `skiff image load` puts the layout onto the nodes.
package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	imageutils "k8s.io/kubernetes/test/utils/image"

	"skiff/image"
)

// Config says where images are made.
type Config struct {
	Module string // the folder of module skiff/conformance: programs are compiled from there
	Cache  string // where packages, programs and the finished layout are kept; made if need be
}

// base is a root file system that several images share, so that nodes keep it once.
type base int

const (
	scratch  base = iota // nothing
	shell                // busybox with the C library
	tools                // shell, and what tests call in agnhost: curl, dig, nc, ip, ss, iperf, socat, bash …
	agnhost              // tools, and upstream's agnhost
	webserve             // shell, and nginx
)

// row is one image: a base, files on top, and how it runs. The zero of config runs what the base would.
type row struct {
	id     imageutils.ImageID
	base   base
	files  func(m *maker, root string) error // puts more files into root; nil: none
	config v1.Config
}

// rows is every image that a conformance spec runs. Two that are left out are meant to be missing: a registry that does not exist,
// and one that asks for a password.
var rows = []row{
	{id: imageutils.Agnhost, base: agnhost, config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	{id: imageutils.AgnhostPrev, base: agnhost, config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	{id: imageutils.BusyBox, base: shell, config: v1.Config{Cmd: []string{"sh"}}},
	{id: imageutils.GlibcDnsTesting, base: tools, config: v1.Config{Cmd: []string{"bash"}}},
	{id: imageutils.Kitten, base: agnhost, files: pictures("kitten"), config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
	{id: imageutils.Nautilus, base: agnhost, files: pictures("nautilus"), config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
	{id: imageutils.Nginx, base: webserve, config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, StopSignal: "SIGQUIT"}},
	{id: imageutils.NginxNew, base: webserve, config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, StopSignal: "SIGQUIT"}},
	{id: imageutils.Nonewprivs, base: shell, files: program("nonewprivs", "usr/local/bin/nnp", 0o755|os.ModeSetuid|os.ModeSetgid), config: v1.Config{Cmd: []string{"nnp"}}},
	{id: imageutils.NonRoot, base: shell, config: v1.Config{Cmd: []string{"sh"}, User: "1234"}},
	{id: imageutils.Pause, base: scratch},
	{id: imageutils.APIServer, base: shell, files: program("sample-apiserver", "sample-apiserver", 0o755), config: v1.Config{Entrypoint: []string{"/sample-apiserver"}}},
	{id: imageutils.Etcd, base: shell, files: program("etcd", "usr/local/bin/etcd", 0o755), config: v1.Config{Cmd: []string{"/usr/local/bin/etcd"}}},
}

// maker holds what is made once and used by several images.
type maker struct {
	Config
	temp  string // root file systems in the making
	bases map[base]v1.Image
}

// Build makes all images, or finds those of an earlier run that was of the same versions and sources, and returns the folder of
// their OCI layout.
func Build(ctx context.Context, c Config) (string, error) {
	want, err := c.stamp()
	if err != nil {
		return "", err
	}
	layout := filepath.Join(c.Cache, "images")
	stamp := filepath.Join(layout, "stamp")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return layout, nil
	}
	if err := os.RemoveAll(layout); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp("", "skiff-conformance-images-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	m := &maker{Config: c, temp: temp, bases: map[base]v1.Image{}}
	if err := m.write(ctx, layout); err != nil {
		return "", err
	}
	return layout, os.WriteFile(stamp, []byte(want), 0o644)
}

func (m *maker) write(ctx context.Context, layout string) error {
	if err := m.programs(ctx); err != nil {
		return err
	}
	if err := m.makeBases(ctx); err != nil {
		return err
	}
	var all []image.Named
	for _, r := range rows {
		img, err := m.make(r)
		if err != nil {
			return fmt.Errorf("make image %s: %w", name(r.id), err)
		}
		all = append(all, image.Named{Names: []string{name(r.id)}, Image: img})
	}
	return image.WriteLayout(layout, all...)
}

func name(id imageutils.ImageID) string { return imageutils.GetE2EImage(id) }

// make puts a row's files onto its base. The image's name is in a label, so that two names never share a digest: a node tells a
// container's image by its digest, and would show the wrong one of them.
func (m *maker) make(r row) (v1.Image, error) {
	if r.id == imageutils.Pause {
		return image.Pause("")
	}
	img := m.bases[r.base]
	if r.files != nil {
		root := filepath.Join(m.temp, "row")
		defer os.RemoveAll(root)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, err
		}
		if err := r.files(m, root); err != nil {
			return nil, err
		}
		var err error
		if img, err = onto(img, root); err != nil {
			return nil, err
		}
	}
	config := r.config
	config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Labels = map[string]string{"org.opencontainers.image.ref.name": name(r.id)}
	return mutate.Config(img, config)
}

// onto adds the layer of a root file system to an image.
func onto(img v1.Image, root string) (v1.Image, error) {
	top, err := image.FromDir(root, image.Options{})
	if err != nil {
		return nil, err
	}
	layers, err := top.Layers()
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layers...)
}
