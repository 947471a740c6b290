package status

import (
	"bufio"
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the machine offers: read once, at start.
func Machine(root string, maxPods int) (corev1.ResourceList, error) {
	memory, err := totalMemory()
	if err != nil {
		return nil, err
	}
	out := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err == nil {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	for _, size := range hugepages() {
		out[size.name] = *resource.NewQuantity(size.bytes, resource.BinarySI)
	}
	return out, nil
}

type hugepage struct {
	name  corev1.ResourceName
	bytes int64
}

func hugepages() []hugepage {
	var out []hugepage
	const root = "/sys/kernel/mm/hugepages"
	entries, _ := os.ReadDir(root) // none: the kernel has no huge pages
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		data, err := os.ReadFile(root + "/" + e.Name() + "/nr_hugepages")
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			continue
		}
		q := resource.NewQuantity(kb*1024, resource.BinarySI)
		out = append(out, hugepage{name: corev1.ResourceName(corev1.ResourceHugePagesPrefix + q.String()), bytes: n * kb * 1024})
	}
	return out
}

func totalMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the machine's memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("read the machine's memory: no MemTotal in /proc/meminfo")
}

// Info is what the machine is.
func Info(version string) corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		MachineID: line("/etc/machine-id"), SystemUUID: line("/sys/class/dmi/id/product_uuid"), BootID: line("/proc/sys/kernel/random/boot_id"),
		KernelVersion: line("/proc/sys/kernel/osrelease"), OSImage: osName(),
		KubeletVersion: version, OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	if info.KernelVersion == "" {
		var u unix.Utsname
		if unix.Uname(&u) == nil {
			info.KernelVersion = unix.ByteSliceToString(u.Release[:])
		}
	}
	return info
}

func line(path string) string {
	data, _ := os.ReadFile(path) // missing on some machines: then it stays empty
	return strings.TrimSpace(string(data))
}

func osName() string {
	for _, l := range strings.Split(line("/etc/os-release"), "\n") {
		if v, ok := strings.CutPrefix(l, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}
