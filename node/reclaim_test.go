package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyDirectoriesOfVolumesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	volume := filepath.Join(dir, "pvc-1")
	for _, d := range []string{precious, filepath.Join(volume, "data")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(precious, filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	r := &reclaimer{}
	for name, path := range map[string]string{
		"precious": precious, "pvc-1": precious, "pvc-2": volume, "pvc-3": "pvc-3", "pvc-4": dir + "/x/../pvc-4", "": "/",
	} {
		if err := r.remove(name, path); err == nil {
			t.Errorf("volume %q: %s was removed", name, path)
		}
	}
	for range 2 { // again: it is gone already
		if err := r.remove("pvc-1", volume); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(volume); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what a link in it led to: %v", err)
	}
}
