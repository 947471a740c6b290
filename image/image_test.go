package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func writeFile(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil { // past the umask
		t.Fatal(err)
	}
}

func goProgram(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "hello")
	writeFile(t, filepath.Join(dir, "go.mod"), "module example.test/hello\n\ngo 1.26\n", 0o644)
	writeFile(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\"hello\") }\n", 0o644)
	writeFile(t, filepath.Join(dir, "main_test.go"), "package main\n", 0o644)
	return dir
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// contents are the headers of an image's files by name, layers on top of each other.
func contents(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	files := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(h.Name, "/")] = h
	}
}

func TestFromGo(t *testing.T) {
	dir := goProgram(t)
	o := Options{Cmd: []string{"-v"}, Env: []string{"A=b"}, Ports: []string{"8080", "53/udp"}, Labels: map[string]string{"k": "v"}}
	img, err := Build(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := intact(img); err != nil {
		t.Error(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := cf.Config
	if !slices.Equal(c.Entrypoint, []string{"/bin/hello"}) || c.User != nonRoot || !slices.Contains(c.Env, "A=b") ||
		!slices.Contains(c.Env, defaultPath) || c.Labels["k"] != "v" || cf.Architecture != runtime.GOARCH {
		t.Errorf("configuration %+v", cf)
	}
	if _, ok := c.ExposedPorts["8080/tcp"]; !ok || len(c.ExposedPorts) != 2 {
		t.Errorf("ports %v", c.ExposedPorts)
	}
	files := contents(t, img)
	if h := files["bin/hello"]; h == nil || h.Mode != 0o755 {
		t.Errorf("/bin/hello: %+v", h)
	}
	if h := files["tmp"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("/tmp: %+v", h)
	}

	// The same sources make the same image, wherever and whenever.
	other := goProgram(t)
	again, err := FromGo(t.Context(), other, o)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, img), digest(t, again); a != b {
		t.Errorf("two builds of the same source differ: %s and %s", a, b)
	}
}

func TestFromGoWithoutAModule(t *testing.T) {
	dir := goProgram(t)
	if err := os.Remove(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	if _, err := FromGo(t.Context(), dir, Options{}); err != nil {
		t.Error(err)
	}
}

func TestFromGoRefusesWhatCannotRun(t *testing.T) {
	dir := goProgram(t)
	writeFile(t, filepath.Join(dir, "main.go"), "package library\n", 0o644)
	os.Remove(filepath.Join(dir, "main_test.go"))
	if _, err := FromGo(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "not main") {
		t.Errorf("a library: %v", err)
	}
	writeFile(t, filepath.Join(dir, "main.go"), "package main\nfunc main() { undefined() }\n", 0o644)
	if _, err := FromGo(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("a broken program: %v", err)
	}
}

func TestFromBinary(t *testing.T) {
	program, err := PauseProgram("arm64")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tool")
	writeFile(t, file, string(program), 0o600)
	img, err := Build(t.Context(), file, Options{User: "0", Add: map[string]string{"etc/tool.conf": file}})
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cf.Architecture != "arm64" || cf.Config.User != "0" {
		t.Errorf("architecture %s, user %s", cf.Architecture, cf.Config.User)
	}
	if h := contents(t, img)["etc/tool.conf"]; h == nil || h.Mode != 0o600 {
		t.Errorf("added file: %+v", h)
	}
	if _, err := FromBinary(file, Options{Architecture: "amd64"}); err == nil {
		t.Error("a program for another architecture was accepted")
	}
	if sh, err := exec.LookPath("bash"); err == nil {
		if _, err := FromBinary(sh, Options{}); err == nil || !strings.Contains(err.Error(), "dynamically linked") {
			t.Errorf("a dynamic program: %v", err)
		}
	}
}

func rootFS(t *testing.T) string {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a/c"), "shared", 0o640)
	writeFile(t, filepath.Join(dir, "bin/su"), "su", 0o755|os.ModeSetuid)
	if err := os.Link(filepath.Join(dir, "a/c"), filepath.Join(dir, "a-b")); err != nil { // sorts before a/c as a string
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/su", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFromDir(t *testing.T) {
	img, err := FromDir(rootFS(t), Options{Entrypoint: []string{"/bin/su"}, WorkDir: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := intact(img); err != nil {
		t.Error(err)
	}
	files := contents(t, img)
	if h := files["bin/su"]; h.Mode&0o4000 == 0 || h.Uid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
		t.Errorf("bin/su: %+v", h)
	}
	if h := files["link"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "/bin/su" {
		t.Errorf("link: %+v", h)
	}
	if h := files["fifo"]; h.Typeflag != tar.TypeFifo {
		t.Errorf("fifo: %+v", h)
	}
	if h := files["a-b"]; h.Typeflag != tar.TypeLink || h.Linkname != "a/c" {
		t.Errorf("hard link: %+v", h)
	}

	second := rootFS(t)
	if err := os.Chtimes(filepath.Join(second, "a/c"), time.Unix(5, 0), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	again, err := FromDir(second, Options{Entrypoint: []string{"/bin/su"}, WorkDir: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, img), digest(t, again); a != b {
		t.Errorf("equal directories make %s and %s", a, b)
	}
}

func TestHardLinkComesAfterItsTarget(t *testing.T) {
	tr := newTree()
	if err := tr.addDir(rootFS(t)); err != nil {
		t.Fatal(err)
	}
	names := tr.names()
	if slices.Index(names, "a/c") > slices.Index(names, "a-b") {
		t.Errorf("order %v", names)
	}
}

func TestFromTar(t *testing.T) {
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, h := range []*tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "etc/os", Mode: 0o600, Uid: 7, Size: 2}} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(tw, "hi")
		}
	}
	tw.Close()
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	zw.Write(plain.Bytes())
	zw.Close()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "root.tar"), plain.String(), 0o644)
	writeFile(t, filepath.Join(dir, "root.tgz"), zipped.String(), 0o644)
	for _, file := range []string{"root.tar", "root.tgz"} {
		img, err := Build(t.Context(), filepath.Join(dir, file), Options{Cmd: []string{"/etc/os"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := intact(img); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if h := contents(t, img)["etc/os"]; h == nil || h.Uid != 7 {
			t.Errorf("%s: etc/os is %+v", file, h)
		}
	}
}

func TestBuildRefusesNonsense(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	writeFile(t, file, "just text", 0o644)
	if _, err := Build(t.Context(), file, Options{}); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("a text file: %v", err)
	}
	for _, port := range []string{"", "0", "70000", "80/icmp", "-1", "8o"} {
		if _, err := portKey(port); err == nil {
			t.Errorf("port %q was accepted", port)
		}
	}
}

// twoImages are small images that differ.
func twoImages(t *testing.T) (a, b v1.Image) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "one/file"), "one", 0o644)
	writeFile(t, filepath.Join(dir, "two/file"), "two", 0o644)
	a, err := FromDir(filepath.Join(dir, "one"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err = FromDir(filepath.Join(dir, "two"), Options{Labels: map[string]string{"n": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func configDigest(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestLayoutRoundTrip(t *testing.T) {
	a, b := twoImages(t)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: a, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: b, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	dir := filepath.Join(t.TempDir(), "layout")
	err := WriteLayout(dir, Named{Names: []string{"example/a:v1", "example/a:latest"}, Image: a},
		Named{Names: []string{"example/ab:v1"}, Index: index}, Named{Image: b})
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{dir, tarOf(t, dir, false), tarOf(t, dir, true)} {
		got, err := Load(form)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Images) != 3 {
			t.Fatalf("%s: %d images", form, len(got.Images))
		}
		if n := got.Images[0]; !slices.Equal(n.Names, []string{"example/a:v1", "example/a:latest"}) || digest(t, n.Image) != digest(t, a) {
			t.Errorf("%s: first image %v", form, n.Names)
		}
		if n := got.Images[1]; n.Index == nil || n.Image != nil {
			t.Errorf("%s: the index came back as %+v", form, n)
		}
		if n := got.Images[2]; len(n.Names) != 0 || digest(t, n.Image) != digest(t, b) {
			t.Errorf("%s: the image without a name has %v", form, n.Names)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("Close removed what was given: %v", err)
		}
	}
}

func TestIncompleteIndexGivesThisMachinesImage(t *testing.T) {
	a, b := twoImages(t)
	cf, err := b.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	cf = cf.DeepCopy()
	cf.Architecture = other
	if b, err = mutate.ConfigFile(b, cf); err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: b, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
		mutate.IndexAddendum{Add: a, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	dir := filepath.Join(t.TempDir(), "layout")
	if err := WriteLayout(dir, Named{Names: []string{"example/ab:v1"}, Index: index}); err != nil {
		t.Fatal(err)
	}
	d, err := b.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", d.Hex)); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := got.Images[0]; n.Image == nil || digest(t, n.Image) != digest(t, a) || !slices.Equal(n.Names, []string{"example/ab:v1"}) {
		t.Errorf("got %+v", n)
	}
}

// tarOf packs a directory, so that Load has to unpack it.
func tarOf(t *testing.T, dir string, zipped bool) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "archive.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var w io.WriteCloser = out
	if zipped {
		w = gzip.NewWriter(out)
		defer w.Close()
	}
	tw := tar.NewWriter(w)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

func TestDockerArchives(t *testing.T) {
	a, b := twoImages(t)
	tag := func(s string) name.Reference {
		r, err := name.NewTag(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteArchive(f, Named{Names: []string{"example/a:v1", "example/a:v2"}, Image: a}, Named{Names: []string{"bb:v1"}, Image: b}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if img, err := tarball.ImageFromPath(file, ptr(tag("example/a:v1").(name.Tag))); err != nil || configDigest(t, img) != configDigest(t, a) {
		t.Errorf("another reader of what was written: %v", err)
	}

	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	byName := map[string]v1.Image{}
	for _, n := range got.Images {
		if err := intact(n.Image); err != nil {
			t.Errorf("%v: %v", n.Names, err)
		}
		for _, s := range n.Names {
			byName[tag(s).Name()] = n.Image
		}
	}
	for s, want := range map[string]v1.Image{"example/a:v1": a, "example/a:v2": a, "bb:v1": b} {
		if img := byName[tag(s).Name()]; img == nil || configDigest(t, img) != configDigest(t, want) {
			t.Errorf("%s is %v", s, img)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// `docker save` writes layers uncompressed, equal ones as links to each other.
func TestDockerArchiveAsDockerWritesIt(t *testing.T) {
	a, _ := twoImages(t)
	dir := t.TempDir()
	layers, err := a.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := layers[0].DiffID()
	if err != nil {
		t.Fatal(err)
	}
	config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + diff.String() + `","` + diff.String() + `"]}}`
	write := func(diffContent string) string {
		writeFile(t, filepath.Join(dir, "one/layer.tar"), diffContent, 0o644)
		writeFile(t, filepath.Join(dir, "c.json"), config, 0o644)
		writeFile(t, filepath.Join(dir, "manifest.json"),
			`[{"Config":"c.json","RepoTags":["old/style:1"],"Layers":["one/layer.tar","two/layer.tar"]}]`, 0o644)
		os.MkdirAll(filepath.Join(dir, "two"), 0o755)
		os.Remove(filepath.Join(dir, "two/layer.tar"))
		if err := os.Symlink("../one/layer.tar", filepath.Join(dir, "two/layer.tar")); err != nil {
			t.Fatal(err)
		}
		return tarOf(t, dir, true)
	}
	got, err := Load(write(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	raw, err := got.Images[0].Image.RawConfigFile()
	if err != nil || string(raw) != config {
		t.Errorf("configuration changed to %s (%v)", raw, err)
	}
	if err := intact(got.Images[0].Image); err != nil {
		t.Error(err)
	}
	if _, err := Load(write("something else")); err == nil || !strings.Contains(err.Error(), "where the image's configuration says") {
		t.Errorf("a damaged layer: %v", err)
	}
}

func TestLoadRefusesWhatLeadsOut(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, h := range []*tar.Header{
		{Name: "oci-layout", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "blobs", Typeflag: tar.TypeSymlink, Linkname: "../../etc"},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"},
	} {
		file := filepath.Join(t.TempDir(), "bad.tar")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		tw := tar.NewWriter(f)
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		tw.Close()
		f.Close()
		if _, err := Load(file); err == nil {
			t.Errorf("%s -> %s was unpacked", h.Name, h.Linkname)
		}
	}
	file := filepath.Join(t.TempDir(), "bad")
	writeFile(t, file, strings.Repeat("x", 600), 0o644)
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "not a tar") {
		t.Errorf("nonsense: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "skiff-load-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// intact reads an image to its end and holds every part against its digest.
func intact(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if got, _, _ := v1.SHA256(bytes.NewReader(config)); got != m.Config.Digest {
		return fmt.Errorf("the configuration is %s, its descriptor says %s", got, m.Config.Digest)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		packed, err := l.Compressed()
		if err != nil {
			return err
		}
		got, size, err := v1.SHA256(packed)
		if err != nil || got != m.Layers[i].Digest || size != m.Layers[i].Size {
			return fmt.Errorf("layer %d is %s (%d bytes, %v), its descriptor says %s", i, got, size, err, m.Layers[i].Digest)
		}
		plain, err := l.Uncompressed()
		if err != nil {
			return err
		}
		if got, _, err := v1.SHA256(plain); err != nil || got != cf.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %d unpacks to %s (%v), the configuration says %s", i, got, err, cf.RootFS.DiffIDs[i])
		}
	}
	return nil
}
