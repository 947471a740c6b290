package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPauseImageIsAlwaysTheSame(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		first, err := Pause(arch)
		if err != nil {
			t.Fatal(err)
		}
		second, err := Pause(arch)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := PauseReference(first)
		if err != nil {
			t.Fatal(err)
		}
		again, err := PauseReference(second)
		if err != nil {
			t.Fatal(err)
		}
		if ref != again || !strings.HasPrefix(ref, PauseRepository+":") {
			t.Errorf("%s: two builds are %s and %s", arch, ref, again)
		}
		cf, err := first.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cf.Architecture != arch || cf.OS != "linux" || cf.Config.User != "65535:65535" {
			t.Errorf("%s: configuration %+v", arch, cf)
		}
	}
	if _, err := Pause("mips"); err == nil {
		t.Error("an architecture without a program was accepted")
	}
}

func TestPauseProgramIsAStaticELF(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		program, err := PauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(program) > 512 {
			t.Errorf("%s: machine %v, type %v, %d bytes", arch, f.Machine, f.Type, len(program))
		}
	}
}

func startPause(t *testing.T, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	program, err := PauseProgram(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file)
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	eventually(t, "the program waits for a signal", func() bool {
		return strings.HasPrefix(procFile(cmd, "syscall"), waitCall[runtime.GOARCH])
	})
	return cmd
}

// waitCall is rt_sigtimedwait's number, as /proc/PID/syscall shows it.
var waitCall = map[string]string{"amd64": "128 ", "arm64": "137 "}

func procFile(cmd *exec.Cmd, name string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, name))
	return string(b)
}

// eventually waits for what another process does, which gives no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestPauseEndsWellOnSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := startPause(t, nil)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
	}
}

func TestPauseSurvivesStopAndContinue(t *testing.T) {
	cmd := startPause(t, nil)
	cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "stopped", func() bool { return strings.Contains(procFile(cmd, "stat"), ") T ") })
	cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, "waiting again", func() bool { return strings.HasPrefix(procFile(cmd, "syscall"), waitCall[runtime.GOARCH]) })
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestPauseReapsAsProcessOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	cmd := startPause(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
	// The shell's children are orphaned when it exits, and become children of process 1 of the namespace.
	pid := strconv.Itoa(cmd.Process.Pid)
	if out, err := exec.Command("nsenter", "-t", pid, "-p", "sh", "-c", "for i in 1 2 3 4 5; do sleep 0.05 & done").CombinedOutput(); err != nil {
		t.Skipf("nsenter: %v: %s", err, out)
	}
	children := func() string { return strings.TrimSpace(procFile(cmd, "task/"+pid+"/children")) }
	eventually(t, "all orphans reaped", func() bool { return children() == "" })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("as process 1, after SIGTERM: %v", err)
	}
}

func TestPauseMemory(t *testing.T) {
	cmd := startPause(t, nil)
	var kb int
	for line := range strings.Lines(procFile(cmd, "status")) {
		fmt.Sscanf(line, "VmRSS: %d kB", &kb)
	}
	if kb == 0 || kb > 64 {
		t.Errorf("the sandbox program takes %d kB, want 1 to 64", kb)
	}
}
