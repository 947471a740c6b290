package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// record is what an agent leaves on disk about the containerd that it started, so that the next agent can adopt it.
type record struct {
	PID     int    `json:"pid"`
	Started string `json:"started"` // start time in clock ticks since boot: with PID it names one process for ever
	Build   string `json:"build"`   // of configuration and program: a containerd with another one is replaced
}

// process is a running containerd, ours or adopted.
type process struct {
	record record
	ended  chan struct{} // closed when it has ended
	exit   error         // how; written before ended is closed
}

// err says how the process ended. Only after ended is closed.
func (p *process) err() error {
	if p.exit == nil {
		return errors.New("containerd ended by itself")
	}
	return fmt.Errorf("containerd ended: %w", p.exit)
}

const stopTime = 10 * time.Second

// stop ends containerd, by force if it does not within 10 seconds. Its shims stay.
func (p *process) stop() error {
	if err := signal(p.record, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTime):
	}
	if err := signal(p.record, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill containerd: %w", err)
	}
	<-p.ended
	return nil
}

func (r *Runtime) recordFile() string { return filepath.Join(r.c.State, "skiff-containerd.json") }
func (r *Runtime) configFile() string { return filepath.Join(r.c.State, "containerd.toml") }

// adoptOrStart takes over the containerd that the last agent left, if it runs with the same configuration and program; else it starts
// one.
func (r *Runtime) adoptOrStart(ctx context.Context) (*process, error) {
	major, minor, err := r.c.Programs.version()
	if err != nil {
		return nil, err
	}
	oom, err := maySetOOM()
	if err != nil {
		return nil, err
	}
	config := settings(r.c, machine{major: major, minor: minor, maySetOOM: oom})
	build, err := buildOf(config, r.c.Programs.Containerd)
	if err != nil {
		return nil, err
	}
	if old, ok := r.recorded(); ok {
		p, err := follow(old)
		switch {
		case err != nil:
			return nil, fmt.Errorf("adopt containerd (process %d): %w", old.PID, err)
		case p == nil: // it has ended
		case old.Build == build:
			r.log.Info("containerd still runs: it is adopted", "pid", old.PID)
			return p, nil
		default:
			r.log.Info("containerd runs with another configuration: it is replaced", "pid", old.PID)
			if err := p.stop(); err != nil {
				return nil, err
			}
		}
	}
	if err := r.refuseStranger(ctx); err != nil {
		return nil, err
	}
	return r.start(config, build)
}

// refuseStranger returns an error when a containerd that we did not start has the socket: two on one root wait for each other for ever.
func (r *Runtime) refuseStranger(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", r.c.Socket)
	if err != nil {
		return nil
	}
	conn.Close()
	return fmt.Errorf("start containerd: another process listens on %s; stop it, or use it with --runtime-endpoint", r.c.Socket)
}

func (r *Runtime) start(config, build string) (*process, error) {
	if err := os.WriteFile(r.configFile(), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	log, err := r.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own

	cmd := exec.Command(r.c.Programs.Containerd, "--config", r.configFile())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environment(os.Environ(), filepath.Dir(r.c.Programs.Containerd))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt at the agent's terminal is not for containerd
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	started, err := startTicks(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	p := &process{record: record{PID: cmd.Process.Pid, Started: started, Build: build}, ended: make(chan struct{})}
	go func() {
		p.exit = cmd.Wait()
		close(p.ended)
	}()
	if err := r.remember(p.record); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// environment is what containerd, the shims and runc get of ours: without the settings that fit this program's memory alone.
func environment(ours []string, programs string) []string {
	path := programs
	var env []string
	for _, e := range ours {
		switch name, value, _ := strings.Cut(e, "="); name {
		case "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG":
		case "PATH":
			path += ":" + value
		default:
			env = append(env, e)
		}
	}
	return append(env, "PATH="+path, "GOGC=50") // containerd allocates in bursts, then idles: with 10 pods this is 47 MB instead of 50
}

const maxLog = 10 << 20

// openLog opens containerd's log for appending. It is a file and no pipe, since containerd outlives the agent.
func (r *Runtime) openLog() (*os.File, error) {
	if info, err := os.Stat(r.c.LogFile); err == nil && info.Size() > maxLog {
		if err := os.Rename(r.c.LogFile, r.c.LogFile+".old"); err != nil {
			return nil, fmt.Errorf("rotate containerd's log: %w", err)
		}
	}
	f, err := os.OpenFile(r.c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open containerd's log: %w", err)
	}
	return f, nil
}

func (r *Runtime) remember(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("note containerd's process: %w", err)
	}
	next := r.recordFile() + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fmt.Errorf("note containerd's process: %w", err)
	}
	if err := os.Rename(next, r.recordFile()); err != nil {
		return fmt.Errorf("note containerd's process: %w", err)
	}
	return nil
}

// recorded reads what the last agent noted. A damaged or missing note means that nothing is known.
func (r *Runtime) recorded() (record, bool) {
	var rec record
	b, err := os.ReadFile(r.recordFile())
	if err != nil || json.Unmarshal(b, &rec) != nil || rec.PID <= 0 {
		return record{}, false
	}
	return rec, true
}

// follow watches a process that is not our child; nil when it is gone. The descriptor pins the process, so that its number cannot pass
// to another one between the look and the wait.
func follow(rec record) (*process, error) {
	fd, err := unix.PidfdOpen(rec.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if started, err := startTicks(rec.PID); err != nil || started != rec.Started {
		unix.Close(fd)
		return nil, nil
	}
	p := &process{record: rec, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer unix.Close(fd)
		for { // readable when the process has ended
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err == nil {
				return
			}
			if !errors.Is(err, unix.EINTR) {
				p.exit = err
				return
			}
		}
	}()
	return p, nil
}

// signal sends a signal to exactly that process; one that is gone needs none.
func signal(rec record, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(rec.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if started, err := startTicks(rec.PID); err != nil || started != rec.Started {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// startTicks is when a process started, field 22 of its stat file.
func startTicks(pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	// The second field is the name in parentheses, which may itself hold spaces and parentheses.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("read the start time of process %d: its stat file is short", pid)
	}
	if fields[0] == "Z" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}

// buildOf identifies a configuration together with the program that reads it.
func buildOf(config, program string) (string, error) {
	info, err := os.Stat(program)
	if err != nil {
		return "", fmt.Errorf("look at containerd: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s %d %d\n", config, program, info.Size(), info.ModTime().UnixNano())
	return hex.EncodeToString(h.Sum(nil)), nil
}
