package simulated

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images whose registry is in the domain "invalid" cannot be pulled, all others can.

func imageID(name string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(name))) }

func (r *Runtime) ImageStatus(_ context.Context, image *cri.ImageSpec) (*cri.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	for _, i := range r.images {
		if i.Id == image.Image || slices.Contains(i.RepoTags, image.Image) {
			return i, nil
		}
	}
	return nil, nil
}

func (r *Runtime) PullImage(ctx context.Context, image *cri.ImageSpec, _ *cri.AuthConfig, _ *cri.PodSandboxConfig) (string, error) {
	if err := pause(ctx, r.c.PullDelay); err != nil {
		return "", err
	}
	host, _, _ := strings.Cut(image.Image, "/")
	host, _, _ = strings.Cut(host, ":")
	if host == "invalid" || strings.HasSuffix(host, ".invalid") {
		return "", status.Errorf(codes.NotFound, "failed to pull and unpack image %q: no such host", image.Image)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return "", err
	}
	id := imageID(image.Image)
	r.images[id] = &cri.Image{Id: id, RepoTags: []string{image.Image}, Size: 1 << 20, Uid: &cri.Int64Value{Value: 0}, Spec: &cri.ImageSpec{Image: image.Image}}
	return id, nil
}

func (r *Runtime) Images(context.Context) ([]*cri.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	var out []*cri.Image
	for _, id := range slices.Sorted(maps.Keys(r.images)) {
		out = append(out, r.images[id])
	}
	return out, nil
}

func (r *Runtime) RemoveImage(_ context.Context, image *cri.ImageSpec) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return err
	}
	for id, i := range r.images {
		if id == image.Image || slices.Contains(i.RepoTags, image.Image) {
			delete(r.images, id)
		}
	}
	return nil
}

func (r *Runtime) ImageFS(context.Context) (*cri.ImageFsInfoResponse, error) {
	return &cri.ImageFsInfoResponse{}, nil
}
