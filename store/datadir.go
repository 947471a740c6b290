package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dataVersion is the layout of a data directory that this program writes. What it
// reads is all versions up to it.
//
//	1: version (this number), etcd/ (etcd's own directory)
const dataVersion = 1

// dataDir is a data directory that this process owns. Its version file is locked
// as long as it does.
type dataDir struct{ lock *os.File }

// openDataDir makes or takes the directory. It refuses one that another process
// has, or that a newer program has written.
func openDataDir(dir string) (*dataDir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "version"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d := &dataDir{lock: f}
	if err := d.claim(dir); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *dataDir) claim(dir string) error {
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return errors.New("another process is using it")
		}
		return fmt.Errorf("lock it: %w", err)
	}
	text, err := io.ReadAll(d.lock)
	if err != nil {
		return err
	}
	if len(text) == 0 {
		return d.stamp(dir)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || version < 1 {
		return fmt.Errorf("its version file says %q, which is no version", text)
	}
	if version > dataVersion {
		return fmt.Errorf("its data has version %d, written by a newer release, and this one reads versions up to %d: "+
			"start the newer release, or restore a backup made by this one", version, dataVersion)
	}
	return nil
}

// stamp writes the version, durably, before there is any data. It may find data,
// if an earlier stamp was cut off: an empty file means that there was none yet.
func (d *dataDir) stamp(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "etcd")); err == nil {
		return errors.New("it has data, but its version file is empty")
	}
	if _, err := fmt.Fprintln(d.lock, dataVersion); err != nil {
		return err
	}
	if err := d.lock.Sync(); err != nil {
		return err
	}
	for _, name := range []string{dir, filepath.Dir(dir)} {
		if err := syncDir(name); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// close gives the directory up.
func (d *dataDir) close() error { return d.lock.Close() }
