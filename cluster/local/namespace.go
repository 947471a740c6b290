package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespaces are those of one node: a network and a mount namespace, held by
// files, so that they stay while the node's processes come and go.
type Namespaces struct{ dir string }

// namespacesOf names the namespaces of a node below run; it makes nothing.
func namespacesOf(run, node string) Namespaces {
	return Namespaces{filepath.Join(run, "ns", node)}
}

func (n Namespaces) net() string { return filepath.Join(n.dir, "net") }
func (n Namespaces) mnt() string { return filepath.Join(n.dir, "mnt") }

// Exist tells whether the namespaces are there (a reboot takes them).
func (n Namespaces) Exist() bool { return isNamespace(n.net()) && isNamespace(n.mnt()) }

// isNamespace tells whether a namespace is mounted at path.
func isNamespace(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// Create makes the namespaces, or leaves those that are there.
func (n Namespaces) Create() error {
	if n.Exist() {
		return nil
	}
	if err := n.Remove(); err != nil {
		return err
	}
	if err := n.prepare(); err != nil {
		return fmt.Errorf("make namespaces in %s: %w", n.dir, err)
	}
	tid, release := make(chan int), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, for nobody
		// else may run in these namespaces.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET)
		if err == nil {
			// Mounts of the node stay with the node; those of the machine still come in.
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
		if err != nil {
			failed <- err
			return
		}
		tid <- unix.Gettid()
		<-release
	}()
	defer close(release)
	var id int
	select {
	case err := <-failed:
		return fmt.Errorf("make namespaces in %s: %w", n.dir, err)
	case id = <-tid:
	}
	for _, kind := range []string{"net", "mnt"} {
		from := fmt.Sprintf("/proc/self/task/%d/ns/%s", id, kind)
		if err := unix.Mount(from, filepath.Join(n.dir, kind), "", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("keep %s namespace in %s: %w", kind, n.dir, err), n.Remove())
		}
	}
	return nil
}

// prepare makes the files, on a mount that is private: a mount namespace cannot
// be held where it would be seen from within itself.
func (n Namespaces) prepare() error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(n.dir, n.dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", n.dir, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, path := range []string{n.net(), n.mnt()} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Remove lets the namespaces go; they end with the last process in them.
func (n Namespaces) Remove() error {
	for _, path := range []string{n.net(), n.mnt(), n.dir} {
		for range 8 { // a path may be mounted over more than once
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				break // EINVAL: nothing is mounted there any more
			}
		}
	}
	if err := os.RemoveAll(n.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespaces in %s: %w", n.dir, err)
	}
	return nil
}

// In runs f on a thread that stands in the namespaces. What f starts (a process)
// stands in them, too. f must not hand work to other goroutines.
func (n Namespaces) In(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, see Create
		if err := n.enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Bind makes the node see the machine's directory from at to; both are made where
// they are missing.
func (n Namespaces) Bind(from, to string) error {
	for _, dir := range []string{from, to} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return n.In(func() error {
		source, err := os.Stat(from)
		if err != nil {
			return err
		}
		target, err := os.Stat(to)
		if err != nil {
			return err
		}
		if os.SameFile(source, target) {
			return nil // it was bound before
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", from, to, err)
		}
		return nil
	})
}

func (n Namespaces) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter namespaces in %s: %w", n.dir, err)
	}
	// Both are opened before either is entered: in the mount namespace the files
	// need not be visible.
	net, err := os.Open(n.net())
	if err != nil {
		return fmt.Errorf("enter namespaces: %w", err)
	}
	defer net.Close()
	mnt, err := os.Open(n.mnt())
	if err != nil {
		return fmt.Errorf("enter namespaces: %w", err)
	}
	defer mnt.Close()
	if err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace in %s: %w", n.dir, err)
	}
	if err := unix.Setns(int(mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace in %s: %w", n.dir, err)
	}
	return nil
}

// RunIn starts cmd in the namespaces and waits for it; the thread stays as long
// as the process, whose death signal hangs on it.
func (n Namespaces) RunIn(cmd *exec.Cmd, started func()) error {
	return n.In(func() error { return run(cmd, started) })
}

// run starts cmd and waits for it, on the calling thread.
func run(cmd *exec.Cmd, started func()) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	started()
	return cmd.Wait()
}
