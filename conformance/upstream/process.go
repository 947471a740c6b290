package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs until it is stopped.
type Process struct {
	Name string
	// Log holds what it wrote.
	Log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // how; valid once ended is closed
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when it has ended, by itself or stopped.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Run starts a program, which ends with this one at the latest. Its output goes to dir/NAME.log.
func Run(dir, path string, args ...string) (*Process, error) {
	p := &Process{Name: filepath.Base(path), ended: make(chan struct{})}
	p.Log = filepath.Join(dir, p.Name+".log")
	log, err := os.Create(p.Log)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", p.Name, err)
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that starts a process: this one stays with its goroutine until the process has ended.
		lockThread()
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return p, nil
}

// Stop asks the program to end, and after ten seconds makes it.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// Until asks again and again whether a program is ready, until it is, it has ended, or ctx ends.
func (p *Process) Until(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready (%v): %s", p.Name, p.err, p.lastLine())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.Name, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// Tail is the end of its log, of so many lines.
func (p *Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return p.Name + " said last:\n" + strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lastLine of its log that says something.
func (p *Process) lastLine() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "E") || strings.HasPrefix(lines[i], "F") || strings.HasPrefix(strings.ToLower(lines[i]), "error") {
			return lines[i]
		}
	}
	return lines[len(lines)-1]
}
