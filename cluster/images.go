package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/cluster/local"
	"skiff/node/runtime/cri"
)

// PullOnNodes has every running node of a local cluster pull an image.
func PullOnNodes(ctx context.Context, dir, ref string) error {
	spec, err := local.Load(dir)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range spec.Nodes {
		if n.Stopped {
			continue // it pulls when it needs the image
		}
		endpoint := spec.RuntimeEndpoint
		if endpoint == "" {
			endpoint = "unix://" + filepath.Join(local.Dirs(dir).Run(), n.Name, "containerd.sock")
		}
		group.Go(func() error {
			if err := pull(ctx, endpoint, ref); err != nil {
				return fmt.Errorf("pull %s on node %s: %w", ref, n.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func pull(ctx context.Context, endpoint, ref string) error {
	rt, err := cri.New(cri.Config{Endpoint: endpoint})
	if err != nil {
		return err
	}
	defer rt.Close()
	_, err = rt.PullImage(ctx, &runtimev1.ImageSpec{Image: ref}, nil, nil)
	return err
}
