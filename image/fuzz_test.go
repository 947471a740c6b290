package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Whatever an archive holds, Load gives images or an error, leaves nothing behind and writes nothing outside its own directory.
func FuzzLoad(f *testing.F) {
	program, err := PauseProgram("amd64")
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	file := filepath.Join(dir, "tool")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		f.Fatal(err)
	}
	img, err := FromBinary(file, Options{})
	if err != nil {
		f.Fatal(err)
	}
	var saved bytes.Buffer
	if err := WriteArchive(&saved, Named{Names: []string{"example/tool:v1"}, Image: img}); err != nil {
		f.Fatal(err)
	}
	f.Add(saved.Bytes())
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add(append(make([]byte, 257), "ustar\x0000"...))
	f.Fuzz(func(t *testing.T, archive []byte) {
		temp := t.TempDir()
		t.Setenv("TMPDIR", temp)
		file := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(file, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := Load(file)
		if err == nil {
			for _, n := range a.Images {
				if n.Image != nil {
					n.Image.Layers() // must not panic; what is wrong shows as an error here or at the push
				}
			}
			err = a.Close()
			if err != nil {
				t.Error(err)
			}
		}
		if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	})
}
