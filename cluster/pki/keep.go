package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keep returns what is in the file at path, which is made with data where there
// is none: durably, and whole or not at all. Several processes may do so at once;
// all of them get what the first one wrote.
func keep(path string, data []byte, mode os.FileMode) ([]byte, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	// A link, unlike a rename, never replaces what another process has just made.
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	// The name, and that of the folder: who reads the key may show it to others at
	// once.
	for _, name := range []string{dir, filepath.Dir(dir)} {
		if err := syncDir(name); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
	}
	return data, nil
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
