package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cluster is one that was started for a run, under a name of its own.
type cluster struct {
	skiff      string // path of the program
	name       string
	kubeconfig string
}

// lock keeps two runs from using the same cluster; it ends with the process, however that ends.
func lock(file string) (release func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another run of the suite is going on: %s is locked", file)
	}
	return func() { f.Close() }, nil
}

// startCluster starts a cluster and puts the images onto its nodes. What a run that was killed has left under the name is removed
// first. The user's own kubeconfig is not touched: everything is in dir.
func startCluster(ctx context.Context, c Config, dir, layout string) (*cluster, error) {
	k := &cluster{skiff: filepath.Join(c.Root, "bin/skiff"), name: c.Name, kubeconfig: filepath.Join(dir, "kubeconfig")}
	if err := k.down(ctx); err != nil {
		return nil, err
	}
	if err := k.call(ctx, "up", "--name", k.name, "--nodes", strconv.Itoa(c.Nodes)); err != nil {
		return nil, errors.Join(err, k.stop())
	}
	if err := k.call(ctx, "image", "load", "--name", k.name, layout); err != nil {
		return nil, errors.Join(err, k.stop())
	}
	return k, nil
}

func (k *cluster) call(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, k.skiff, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("skiff %s: %w: %s", strings.Join(args, " "), err, firstLine(string(out)))
	}
	return nil
}

// down removes the cluster, if there is one of that name.
func (k *cluster) down(ctx context.Context) error {
	return k.call(ctx, "down", "--name", k.name)
}

// stop is down for the end of a run, which must not be skipped when the run was interrupted.
func (k *cluster) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return k.down(ctx)
}

// logs keeps what the cluster's processes have logged, for a run with failures.
func (k *cluster) logs(to string) error {
	out, err := exec.Command(k.skiff, "logs", "--name", k.name, "server").Output()
	if err != nil {
		return fmt.Errorf("keep the server's log: %w", err)
	}
	return os.WriteFile(filepath.Join(to, "server.log"), out, 0o644)
}
