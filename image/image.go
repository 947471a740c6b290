// Package image makes, reads and writes container images, without Docker: from a Go main package, a static binary, a directory or
// a tar used as root file system, and from OCI layouts and `docker save` archives. It also owns the sandbox image (pause.go), which
// every pod's network namespace hangs on.
//
// The commands `skiff image build` and `skiff image load` and the node's start call it. It never talks to a registry or to a
// container runtime: an image is a value of go-containerregistry's v1.Image until package registry stores it.
//
// The same input always makes the same digest: files are in sorted order, belong to root and carry one fixed time. A tar is taken as
// it is.
package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Options say what the image tells a runtime about how to run it, and what it holds beside its main content.
type Options struct {
	Architecture string            // GOARCH of the image; "" means this machine's
	Entrypoint   []string          // nil: the binary that was built or given; none for a directory or a tar
	Cmd          []string          // default arguments
	Env          []string          // NAME=value, added to PATH
	WorkDir      string            // "" means /
	User         string            // "" means 65532:65532 (never root) for binaries, root for directories and tars
	Ports        []string          // "8080" or "53/udp"
	Volumes      []string          // paths that the runtime keeps out of the image's layer
	Labels       map[string]string // image labels
	StopSignal   string            // "" means SIGTERM
	Add          map[string]string // more files: path in the image to path on this machine, e.g. CA certificates
	GoFlags      []string          // more arguments for `go build`
	Created      time.Time         // zero: 1 January 1970, for the sake of equal digests
}

// nonRoot is the user that binaries run as: a number, so that runAsNonRoot can be checked without reading the image.
const nonRoot = "65532:65532"

// defaultPath is what every image's PATH is unless Env says otherwise.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Build makes an image from what it finds at p: a directory with Go files becomes a compiled program, any other directory a root
// file system; an ELF file becomes a program, a tar (plain or gzip) a root file system.
func Build(ctx context.Context, p string, o Options) (v1.Image, error) {
	info, err := os.Stat(p)
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", p, err)
	}
	if info.IsDir() {
		files, err := goFiles(p)
		if err != nil {
			return nil, err
		}
		if len(files) > 0 {
			return FromGo(ctx, p, o)
		}
		return FromDir(p, o)
	}
	form, err := sniff(p)
	if err != nil {
		return nil, err
	}
	switch form {
	case formELF:
		return FromBinary(p, o)
	case formTar, formGzip:
		return FromTar(p, o)
	default:
		return nil, fmt.Errorf("build image from %s: it is neither a directory, an ELF program nor a tar", p)
	}
}

// FromGo compiles the main package in dir, statically, and makes an image that runs it. A directory outside any module is compiled
// as a list of files.
func FromGo(ctx context.Context, dir string, o Options) (v1.Image, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", dir, err)
	}
	tmp, err := os.MkdirTemp("", "skiff-image-*")
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", dir, err)
	}
	defer os.RemoveAll(tmp)

	binary := filepath.Join(tmp, filepath.Base(abs))
	if err := compile(ctx, abs, binary, o); err != nil {
		return nil, fmt.Errorf("build image from %s: %w", dir, err)
	}
	program, err := os.ReadFile(binary) // the image outlives tmp
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", dir, err)
	}
	return fromProgram(dir, filepath.Base(abs), bytes.NewReader(program), entry{data: program}, o)
}

func compile(ctx context.Context, dir, binary string, o Options) error {
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch())
	where := exec.CommandContext(ctx, "go", "env", "GOMOD")
	where.Dir, where.Env = dir, env
	mod, err := where.Output()
	if err != nil {
		return fmt.Errorf("find the Go tool: %w", err)
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary}, o.GoFlags...)
	if m := strings.TrimSpace(string(mod)); m == "" || m == os.DevNull {
		files, err := goFiles(dir)
		if err != nil {
			return err
		}
		args = append(args, files...)
	} else {
		args = append(args, ".")
	}
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir, build.Env = dir, env
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	if info.Mode()&0o111 == 0 { // go build writes an archive for a package that is not main
		return errors.New("the package is not main: there is nothing to run")
	}
	return nil
}

// goFiles names the Go source files of dir, its tests left out.
func goFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	var files []string
	for _, e := range entries {
		if n := e.Name(); !e.IsDir() && strings.HasSuffix(n, ".go") && !strings.HasSuffix(n, "_test.go") {
			files = append(files, n)
		}
	}
	return files, nil
}

// FromBinary makes an image that holds and runs one static binary. A binary that needs a loader would not start in an otherwise
// empty image, so it is refused.
func FromBinary(file string, o Options) (v1.Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", file, err)
	}
	defer f.Close()
	return fromProgram(file, filepath.Base(file), f, entry{file: file}, o)
}

// fromProgram makes the image of a program that can be read through elfFile and whose bytes, for the layer, are in content. What
// names the source in errors.
func fromProgram(what, name string, elfFile io.ReaderAt, content entry, o Options) (v1.Image, error) {
	machine, err := staticMachine(elfFile)
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", what, err)
	}
	if o.Architecture == "" {
		o.Architecture = machine
	}
	if machine != o.Architecture {
		return nil, fmt.Errorf("build image from %s: the program is for %s, the image for %s", what, machine, o.Architecture)
	}
	inImage := "/bin/" + name
	if o.Entrypoint == nil {
		o.Entrypoint = []string{inImage}
	}
	if o.User == "" {
		o.User = nonRoot
	}
	t := newTree()
	t.skeleton()
	if err := t.addContent(inImage, content, 0o755); err != nil {
		return nil, fmt.Errorf("build image from %s: %w", what, err)
	}
	return o.assemble(t)
}

// staticMachine reads an ELF program's architecture, as GOARCH, and refuses it when it needs a dynamic loader.
func staticMachine(r io.ReaderAt) (string, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("the program is dynamically linked: link it statically (for Go: CGO_ENABLED=0), or give a directory with its libraries")
		}
	}
	for arch, m := range machines {
		if m == f.Machine && (m != elf.EM_PPC64 || f.ByteOrder.String() == "LittleEndian") {
			return arch, nil
		}
	}
	return "", fmt.Errorf("programs for %s are not supported", f.Machine)
}

var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386,
	"riscv64": elf.EM_RISCV, "s390x": elf.EM_S390, "ppc64le": elf.EM_PPC64,
}

// FromDir makes an image whose root file system is dir. Owners become root; modes, links and file capabilities stay.
func FromDir(dir string, o Options) (v1.Image, error) {
	t := newTree()
	if err := t.addDir(dir); err != nil {
		return nil, fmt.Errorf("build image from %s: %w", dir, err)
	}
	return o.assemble(t)
}

// FromTar makes an image whose root file system is the tar, plain or gzip, as it is: owners and times too.
func FromTar(file string, o Options) (v1.Image, error) {
	base, err := tarLayer(file)
	if err != nil {
		return nil, fmt.Errorf("build image from %s: %w", file, err)
	}
	return o.assemble(newTree(), base)
}

// assemble puts the image together: the base layers, then one layer with what is in t, then the configuration.
func (o Options) assemble(t *tree, base ...v1.Layer) (v1.Image, error) {
	for _, in := range sortedKeys(o.Add) {
		if err := t.addContent(in, entry{file: o.Add[in]}, 0); err != nil {
			return nil, fmt.Errorf("add %s to the image: %w", o.Add[in], err)
		}
	}
	layers := base
	if t.size() > 0 {
		l, err := t.layer(o.created())
		if err != nil {
			return nil, fmt.Errorf("write the image's layer: %w", err)
		}
		layers = append(layers, l)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, fmt.Errorf("assemble image: %w", err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble image: %w", err)
	}
	cf = cf.DeepCopy()
	if err := o.configure(cf); err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, cf)
}

func (o Options) configure(cf *v1.ConfigFile) error {
	cf.OS, cf.Architecture = "linux", o.arch()
	cf.Created = v1.Time{Time: o.created()}
	cf.History = nil // optional in OCI; what made each layer is not known for a given tar
	cf.Config = v1.Config{
		Entrypoint: o.Entrypoint, Cmd: o.Cmd, WorkingDir: o.WorkDir, User: o.User, Labels: o.Labels, StopSignal: o.StopSignal,
		Env: o.env(),
	}
	for _, v := range o.Volumes {
		if cf.Config.Volumes == nil {
			cf.Config.Volumes = map[string]struct{}{}
		}
		cf.Config.Volumes[v] = struct{}{}
	}
	for _, p := range o.Ports {
		port, err := portKey(p)
		if err != nil {
			return err
		}
		if cf.Config.ExposedPorts == nil {
			cf.Config.ExposedPorts = map[string]struct{}{}
		}
		cf.Config.ExposedPorts[port] = struct{}{}
	}
	return nil
}

// portKey turns "8080" into "8080/tcp" and refuses what is not a port.
func portKey(p string) (string, error) {
	num, proto, ok := strings.Cut(p, "/")
	if !ok {
		proto = "tcp"
	}
	n := 0
	for _, c := range num {
		if c < '0' || c > '9' || n > 65535 {
			n = 0
			break
		}
		n = n*10 + int(c-'0')
	}
	if n < 1 || n > 65535 || (proto != "tcp" && proto != "udp" && proto != "sctp") {
		return "", fmt.Errorf("expose port %q: it is not PORT or PORT/tcp|udp|sctp", p)
	}
	return num + "/" + proto, nil
}

func (o Options) env() []string {
	for _, e := range o.Env {
		if strings.HasPrefix(e, "PATH=") {
			return o.Env
		}
	}
	return append([]string{defaultPath}, o.Env...)
}

func (o Options) arch() string {
	if o.Architecture == "" {
		return runtime.GOARCH
	}
	return o.Architecture
}

func (o Options) created() time.Time {
	if o.Created.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return o.Created.UTC().Truncate(time.Second)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
