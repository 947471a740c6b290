package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mains are the programs in images, by the name that `go build` gives them, and where their source is.
var mains = map[string]string{
	"agnhost":          "k8s.io/kubernetes/test/images/agnhost",
	"nonewprivs":       "k8s.io/kubernetes/test/images/nonewprivs",
	"sample-apiserver": "k8s.io/sample-apiserver",
	"server":           "go.etcd.io/etcd/server/v3",
	"sh":               "skiff/conformance/e2e/images/sh",
}

// Environ is how everything for the suite is compiled: as make compiles, so that both share a build cache.
func Environ() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
}

// programs compiles what goes into images.
func (m *maker) programs(ctx context.Context) error {
	dir := filepath.Join(m.Cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-ldflags=-s -w", "-o", dir + "/"}
	for _, source := range mains {
		args = append(args, source)
	}
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir, build.Env = m.Module, Environ()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the images' programs: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(filepath.Join(dir, "server"), filepath.Join(dir, "etcd"))
}

// program puts a compiled program into the root file system.
func program(name, where string, mode os.FileMode) func(*maker, string) error {
	return func(m *maker, root string) error {
		return copyFile(filepath.Join(m.Cache, "programs", name), filepath.Join(root, where), mode)
	}
}

// pictures puts what upstream's image of that name shows into the root file system: files of its module.
func pictures(name string) func(*maker, string) error {
	return func(m *maker, root string) error {
		source, err := Upstream(m.Module)
		if err != nil {
			return err
		}
		from := filepath.Join(source, "test/images", name, "html")
		for _, file := range []string{name + ".jpg", "data.json"} {
			if err := copyFile(filepath.Join(from, file), filepath.Join(root, file), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

// Upstream finds the source of k8s.io/kubernetes of the version in go.mod. Module is the folder of module skiff/conformance.
func Upstream(module string) (string, error) { return upstream(module, "{{.Dir}}") }

// UpstreamVersion is that version, such as v1.37.2.
func UpstreamVersion(module string) (string, error) { return upstream(module, "{{.Version}}") }

func upstream(module, what string) (string, error) {
	find := exec.Command("go", "list", "-m", "-f", what, "k8s.io/kubernetes")
	find.Dir, find.Env = module, Environ()
	out, err := find.Output()
	if err != nil {
		return "", fmt.Errorf("find upstream's source: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, data, mode)
}

func writeFile(to string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(to, mode) // not through WriteFile: that keeps neither setuid nor what the umask takes away
}

// stamp tells what the images are made of: the versions of all modules, and the sources of this package.
func (c Config) stamp() (string, error) {
	sources := []string{filepath.Join(c.Module, "go.sum")}
	for _, pattern := range []string{"e2e/images/*.go", "e2e/images/*/*.go"} {
		found, err := filepath.Glob(filepath.Join(c.Module, pattern))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("look for %s in %s: none there (%v)", pattern, c.Module, err)
		}
		sources = append(sources, found...)
	}
	sum := sha256.New()
	for _, file := range sources {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n", filepath.Base(file), len(data))
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
