package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of a volume live in a directory of their own, named after the time of
// writing; the link ..data points to it, and each name that users see is a link
// through ..data. Turning ..data is one rename, so that a reader sees all old
// files or all new ones.
const (
	dataLink = "..data"
	nextLink = "..data_tmp"
)

// replace makes files the whole content of dir. Nothing is written when the
// content is the same already. group -1: root's.
func replace(dir string, files map[string]file, group int, now time.Time) error {
	for name := range files {
		if !validName(name) {
			return fmt.Errorf("invalid path %q in a volume", name)
		}
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if old != "" && same(filepath.Join(dir, old), files) {
		return link(dir, files)
	}
	fresh, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := write(fresh, files, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	next := filepath.Join(dir, nextLink)
	if err := os.Remove(next); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), next); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := link(dir, files); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

// validName: a relative path that stays below the volume and is not ours.
func validName(name string) bool {
	if name == "" || filepath.IsAbs(name) || filepath.Clean(name) != name || len(name) > 4096 {
		return false
	}
	for i, part := range strings.Split(name, "/") {
		if part == ".." || part == "." || (i == 0 && strings.HasPrefix(part, "..")) {
			return false
		}
	}
	return true
}

func write(root string, files map[string]file, group int) error {
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, f.mode); err != nil {
			return err
		}
		mode := f.mode
		if group >= 0 {
			mode |= 0o440
		}
		if f.owner >= 0 || group >= 0 {
			if err := os.Chown(path, f.owner, group); err != nil {
				return err
			}
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			return err
		}
	}
	if group < 0 {
		return nil
	}
	return filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.IsDir() {
			return err
		}
		return os.Chown(path, -1, group)
	})
}

// same tells whether root holds just these files.
func same(root string, files map[string]file) bool {
	count := 0
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		if !ok {
			return os.ErrNotExist
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.data) {
			return os.ErrInvalid
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

// link makes the names that users see, and removes those that are gone.
func link(dir string, files map[string]file) error {
	wanted := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		wanted[top] = true
	}
	for top := range wanted {
		path := filepath.Join(dir, top)
		if _, err := os.Readlink(path); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, top), path); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !wanted[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
