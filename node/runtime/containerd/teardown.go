package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// KillAll ends everything that ran here: containerd, all shims, all containers. Then it takes back mounts, cgroups and State. It needs
// neither containerd nor an agent, so that a broken node can be cleared too, and does nothing where nothing is left. Root stays, for
// whoever wants the images again. What the network plugin set up is the network's to take back. Not while Run runs.
func (r *Runtime) KillAll(ctx context.Context) error {
	if rec, ok := r.recorded(); ok {
		p, err := follow(rec)
		if err != nil {
			return fmt.Errorf("end containerd: %w", err)
		}
		if p != nil {
			if err := p.stop(); err != nil {
				return err
			}
		}
	}
	cgroups := r.containerCgroups() // read before State goes
	if err := r.killShims(ctx); err != nil {
		return err
	}
	if err := unmountBelow(r.c.State, r.c.Root); err != nil {
		return err
	}
	for _, c := range cgroups {
		if err := removeCgroup(c); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.c.State); err != nil {
		return fmt.Errorf("remove containerd's state: %w", err)
	}
	return nil
}

// killShims kills the containers of all shims of this containerd, then the shims. A shim is the reaper of all that its containers
// start, so what it has no more children of is gone for good.
func (r *Runtime) killShims(ctx context.Context) error {
	for {
		table, err := readProcesses()
		if err != nil {
			return err
		}
		var doomed []record
		for pid := range table {
			if !r.isShim(pid) {
				continue
			}
			if below := table.descendants(pid); len(below) > 0 {
				doomed = append(doomed, below...)
			} else {
				doomed = append(doomed, table[pid].record)
			}
		}
		if len(doomed) == 0 {
			return nil
		}
		if err := killAndWait(ctx, doomed); err != nil {
			return err
		}
	}
}

// isShim recognises a shim by the socket that it reports to, which stands in its arguments.
func (r *Runtime) isShim(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") {
		return false
	}
	i := slices.Index(args, "-address")
	return i >= 0 && i+1 < len(args) && args[i+1] == r.c.Socket
}

func killAndWait(ctx context.Context, doomed []record) error {
	for _, rec := range doomed {
		if err := signal(rec, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill process %d: %w", rec.PID, err)
		}
	}
	for _, rec := range doomed {
		p, err := follow(rec)
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", rec.PID, err)
		}
		if p == nil {
			continue
		}
		select {
		case <-p.ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for process %d to end: %w", rec.PID, ctx.Err())
		}
	}
	return nil
}

// processes is one look at the process table.
type processes map[int]struct {
	record record
	parent int
}

func readProcesses() (processes, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("read the process table: %w", err)
	}
	table := processes{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 20 || fields[0] == "Z" {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		entry := table[pid]
		entry.record, entry.parent = record{PID: pid, Started: fields[19]}, parent
		table[pid] = entry
	}
	return table, nil
}

func (t processes) descendants(pid int) []record {
	var all []record
	for child, p := range t {
		if p.parent == pid {
			all = append(append(all, p.record), t.descendants(child)...)
		}
	}
	return all
}

// unmountBelow takes away every mount in these directories, the innermost first.
func unmountBelow(dirs ...string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	defer f.Close()
	var points []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(point, strings.TrimSuffix(d, "/")+"/") }) {
			points = append(points, point)
		}
	}
	for _, point := range slices.Backward(points) { // mountinfo lists a mount after what it lies on
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// unescape undoes what the kernel does to blanks in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// containerCgroups are the cgroups of all containers that there are bundles of.
func (r *Runtime) containerCgroups() []string {
	files, _ := filepath.Glob(filepath.Join(r.c.State, "io.containerd.runtime.v2.task", "*", "*", "config.json")) // the pattern is good
	var found []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var bundle struct {
			Linux struct {
				CgroupsPath string `json:"cgroupsPath"`
			} `json:"linux"`
		}
		if json.Unmarshal(b, &bundle) == nil && strings.HasPrefix(bundle.Linux.CgroupsPath, "/") {
			found = append(found, filepath.Clean(bundle.Linux.CgroupsPath))
		}
	}
	return found
}

const cgroupRoot = "/sys/fs/cgroup"

// removeCgroup removes one container's cgroup and those below it, in every hierarchy: on version 1 each controller has its own.
func removeCgroup(path string) error {
	dirs := []string{filepath.Join(cgroupRoot, path)}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return fmt.Errorf("look for cgroups: %w", err)
	}
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(cgroupRoot, e.Name(), path))
	}
	for _, dir := range dirs {
		if err := removeGroupDirs(dir); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// removeGroupDirs removes directories only: a cgroup's files go with it.
func removeGroupDirs(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroupDirs(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for patience := time.Second; ; patience -= time.Millisecond { // a killed process leaves its cgroup a moment after it has ended
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || patience <= 0 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}
