package node

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff/node/pod"
	"skiff/node/runtime"
)

// rotator keeps containers' logs small: a log that is larger than Size is put
// aside and begun anew; of those put aside, all but the last are compressed, and
// all but Files-1 removed.
type rotator struct {
	runtime runtime.Runtime
	layout  pod.Layout
	views   func() []pod.View
	size    int64 // bytes
	files   int   // with the one being written
	every   time.Duration
	log     *slog.Logger
}

func (r *rotator) run(ctx context.Context) error {
	t := time.NewTicker(r.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			r.look(ctx, time.Now())
		}
	}
}

// look rotates what is too large.
func (r *rotator) look(ctx context.Context, now time.Time) {
	for _, v := range r.views() {
		for name, c := range v.Containers {
			if c.Run == nil || !c.Run.Running {
				continue
			}
			path := filepath.Join(r.layout.PodLogs(v.Pod.Namespace, v.Pod.Name, string(v.Pod.UID)), pod.ContainerLog(name, c.Run.Attempt))
			info, err := os.Stat(path)
			if err != nil || info.Size() < r.size {
				continue
			}
			if err := r.rotate(ctx, path, c.Run.ID, now); err != nil && ctx.Err() == nil {
				r.log.Warn("rotate log", "path", path, "err", err)
			}
		}
	}
}

func (r *rotator) rotate(ctx context.Context, path, id string, now time.Time) error {
	old, err := r.old(path)
	if err != nil {
		return err
	}
	for len(old) > 0 && len(old) > r.files-2 {
		if err := os.Remove(old[0]); err != nil {
			return fmt.Errorf("remove an old log: %w", err)
		}
		old = old[1:]
	}
	for _, p := range old {
		if !strings.HasSuffix(p, ".gz") {
			if err := compress(p); err != nil {
				return err
			}
		}
	}
	aside := path + "." + now.UTC().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("put a log aside: %w", err)
	}
	if err := r.runtime.ReopenLog(ctx, id); err != nil {
		// The runtime still writes to the old file: give it its name back.
		return errors.Join(fmt.Errorf("reopen a log: %s", runtime.Message(err)), os.Rename(aside, path))
	}
	return nil
}

// old lists the logs that were put aside, the oldest first.
func (r *rotator) old(path string) ([]string, error) {
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p string) bool {
		if strings.HasSuffix(p, ".tmp") {
			_ = os.Remove(p) // a compression that was cut off; it is made again
			return true
		}
		return false
	})
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Compare(strings.TrimSuffix(a, ".gz"), strings.TrimSuffix(b, ".gz"))
	})
	return all, nil
}

// compress replaces a file by its compressed form.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("compress %s: %w", path, err), os.Remove(tmp))
		}
	}()
	z := gzip.NewWriter(out)
	if _, err = io.Copy(z, in); err == nil {
		err = z.Close()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
