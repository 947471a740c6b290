package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for line, want := range map[string][2]int{
		"containerd github.com/containerd/containerd/v2 v2.4.2 \n":                                       {2, 4},
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1":                    {1, 6},
		"containerd containerd.io v1.7.29 442cb34bda9a6a0fed82a2ca7cade05c5c749582":                      {1, 7},
		"containerd github.com/containerd/containerd/v2 2.0.0-rc.1 a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7": {2, 0},
	} {
		major, minor, err := parseVersion(line)
		if err != nil || major != want[0] || minor != want[1] {
			t.Errorf("%q: %d.%d, %v", line, major, minor, err)
		}
	}
	if _, _, err := parseVersion("no version here"); err == nil {
		t.Error("a version was found where there is none")
	}
}

func program(t *testing.T, file string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	names := []string{"containerd", "containerd-shim-runc-v2", "runc"}
	dir, path := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path)
	skiff := filepath.Join(dir, "bin/skiff")
	program(t, skiff, 0o755)

	if _, err := Find(skiff); err == nil || !strings.Contains(err.Error(), "make runtime") {
		t.Errorf("nothing there: %v", err)
	}
	for _, n := range names {
		program(t, filepath.Join(path, n), 0o755)
	}
	if p, err := Find(skiff); err != nil || p.Runc != filepath.Join(path, "runc") {
		t.Errorf("on PATH: %+v, %v", p, err)
	}
	for _, n := range names[:2] {
		program(t, filepath.Join(dir, "bin/runtime", n), 0o755)
	}
	if p, err := Find(skiff); err != nil || p.Containerd != filepath.Join(path, "containerd") {
		t.Errorf("the pinned runtime lacks runc, so PATH's is used: %+v, %v", p, err)
	}
	program(t, filepath.Join(dir, "bin/runtime/runc"), 0o644)
	if p, _ := Find(skiff); p.Runc != filepath.Join(path, "runc") {
		t.Errorf("a file that cannot be executed was taken: %+v", p)
	}
	if err := os.Chmod(filepath.Join(dir, "bin/runtime/runc"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "skiff")
	if err := os.Symlink(skiff, link); err != nil {
		t.Fatal(err)
	}
	for _, exe := range []string{skiff, link} {
		if p, err := Find(exe); err != nil || p.Shim != filepath.Join(dir, "bin/runtime/containerd-shim-runc-v2") {
			t.Errorf("%s: %+v, %v", exe, p, err)
		}
	}
	program(t, filepath.Join(dir, "sbin/skiff"), 0o755)
	if p, err := Find(filepath.Join(dir, "sbin/skiff")); err != nil || p.Runc != filepath.Join(dir, "bin/runtime/runc") {
		t.Errorf("in a neighbour of bin: %+v, %v", p, err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Root: "/r", State: "/s", SandboxImage: "skiff.local/pause:1", Programs: Programs{"/c", "/h", "/r"}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"relative root":  func(c *Config) { c.Root = "r" },
		"relative state": func(c *Config) { c.State = "" },
		"long socket":    func(c *Config) { c.State = "/" + strings.Repeat("s", maxSocket) },
		"no sandbox":     func(c *Config) { c.SandboxImage = "" },
		"no programs":    func(c *Config) { c.Programs.Runc = "" },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStateOfAnotherBootIsCleared(t *testing.T) {
	dir := t.TempDir()
	r, err := New(Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), SandboxImage: "skiff.local/pause:1", Programs: Programs{"/c", "/h", "/r"}})
	if err != nil {
		t.Fatal(err)
	}
	kept, stale := filepath.Join(r.c.Root, "image"), filepath.Join(r.c.State, "bundle")
	for i, boot := range []string{"", "", "an earlier boot\n"} {
		if boot != "" {
			if err := os.WriteFile(filepath.Join(r.c.State, "boot"), []byte(boot), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.prepare(); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(stale)
		if there, want := err == nil, i == 1; there != want {
			t.Errorf("preparation %d: what was left is there: %v, want %v", i+1, there, want)
		}
		if i == 0 {
			program(t, kept, 0o600)
			program(t, stale, 0o600)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what survives a reboot: %v", err)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{`/a b`: `"/a b"`, `a"b\c`: `"a\"b\\c"`, "a\nb\x7f": `"a\u000Ab\u007F"`, "ä": `"ä"`} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/root", "GOMEMLIMIT=80MiB", "PATH=/usr/bin", "GOGC=30", "HTTPS_PROXY=http://p"}, "/x")
	if want := []string{"HOME=/root", "HTTPS_PROXY=http://p", "PATH=/x:/usr/bin", "GOGC=50"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSettingsByVersion(t *testing.T) {
	c := Config{Root: "/r", State: "/s", Socket: "/s/c.sock", SandboxImage: "skiff.local/pause:1", CNIBinDirs: []string{"/cni"}, CNIConfDir: "/net.d",
		RegistryHostsDir: "/hosts", Cgroup: "/skiff/n1", Programs: Programs{"/x/containerd", "/x/shim", "/x/runc"}}
	for _, v := range []struct {
		m    machine
		want []string
	}{
		{machine{2, 4, false}, []string{"version = 3", `bin_dirs = ["/cni"]`, "restrict_oom_score_adj = true", `sandbox = "skiff.local/pause:1"`,
			"use_internal_loopback = true", `config_path = "/hosts"`, `BinaryName = "/x/runc"`, `socket_dir = "/s/s"`, `path = "/skiff/n1"`}},
		{machine{2, 0, true}, []string{"version = 3", `bin_dir = "/cni"`, "restrict_oom_score_adj = false", "oom_score = -999"}},
		{machine{1, 6, false}, []string{"version = 2", `sandbox_image = "skiff.local/pause:1"`, `bin_dir = "/cni"`, `runtime_path = "/x/shim"`}},
	} {
		got := settings(c, v.m)
		for _, w := range v.want {
			if !strings.Contains(got, "\n"+w+"\n") && !strings.HasPrefix(got, w+"\n") {
				t.Errorf("containerd %d.%d: no line %s in\n%s", v.m.major, v.m.minor, w, got)
			}
		}
	}
	c.State = "/" + strings.Repeat("long", 12)
	if strings.Contains(settings(c, machine{2, 4, false}), "socket_dir") {
		t.Error("a directory too long for the shims' sockets was set")
	}
}

// pinned is the runtime that `make runtime` builds, or the one in the directory SKIFF_TEST_RUNTIME, to try other versions.
func pinned(t testing.TB) Programs {
	t.Helper()
	if dir := os.Getenv("SKIFF_TEST_RUNTIME"); dir != "" {
		p, ok := programsIn(dir)
		if !ok {
			t.Fatalf("SKIFF_TEST_RUNTIME=%s does not hold containerd, its shim and runc", dir)
		}
		return p
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p, ok := programsIn(filepath.Join(wd, "../../../bin/runtime"))
	if !ok {
		t.Skip("the pinned runtime is not built: make runtime")
	}
	return p
}

// containerd itself reads what we write, and understands each of our settings as we mean it.
func TestContainerdUnderstandsTheSettings(t *testing.T) {
	c := Config{Root: "/r", State: "/s", Socket: "/s/c.sock", SandboxImage: "skiff.local/pause:1", CNIBinDirs: []string{"/cni", "/cni2"}, CNIConfDir: "/net.d",
		RegistryHostsDir: "/hosts", Programs: pinned(t)}
	major, minor, err := c.Programs.version()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "containerd.toml")
	if err := os.WriteFile(file, []byte(settings(c, machine{major: major, minor: minor})), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(c.Programs.Containerd, "--config", file, "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"address = '/s/c.sock'", "address = '/s/c.sock.ttrpc'", "sandbox = 'skiff.local/pause:1'", "bin_dirs = ['/cni', '/cni2']",
		"restrict_oom_score_adj = true", "netns_mounts_under_state_dir = true", "stats_collect_period = '60s'", "stats_collect_period = 60",
		"config_path = '/hosts'", "BinaryName = '" + c.Programs.Runc + "'", "runtime_path = '" + c.Programs.Shim + "'", "use_internal_loopback = true",
		"socket_dir = '/s/s'"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("containerd does not see %s", want)
		}
	}
	if strings.Contains(string(out), "unknown") {
		t.Errorf("containerd ignores a key:\n%s", out)
	}
}
