// Package powercut has disks whose power can be cut, for tests of what survives
// that: ext4 file systems in files, shut down without another write. Only tests
// call it; it knows nothing of what they keep there.
package powercut

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// namespaceEnv says that the process has a mount namespace of its own.
const namespaceEnv = "SKIFF_POWER_CUT_NAMESPACE"

// Alone runs a test in a process that has a mount namespace of its own, and
// returns whether this is that process; where it is not, the test has been run,
// and is over. A mount that others can see is copied into every namespace that
// they make meanwhile, and there it lives on, shut down, after it is unmounted
// here. It skips the test where there is no root.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cutting the power of a file system needs root (it mounts one)")
	}
	if os.Getenv(namespaceEnv) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // and private
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("no mount namespace can be made here: %v", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skip(string(out))
	}
	t.Log(string(out))
	return false
}

// Disk is an ext4 file system in a file.
type Disk struct {
	// Dir is where it is mounted, while it is.
	Dir  string
	file string
}

// New makes a disk of that many bytes, not mounted yet. It skips the test where
// the machine cannot mount one.
func New(t *testing.T, size int64) *Disk {
	t.Helper()
	d := &Disk{file: filepath.Join(t.TempDir(), "disk"), Dir: filepath.Join(t.TempDir(), "mnt")}
	for _, err := range []error{os.Mkdir(d.Dir, 0o700), os.WriteFile(d.file, nil, 0o600), os.Truncate(d.file, size)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", d.file).CombinedOutput(); err != nil {
		t.Skipf("there is no ext4 to cut the power of: mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.file, d.Dir).CombinedOutput(); err != nil {
		t.Skipf("no ext4 can be mounted here: %v: %s", err, out)
	}
	d.Unmount(t)
	t.Cleanup(func() { _ = exec.Command("umount", d.Dir).Run() }) // if a test ended early
	return d
}

// Mount mounts it at Dir.
func (d *Disk) Mount(t *testing.T) {
	t.Helper()
	d.run(t, "mount", "-o", "loop", d.file, d.Dir)
}

// Unmount makes sure that the file system is unmounted everywhere.
func (d *Disk) Unmount(t *testing.T) {
	t.Helper()
	d.run(t, "umount", d.Dir)
	if out, err := exec.Command("losetup", "-j", d.file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%s is still in use: %v: %s", d.file, err, out)
	}
}

func (d *Disk) run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// Repair replays the journal, as a start after a power loss does.
func (d *Disk) Repair(t *testing.T) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fy", d.file).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) { // 1: errors were corrected
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
}

// Cut shuts the mounted file system down without writing anything more, its
// journal's buffers included: EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
// It may be called from any goroutine.
func (d *Disk) Cut(t *testing.T) {
	const shutdown, noLogFlush = 0x8004587d, 2
	f, err := os.Open(d.Dir)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush)
		f.Close()
	}
	if err != nil {
		t.Errorf("cut the power: %v", err)
	}
}
