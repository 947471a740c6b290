package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one child of the supervisor: started, and started again when it
// ends, until it is told to stop.
type process struct {
	name string
	args []string // of this same program
	in   *Namespaces
	log  string // file that gets its output
	// stopTime is how long it may take to stop; then it is killed.
	stopTime time.Duration
	logger   *slog.Logger

	mu       sync.Mutex
	pid      int           // 0: it does not run; guarded by mu
	restarts int           // guarded by mu
	lastEnd  string        // how it ended last; guarded by mu
	ready    chan struct{} // closed when it first said that it is ready; guarded by mu
}

func newProcess(name string, args []string, in *Namespaces, log string, logger *slog.Logger) *process {
	return &process{name: name, args: args, in: in, log: log, stopTime: 20 * time.Second, logger: logger, ready: make(chan struct{})}
}

// The pauses between restarts.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
	goodRun    = 30 * time.Second // after which the pauses begin anew
)

// run keeps the process running until ctx ends, then stops it.
func (p *process) run(ctx context.Context) error {
	for pause := firstPause; ctx.Err() == nil; {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		p.restarts++
		p.lastEnd = fmt.Sprint(err)
		p.mu.Unlock()
		if time.Since(began) > goodRun {
			pause = firstPause
		}
		p.logger.Warn("process ended, starting it again", "process", p.name, "end", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
	return nil
}

// once runs the process from start to end. When ctx ends it gets a SIGTERM, and
// after stopTime a SIGKILL.
func (p *process) once(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	out, err := openLog(p.log)
	if err != nil {
		return err
	}
	defer out.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer told.Close()

	cmd := exec.Command(program, p.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{tell} // file 3, see NotifyReady
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	// Its own group: a Ctrl-C in the terminal is the supervisor's matter. And it
	// does not outlive the supervisor, else two could come to serve one cluster.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}

	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		onStart := func() { tell.Close(); close(started) }
		if p.in != nil {
			ended <- p.in.RunIn(cmd, onStart)
			return
		}
		runtime.LockOSThread() // the death signal hangs on the thread
		defer runtime.UnlockOSThread()
		ended <- run(cmd, onStart)
	}()
	select {
	case err := <-ended:
		return err
	case <-started:
	}
	p.set(cmd.Process.Pid)
	defer p.set(0)
	go p.listen(told)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-time.After(p.stopTime):
		p.logger.Warn("process does not stop, killing it", "process", p.name)
		cmd.Process.Kill()
		return <-ended
	}
}

// bounce has the process stop and start again.
func (p *process) bounce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 {
		syscall.Kill(p.pid, syscall.SIGTERM)
	}
}

// listen waits for the word that the process is ready.
func (p *process) listen(told io.Reader) {
	var word [1]byte
	if n, _ := told.Read(word[:]); n == 0 {
		return // it ended, or does not say
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
}

func (p *process) set(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// ProcessStatus is what is known of a process.
type ProcessStatus struct {
	Name     string `json:"name"`
	PID      int    `json:"pid,omitempty"`
	Ready    bool   `json:"ready"`
	Restarts int    `json:"restarts"`
	LastEnd  string `json:"lastEnd,omitempty"`
}

func (p *process) status() ProcessStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ProcessStatus{Name: p.name, PID: p.pid, Restarts: p.restarts, LastEnd: p.lastEnd}
	select {
	case <-p.ready:
		s.Ready = p.pid != 0
	default:
	}
	return s
}

const readyEnv = "SKIFF_READY_FD"

// NotifyReady tells the supervisor, if there is one, that this process is ready.
func NotifyReady() {
	if os.Getenv(readyEnv) != "3" {
		return
	}
	f := os.NewFile(3, "ready")
	f.Write([]byte{1})
	f.Close()
	os.Unsetenv(readyEnv)
}

// mostLog is how large a log may be before the next start begins a new one.
const mostLog = 16 << 20

// openLog opens a log for appending; a large one is put aside first.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of logs: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Size() > mostLog {
		if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("put log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}
