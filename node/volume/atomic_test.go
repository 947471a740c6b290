package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func content(t interface{ Fatal(...any) }, dir string) map[string]string {
	out := map[string]string{}
	data := filepath.Join(dir, dataLink)
	real, err := filepath.EvalSymlinks(data)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(real, p)
		b, err := os.ReadFile(filepath.Join(dir, rel)) // by the name that users see
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Whatever was there before, afterwards there are just the new files.
func TestReplace(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		names := []string{"a", "b", "dir/a", "dir/b", "dir/deep/c", ".hidden", "x..y"}
		for range rapid.IntRange(1, 5).Draw(t, "times") {
			files := map[string]file{}
			for _, name := range names {
				if rapid.Bool().Draw(t, name) {
					files[name] = file{data: []byte(rapid.StringN(0, 10, 20).Draw(t, "data")), mode: 0o640, owner: -1}
				}
			}
			if err := replace(dir, files, -1, time.Now()); err != nil {
				t.Fatal(err)
			}
			got := content(t, dir)
			if len(got) != len(files) {
				t.Fatalf("%v, want %v", got, files)
			}
			for name, f := range files {
				if got[name] != string(f.data) {
					t.Fatalf("%s is %q, want %q", name, got[name], f.data)
				}
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o640 {
					t.Fatal(name, err)
				}
			}
			entries, _ := os.ReadDir(dir)
			tops := map[string]bool{dataLink: true}
			for name := range files {
				top, _, _ := strings.Cut(name, "/")
				tops[top] = true
			}
			if len(entries) != len(tops)+1 { // and the directory of the files
				t.Fatalf("entries %v", entries)
			}
		}
	})
}

func TestReplaceWritesNothingWithoutChange(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"a": {data: []byte("1"), mode: 0o644, owner: -1}}
	if err := replace(dir, files, -1, time.Now()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Readlink(filepath.Join(dir, dataLink))
	if err := replace(dir, files, -1, time.Now()); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(dir, dataLink)); after != before {
		t.Errorf("the link went from %s to %s", before, after)
	}
}

func TestReplaceRefusesWhatLeadsOut(t *testing.T) {
	for _, name := range []string{"", "/etc/passwd", "../x", "a/../../x", "a/..", "..data", "..x", "a//b", "./a"} {
		if err := replace(t.TempDir(), map[string]file{name: {}}, -1, time.Now()); err == nil {
			t.Errorf("%q was written", name)
		}
	}
}

// A reader that opens the directory behind ..data sees all old files or all new ones.
func TestReplaceIsAtomic(t *testing.T) {
	dir := t.TempDir()
	put := func(v string) {
		files := map[string]file{"a": {data: []byte(v), mode: 0o644, owner: -1}, "b": {data: []byte(v), mode: 0o644, owner: -1}}
		if err := replace(dir, files, -1, time.Now()); err != nil {
			t.Error(err)
		}
	}
	put("0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			to, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				t.Error(err)
				return
			}
			a, err1 := os.ReadFile(filepath.Join(dir, to, "a"))
			b, err2 := os.ReadFile(filepath.Join(dir, to, "b"))
			if err1 == nil && err2 == nil && string(a) != string(b) {
				t.Errorf("a is %s, b is %s", a, b)
			}
		}
	})
	for i := range 200 {
		put(fmt.Sprint(i % 7))
	}
	close(stop)
	wg.Wait()
}

func TestOpenBeneath(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	for link, to := range map[string]string{"abs": outside, "up": "../" + filepath.Base(outside), "in": "real"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for sub, ok := range map[string]bool{"real": true, "in": true, "abs": false, "up": false, "../": false, "real/../real": true} {
		fd, err := openBeneath(root, sub)
		if (err == nil) != ok {
			t.Errorf("%s: %v", sub, err)
		}
		if err == nil {
			os.NewFile(uintptr(fd), sub).Close()
		}
	}
	if err := mkdirBeneath(root, "abs/x", 0o755); err == nil {
		t.Error("a directory was made outside")
	}
	if err := mkdirBeneath(root, "new/deep", 0o711); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(root, "new/deep")); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v %v", info, err)
	}
}
