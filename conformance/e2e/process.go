package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// tidyTime is what an interrupted spec gets to remove what it made.
const tidyTime = 45 * time.Second

// process runs one process of the e2e program with these specs and returns what it reported. A spec that takes longer than the
// limit is interrupted, and the process with it: those after it are not in what is returned. The error says why nothing was
// reported.
func (r *runner) process(ctx context.Context, specs []string) ([]Outcome, error) {
	dir, err := os.MkdirTemp(r.dir, "process-*")
	if err != nil {
		return nil, err
	}
	report := filepath.Join(dir, "report.json")
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer output.Close()

	cmd := exec.Command(r.program, r.arguments(specs, report, dir)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.cluster.kubeconfig, "TMPDIR="+dir)
	said := spoken{file: output, heard: make(chan struct{}, 1)}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, said, output
	cmd.WaitDelay = 5 * time.Second                                                   // a kubectl that outlives the program may hold its output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // a Ctrl-C is for us to pass on
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the e2e program: %w", err)
	}
	late := r.watch(ctx, cmd, said.heard)
	found, err := readReportFile(report)
	if len(found) == 0 {
		err = errors.Join(err, r.noReport(late, output.Name()))
	}
	for i, o := range found {
		if late && strings.HasPrefix(o.Reason, cutOff) {
			found[i].Reason = fmt.Sprintf("no end within %s", r.Limit)
		}
	}
	return found, errors.Join(err, os.RemoveAll(dir))
}

// noReport says in one sentence why a process reported nothing.
func (r *runner) noReport(late bool, output string) error {
	if late {
		return fmt.Errorf("no end within %s, and it could not be interrupted", r.Limit)
	}
	data, _ := os.ReadFile(output) // what cannot be read has nothing to tell
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("the e2e program ended without a report: %s", firstLine(lines[len(lines)-1]))
}

// watch waits for the process to end, and ends it when ctx does or when no spec has ended for the limit: first by an interrupt, so
// that the program can remove what it made and write its report, then by a kill of its whole group.
func (r *runner) watch(ctx context.Context, cmd *exec.Cmd, heard <-chan struct{}) (late bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // a failed spec is an error here; the report tells more
	}()
	limit := time.NewTimer(r.Limit + 30*time.Second) // the program's own start comes on top
	defer limit.Stop()
	stop := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case <-ended:
			return late
		case <-heard:
			if !late {
				limit.Reset(r.Limit)
			}
		case <-limit.C:
			late = true
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended meanwhile
			kill = time.After(tidyTime)
		case <-stop:
			stop = nil
			_ = cmd.Process.Signal(os.Interrupt)
			kill = time.After(tidyTime)
		case <-kill:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}
}

// arguments of the e2e program for these specs.
func (r *runner) arguments(specs []string, report, dir string) []string {
	args := []string{
		"--provider=skeleton",
		"--kubeconfig=" + r.cluster.kubeconfig,
		"--kubectl-path=" + filepath.Join(r.Root, "bin/kubectl"),
		"--e2e-output-dir=" + dir,
		"--ginkgo.json-report=" + report,
		"--ginkgo.no-color",
		"--ginkgo.timeout=24h", // the limit is per spec, and ours
		"--ginkgo.grace-period=30s",
	}
	for _, s := range specs {
		args = append(args, "--ginkgo.focus="+regexp.QuoteMeta(s)+"$")
	}
	return args
}

// spoken is the e2e program's output on its way to a file. Ginkgo prints a bullet whenever a spec has ended, and nowhere else.
type spoken struct {
	file  *os.File
	heard chan struct{} // one that was not looked at yet is enough
}

func (s spoken) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("•")) {
		select {
		case s.heard <- struct{}{}:
		default:
		}
	}
	return s.file.Write(p)
}
