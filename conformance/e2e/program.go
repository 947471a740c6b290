package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"skiff/conformance/e2e/images"
)

// BuildProgram compiles upstream's e2e program, or finds that of an earlier run with the same versions, and returns its path. From
// nothing it takes many minutes. Module is the folder of module skiff/conformance; the program is put into dir.
func BuildProgram(ctx context.Context, module, dir string) (string, error) {
	program := filepath.Join(dir, "e2e.test")
	want, err := versions(module)
	if err != nil {
		return "", err
	}
	stamp := program + ".stamp"
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if _, err := os.Stat(program); err == nil {
			return program, nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	flags, err := linkFlags(module)
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags="+flags, "-o", program, "k8s.io/kubernetes/test/e2e")
	build.Dir, build.Env = module, images.Environ()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile upstream's e2e program: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return program, os.WriteFile(stamp, []byte(want), 0o644)
}

// linkFlags tell the program its version, as upstream's own build does: specs ask for what this version has.
func linkFlags(module string) (string, error) {
	version, err := images.UpstreamVersion(module)
	if err != nil {
		return "", err
	}
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("compile upstream's e2e program: %q is not a version", version)
	}
	const variable = " -X k8s.io/component-base/version."
	return "-s -w" + variable + "gitVersion=" + version + variable + "gitMajor=" + parts[0] + variable + "gitMinor=" + parts[1] + variable + "gitTreeState=clean", nil
}

// versions is a sum over the versions of all modules.
func versions(module string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("find the versions of modules: %w", err)
		}
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
