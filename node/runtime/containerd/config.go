package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// machine is what the configuration depends on beside Config.
type machine struct {
	major, minor int  // containerd's version
	maySetOOM    bool // CAP_SYS_RESOURCE: lowering a process' OOM score needs it
}

// settings writes containerd's configuration: version 3 for containerd 2, version 2 for 1.6 and 1.7.
//
// What is set beside paths, and why:
//   - restrict_oom_score_adj where CAP_SYS_RESOURCE is missing: else no sandbox starts;
//   - every path that containerd would share with another one on the machine (/run/netns, /run/containerd, /opt) is inside State;
//   - plugins that nobody here uses are off: they cost memory, open sockets at shared paths, or wake up each ten seconds;
//   - usage is sampled when asked for and each minute, not each second: the agent reads cgroups itself.
func settings(c Config, m machine) string {
	var t toml
	if m.major >= 2 {
		t.set("version", 3)
	} else {
		t.set("version", 2)
	}
	t.set("root", c.Root)
	t.set("state", c.State)
	t.set("disabled_plugins", unusedPlugins)
	if m.maySetOOM {
		t.set("oom_score", -999)
	}
	t.table("grpc")
	t.set("address", c.Socket)
	t.table("ttrpc")
	t.set("address", c.Socket+".ttrpc")
	t.table("debug")
	t.set("level", "warn")
	if c.Cgroup != "" {
		t.table("cgroup")
		t.set("path", c.Cgroup)
	}
	if m.major >= 2 {
		criTwo(&t, c, m)
	} else {
		criOne(&t, c, m)
	}
	return t.String()
}

// unusedPlugins are those that a node has no use for. A name that the running version does not know does no harm.
var unusedPlugins = []string{
	"io.containerd.differ.v1.erofs",
	"io.containerd.image-verifier.v1.bindir",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.restart",
	"io.containerd.internal.v1.tracing",
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.monitor.task.v1.cgroups",
	"io.containerd.monitor.v1.cgroups",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.nri.v1.nri",
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.native",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.tracing.processor.v1.otlp",
}

const statsPeriod = 60 // seconds

// criTwo writes the CRI plugin's settings in the form of containerd 2.
func criTwo(t *toml, c Config, m machine) {
	const images, runtime = `plugins."io.containerd.cri.v1.images"`, `plugins."io.containerd.cri.v1.runtime"`
	t.table(images)
	t.set("snapshotter", "overlayfs")
	t.set("stats_collect_period", statsPeriod)
	t.table(images + ".pinned_images")
	t.set("sandbox", c.SandboxImage)
	t.table(images + ".registry")
	t.set("config_path", c.RegistryHostsDir)

	t.table(runtime)
	t.set("restrict_oom_score_adj", !m.maySetOOM)
	t.set("netns_mounts_under_state_dir", true)
	t.set("stats_collect_period", strconv.Itoa(statsPeriod)+"s")
	t.set("stats_retention_period", strconv.Itoa(3*statsPeriod)+"s")
	t.table(runtime + ".cni")
	if m.major == 2 && m.minor == 0 {
		t.set("bin_dir", firstOf(c.CNIBinDirs))
	} else {
		t.set("bin_dirs", c.CNIBinDirs)
	}
	t.set("conf_dir", c.CNIConfDir)
	t.set("use_internal_loopback", true)
	t.table(runtime + ".containerd")
	t.set("default_runtime_name", "runc")
	t.runc(runtime+".containerd.runtimes.runc", c)

	t.table(`plugins."io.containerd.grpc.v1.cri"`)
	t.set("disable_tcp_service", true)
	t.set("stream_server_address", "127.0.0.1")
	t.set("stream_server_port", "0")

	if dir := filepath.Join(c.State, "s"); len(dir) <= maxShimDir {
		t.table(`plugins."io.containerd.shim.v1.manager"`)
		t.set("socket_dir", dir)
	}
}

// maxShimDir is the longest directory that containerd takes for the shims' sockets. With a longer one they are in /run/containerd/s,
// under names that depend on this containerd's socket: no clash, only not all in one place.
const maxShimDir = 42

// criOne writes the CRI plugin's settings in the form of containerd 1.6 and 1.7. There, CNI's loopback plugin must be in CNIBinDirs.
func criOne(t *toml, c Config, m machine) {
	const cri = `plugins."io.containerd.grpc.v1.cri"`
	t.table(cri)
	t.set("sandbox_image", c.SandboxImage)
	t.set("restrict_oom_score_adj", !m.maySetOOM)
	t.set("netns_mounts_under_state_dir", true)
	t.set("enable_unprivileged_ports", true)
	t.set("enable_unprivileged_icmp", true)
	t.set("stats_collect_period", statsPeriod)
	t.set("disable_tcp_service", true)
	t.set("stream_server_address", "127.0.0.1")
	t.set("stream_server_port", "0")
	t.table(cri + ".registry")
	t.set("config_path", c.RegistryHostsDir)
	t.table(cri + ".cni")
	t.set("bin_dir", firstOf(c.CNIBinDirs))
	t.set("conf_dir", c.CNIConfDir)
	t.table(cri + ".containerd")
	t.set("snapshotter", "overlayfs")
	t.set("default_runtime_name", "runc")
	t.runc(cri+".containerd.runtimes.runc", c)
}

// runc writes the one runtime that there is: this shim and this runc, wherever PATH points.
func (t *toml) runc(table string, c Config) {
	t.table(table)
	t.set("runtime_type", "io.containerd.runc.v2")
	t.set("runtime_path", c.Programs.Shim)
	t.table(table + ".options")
	t.set("BinaryName", c.Programs.Runc)
	t.set("Root", filepath.Join(c.State, "runc"))
	t.set("SystemdCgroup", c.SystemdCgroup)
}

func firstOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// toml writes the few forms of TOML that are needed: strings, numbers, booleans and lists of strings under dotted tables.
type toml struct{ strings.Builder }

func (t *toml) table(name string) { fmt.Fprintf(t, "\n[%s]\n", name) }

func (t *toml) set(key string, value any) {
	switch v := value.(type) {
	case string:
		fmt.Fprintf(t, "%s = %s\n", key, quote(v))
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = quote(s)
		}
		fmt.Fprintf(t, "%s = [%s]\n", key, strings.Join(quoted, ", "))
	default:
		fmt.Fprintf(t, "%s = %v\n", key, v)
	}
}

// quote writes a TOML basic string. Go's escapes differ for control bytes only, which a path could hold but should not: they become
// \u escapes, which both know.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

const capSysResource = 24

// maySetOOM tells whether this process, and so its child, has CAP_SYS_RESOURCE.
func maySetOOM() (bool, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, fmt.Errorf("read this process' capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return false, fmt.Errorf("read this process' capabilities: %w", err)
			}
			return caps&(1<<capSysResource) != 0, nil
		}
	}
	return false, nil
}
