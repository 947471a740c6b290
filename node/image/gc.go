package image

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Collector removes unused images when the disk that holds them is filling up.
type Collector struct {
	Store *Store
	// High is percent of the disk: above it, images go until 5 percent less is
	// reached. 0 means 85.
	High int
	// MinAge is how long an image stays at least. 0 means 2 minutes.
	MinAge time.Duration
	// Every is the time between looks. 0 means 5 minutes.
	Every  time.Duration
	Logger *slog.Logger

	seen map[string]time.Time // when an image was first seen here
	used map[string]time.Time // when it last had a container
}

// Run looks at the disk until ctx ends. warn records what could not be freed.
func (g *Collector) Run(ctx context.Context, warn func(reason, message string)) {
	if g.High == 0 {
		g.High = 85
	}
	if g.MinAge == 0 {
		g.MinAge = 2 * time.Minute
	}
	if g.Every == 0 {
		g.Every = 5 * time.Minute
	}
	g.seen, g.used = map[string]time.Time{}, map[string]time.Time{}
	t := time.NewTicker(g.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := g.Collect(ctx, time.Now(), warn); err != nil && ctx.Err() == nil {
				warn("ImageGCFailed", err.Error())
			}
		}
	}
}

// Collect looks once and removes what is due.
func (g *Collector) Collect(ctx context.Context, now time.Time, warn func(reason, message string)) error {
	fs, err := g.Store.c.Runtime.ImageFS(ctx)
	if err != nil {
		return fmt.Errorf("read the image file system: %w", err)
	}
	images, busy, err := g.look(ctx, now)
	if err != nil {
		return err
	}
	for _, f := range fs.ImageFilesystems {
		size, free, err := disk(f.GetFsId().GetMountpoint())
		if err != nil || size == 0 {
			continue
		}
		percent := int(100 - free*100/size)
		if percent < g.High {
			continue
		}
		want := size*uint64(105-g.High)/100 - free
		if freed := g.free(ctx, images, busy, want, now); freed < want {
			warn("FreeDiskSpaceFailed", fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed))
		}
		return nil
	}
	return nil
}

// look lists images and which of them have containers.
func (g *Collector) look(ctx context.Context, now time.Time) ([]*cri.Image, map[string]bool, error) {
	images, err := g.Store.c.Runtime.Images(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := g.Store.c.Runtime.Containers(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	busy := map[string]bool{}
	for _, c := range containers {
		busy[c.ImageRef], busy[c.ImageId], busy[c.GetImage().GetImage()] = true, true, true
	}
	for _, img := range images {
		if g.seen[img.Id].IsZero() {
			g.seen[img.Id] = now
		}
		inUse := busy[img.Id] || slices.ContainsFunc(append(img.RepoDigests, img.RepoTags...), func(n string) bool { return busy[n] })
		if inUse {
			busy[img.Id] = true
			g.used[img.Id] = now
		}
	}
	return images, busy, nil
}

// free removes unused images, the longest unused first, until want bytes are free.
func (g *Collector) free(ctx context.Context, images []*cri.Image, busy map[string]bool, want uint64, now time.Time) (freed uint64) {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b *cri.Image) int {
		if c := g.used[a.Id].Compare(g.used[b.Id]); c != 0 {
			return c
		}
		return g.seen[a.Id].Compare(g.seen[b.Id])
	})
	for _, img := range images {
		if freed >= want {
			break
		}
		if busy[img.Id] || img.Pinned || now.Sub(g.seen[img.Id]) < g.MinAge {
			continue
		}
		if err := g.Store.c.Runtime.RemoveImage(ctx, &cri.ImageSpec{Image: img.Id}); err != nil {
			g.Logger.Warn("remove unused image", "image", img.Id, "err", err)
			continue
		}
		delete(g.seen, img.Id)
		delete(g.used, img.Id)
		freed += img.Size
	}
	return freed
}

// disk is the size and the free bytes of the file system that holds path.
func disk(path string) (size, free uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	return s.Blocks * uint64(s.Bsize), s.Bavail * uint64(s.Bsize), nil
}
