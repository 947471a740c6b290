package containerd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs are the files that make up the runtime.
type Programs struct {
	Containerd string // absolute paths
	Shim       string // containerd-shim-runc-v2
	Runc       string
}

// The runtime is looked for beside the running program first: `make build` puts it into bin/runtime next to bin/skiff, a package into
// lib/skiff next to bin.
var besideProgram = []string{"runtime", "../lib/skiff", "../libexec/skiff", "../bin/runtime", "bin/runtime"}

// Find names the runtime's programs: the pinned ones that were built with the program at executable (as os.Executable returns it),
// else those on PATH. All three must come from one place: versions that were never tried together are not mixed.
func Find(executable string) (Programs, error) {
	if real, err := filepath.EvalSymlinks(executable); err == nil {
		executable = real
	}
	for _, dir := range besideProgram {
		if p, ok := programsIn(filepath.Join(filepath.Dir(executable), dir)); ok {
			return p, nil
		}
	}
	return onPath()
}

func programsIn(dir string) (Programs, bool) {
	p := Programs{filepath.Join(dir, "containerd"), filepath.Join(dir, "containerd-shim-runc-v2"), filepath.Join(dir, "runc")}
	for _, file := range []string{p.Containerd, p.Shim, p.Runc} {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return Programs{}, false
		}
	}
	return p, true
}

func onPath() (Programs, error) {
	var p Programs
	for name, field := range map[string]*string{"containerd": &p.Containerd, "containerd-shim-runc-v2": &p.Shim, "runc": &p.Runc} {
		file, err := exec.LookPath(name)
		if err != nil {
			return Programs{}, fmt.Errorf("find the container runtime: neither the pinned one (make runtime) nor %s on PATH: %w", name, errors.Unwrap(err))
		}
		if *field, err = filepath.Abs(file); err != nil {
			return Programs{}, fmt.Errorf("find the container runtime: %w", err)
		}
	}
	return p, nil
}

// version asks containerd for its version. 1.6 and 2.4 want different configurations.
func (p Programs) version() (major, minor int, err error) {
	out, err := exec.Command(p.Containerd, "--version").Output()
	if err != nil {
		return 0, 0, fmt.Errorf("ask %s for its version: %w", p.Containerd, err)
	}
	return parseVersion(string(out))
}

// parseVersion reads "containerd github.com/containerd/containerd/v2 v2.4.2 0123abcd"; Debian's has no "v" and a suffix.
func parseVersion(line string) (major, minor int, err error) {
	for _, word := range strings.Fields(line) {
		if n, _ := fmt.Sscanf(strings.TrimPrefix(word, "v"), "%d.%d", &major, &minor); n == 2 {
			return major, minor, nil
		}
	}
	return 0, 0, fmt.Errorf("read containerd's version: there is none in %q", strings.TrimSpace(line))
}
