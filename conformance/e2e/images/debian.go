package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Debian's packages of each root file system. Their libraries are found (withLibraries).
var (
	shellPackages = []string{"busybox", "bash", "libc6"}
	toolPackages  = []string{"curl", "bind9-dnsutils", "bind9-host", "iperf", "iproute2", "libc-bin", "netcat-openbsd", "socat", "util-linux"}
	nginxPackages = []string{"nginx", "nginx-common"}
)

// makeBases makes the root file systems that images share, each on top of the one that it names.
func (m *maker) makeBases(ctx context.Context) error {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, b := range []struct {
		is, on base
		fill   func(ctx context.Context, root string) error
	}{
		{shell, scratch, m.fillShell},
		{tools, shell, m.fillTools},
		{agnhost, tools, m.fillAgnhost},
		{webserve, shell, m.fillNginx},
	} {
		root := filepath.Join(m.temp, "base")
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		if err := b.fill(ctx, root); err != nil {
			return fmt.Errorf("make a root file system: %w", err)
		}
		below := image
		if b.on != scratch {
			below = m.bases[b.on]
		}
		img, err := onto(below, root)
		if err != nil {
			return err
		}
		m.bases[b.is] = img
		if err := os.RemoveAll(root); err != nil {
			return err
		}
	}
	return setPlatform(m.bases)
}

// setPlatform says in each base for which machine it is: a runtime looks for it.
func setPlatform(bases map[base]v1.Image) error {
	for b, img := range bases {
		file, err := img.ConfigFile()
		if err != nil {
			return err
		}
		file = file.DeepCopy()
		file.OS, file.Architecture = "linux", architecture
		if bases[b], err = mutate.ConfigFile(img, file); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) fillShell(ctx context.Context, root string) error {
	if err := m.unpack(ctx, root, shellPackages); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\nuser-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
		"etc/group":         "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"etc/os-release":    "NAME=\"Debian's packages in place of Alpine Linux\"\nID=debian\n", // a spec looks for the name of upstream's base
		"etc/services":      "domain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n",
	} {
		if err := writeFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "root", "home", "proc", "sys", "dev", "run", "var/tmp", "var/log", "mnt"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(root, dir), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	if err := program("sh", "bin/sh", 0o755)(m, root); err != nil {
		return err
	}
	return applets(ctx, root)
}

// applets gives each of busybox's programs its name, but for the shell.
func applets(ctx context.Context, root string) error {
	list := exec.CommandContext(ctx, "/lib64/ld-linux-x86-64.so.2", "/bin/busybox", "--list")
	if architecture != "amd64" {
		list = exec.CommandContext(ctx, "/bin/busybox", "--list")
	}
	list.SysProcAttr = chroot(root)
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("ask busybox for its programs: %w", err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet == "busybox" {
			continue
		}
		if applet == "sh" {
			continue // folder sh
		}
		if err := os.Symlink("/bin/busybox", filepath.Join(root, "bin", applet)); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) fillTools(ctx context.Context, root string) error {
	if err := m.unpack(ctx, root, toolPackages, shellPackages...); err != nil {
		return err
	}
	for link, to := range map[string]string{
		"bin/nc":              "/bin/nc.openbsd",
		"usr/local/bin/iperf": "/usr/bin/iperf",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) fillAgnhost(_ context.Context, root string) error {
	if err := program("agnhost", "agnhost", 0o755)(m, root); err != nil {
		return err
	}
	if err := os.Symlink("agnhost", filepath.Join(root, "agnhost-2")); err != nil {
		return err
	}
	source, err := Upstream(m.Module)
	if err != nil {
		return err
	}
	for _, file := range []string{"localhost.crt", "localhost.key"} { // what `agnhost porter` serves TLS with
		if err := copyFile(filepath.Join(source, "test/images/agnhost/porter", file), filepath.Join(root, file), 0o644); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(root, "uploads"), 0o755)
}

// nginxConfig serves Debian's welcome page, as upstream's image does its own.
const nginxConfig = `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
	include /etc/nginx/mime.types;
	access_log /dev/stdout;
	server {
		listen 80;
		root /usr/share/nginx/html;
		index index.html;
	}
}
`

func (m *maker) fillNginx(ctx context.Context, root string) error {
	if err := m.unpack(ctx, root, nginxPackages, shellPackages...); err != nil {
		return err
	}
	return writeFile(filepath.Join(root, "etc/nginx/nginx.conf"), []byte(nginxConfig), 0o644)
}

// unpack puts the files of Debian packages and of the libraries that they need into root, without what no program reads. What is in
// the packages below, and in their libraries, is there already.
func (m *maker) unpack(ctx context.Context, root string, packages []string, below ...string) error {
	want, err := withLibraries(ctx, packages)
	if err != nil {
		return err
	}
	if len(below) > 0 {
		there, err := withLibraries(ctx, below)
		if err != nil {
			return err
		}
		want = slices.DeleteFunc(want, func(p string) bool { return slices.Contains(there, p) })
	}
	files, err := m.download(ctx, want)
	if err != nil {
		return err
	}
	for _, file := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", file, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", file, err, out)
		}
	}
	for _, dir := range []string{"doc", "man", "locale", "lintian", "bash-completion", "bug", "info"} {
		if err := os.RemoveAll(filepath.Join(root, "usr/share", dir)); err != nil {
			return err
		}
	}
	return nil
}

// withLibraries adds all libraries that packages need, directly or not, and none of the programs that Debian's packages want for
// their own installation.
func withLibraries(ctx context.Context, packages []string) ([]string, error) {
	args := append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, packages...)
	out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt-cache what %s needs: %w", strings.Join(packages, " "), err)
	}
	return libraries(string(out), packages), nil
}

// libraries picks them out of what `apt-cache depends --recurse` prints: packages stand at the beginning of a line, virtual ones in
// angle brackets.
func libraries(depends string, packages []string) []string {
	all := slices.Clone(packages)
	for line := range strings.Lines(depends) {
		name := strings.TrimSpace(line)
		if isLibrary(line, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func isLibrary(line, name string) bool {
	if name == "zlib1g" || name == "bind9-libs" {
		return !strings.HasPrefix(line, " ")
	}
	return strings.HasPrefix(line, "lib") && !strings.HasSuffix(name, "-bin") && !strings.HasPrefix(name, "libdebian-installer")
}

// download fetches packages from Debian's mirror, those that are not in the cache.
func (m *maker) download(ctx context.Context, packages []string) ([]string, error) {
	dir := filepath.Join(m.Cache, "packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	find := func(p string) []string {
		found, _ := filepath.Glob(filepath.Join(dir, p+"_*.deb")) // the pattern is well-formed: names of packages hold no brackets
		return found
	}
	var missing, files []string
	for _, p := range packages {
		if len(find(p)) == 0 {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		get := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, missing...)...)
		get.Dir = dir
		if out, err := get.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("download Debian's packages: %w\n%s", err, out)
		}
	}
	for _, p := range packages {
		found := find(p)
		if len(found) == 0 {
			return nil, fmt.Errorf("download Debian's package %s: it did not come", p)
		}
		files = append(files, found[len(found)-1])
	}
	return files, nil
}
