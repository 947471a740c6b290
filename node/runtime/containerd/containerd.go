// Package containerd runs the node's container runtime: a containerd of the node's own, as a process beside the agent, with its own
// root, state and socket. It writes containerd's configuration, starts it or adopts the one that an earlier agent left, puts the
// sandbox image into it, starts it again when it crashes, and ends everything on request.
//
// The agent and the cluster's teardown call it. It never links containerd and never talks about pods: that is package cri's work,
// over the socket. A containerd that somebody else runs (--runtime-endpoint) has no need of this package.
//
//	             start or adopt            CRI answers, sandbox image is in
//	stopped ─────────────────────► starting ─────────────────────────────► running
//	   ▲  ▲                           │                                      │
//	   │  └──── ends before ready ────┘        crash: wait (100 ms … 10 s)   │
//	   └─────────────────────────────────────────────────────────────────────┘
//
// Containers belong to their shims, not to containerd: they go on while containerd, the agent or both are away.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says where one node's containerd lives and what it uses.
type Config struct {
	Root     string   // what survives a reboot: images, containers' file systems. Must be absolute
	State    string   // what does not: sockets, bundles, mounts. Must be absolute; containers run on only while it exists
	Socket   string   // "" means State/containerd.sock; at most 100 bytes, since the kernel takes 107 and containerd adds ".ttrpc"
	Programs Programs // as Find returns them

	CNIBinDirs []string // where the CNI plugins are
	CNIConfDir string   // where the network's configuration is

	// SandboxImage is the reference of the image that every pod's sandbox runs.
	SandboxImage string
	// Bundled serves SandboxImage as a registry does (/v2/…). It is asked once, over loopback, when containerd does not have the image.
	// nil: containerd pulls the image like any other.
	Bundled http.Handler

	RegistryHostsDir string // containerd's config_path: a directory per registry with a hosts.toml. "" means Root/hosts
	SystemdCgroup    bool   // cgroups are made through systemd; false: directly
	Cgroup           string // cgroup for containerd and the shims; "" means the caller's
	LogFile          string // "" means Root/containerd.log; starts anew beyond 10 MiB, the old one kept as .old

	Logger *slog.Logger // nil: slog.Default
}

// Runtime is one node's containerd.
type Runtime struct {
	c     Config
	log   *slog.Logger
	ready chan struct{} // closed when CRI has answered once and the sandbox image is there
	once  sync.Once

	mu  sync.Mutex
	pid int // of the running containerd; 0 when there is none
}

const maxSocket = 100

// New checks the configuration. It starts nothing.
func New(c Config) (*Runtime, error) {
	for name, dir := range map[string]string{"root": c.Root, "state": c.State} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("containerd: its %s directory %q is not an absolute path", name, dir)
		}
	}
	if c.Programs.Containerd == "" || c.Programs.Shim == "" || c.Programs.Runc == "" {
		return nil, errors.New("containerd: its programs are not named (see Find)")
	}
	if c.SandboxImage == "" {
		return nil, errors.New("containerd: no sandbox image is named")
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, "containerd.sock")
	}
	if len(c.Socket) > maxSocket {
		return nil, fmt.Errorf("containerd: the path of its socket, %s, is longer than %d bytes: choose a shorter data directory", c.Socket, maxSocket)
	}
	if c.RegistryHostsDir == "" {
		c.RegistryHostsDir = filepath.Join(c.Root, "hosts")
	}
	if c.LogFile == "" {
		c.LogFile = filepath.Join(c.Root, "containerd.log")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Runtime{c: c, log: c.Logger.With("component", "containerd"), ready: make(chan struct{})}, nil
}

// Endpoint is where CRI is served.
func (r *Runtime) Endpoint() string { return "unix://" + r.c.Socket }

// Ready is closed when pods can be started.
func (r *Runtime) Ready() <-chan struct{} { return r.ready }

// PID is containerd's process, 0 while there is none.
func (r *Runtime) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pid
}

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
	startTime    = 60 * time.Second // how long containerd may take until CRI answers, on a busy machine
	goodRun      = time.Minute      // after a run this long, the next pause is the first again
)

// Run keeps containerd running until ctx ends, then stops it; containers run on. It returns an error when containerd cannot be
// brought up in the first place; once it has been, Run tries for ever.
func (r *Runtime) Run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	pause := firstPause
	for {
		began := time.Now()
		err := r.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !r.wasReady() {
			return fmt.Errorf("start containerd: %w%s", err, r.logTail())
		}
		if time.Since(began) > goodRun {
			pause = firstPause
		}
		r.log.Error("containerd ended: it is started again", "error", err, "after", pause, "log", r.c.LogFile)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

func (r *Runtime) wasReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// prepare makes the directories. What another boot of the machine left in State goes first: State may lie on a disk, but containerd takes
// for granted that sockets, bundles and namespaces are gone after a reboot.
func (r *Runtime) prepare() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("prepare containerd: %w", err)
	}
	note := filepath.Join(r.c.State, "boot")
	if old, err := os.ReadFile(note); err == nil && string(old) != string(boot) {
		r.log.Info("the machine was started anew: containerd's state is cleared")
		if err := os.RemoveAll(r.c.State); err != nil {
			return fmt.Errorf("clear containerd's state: %w", err)
		}
	}
	for _, dir := range []string{r.c.Root, r.c.State, r.c.RegistryHostsDir, filepath.Dir(r.c.Socket), filepath.Dir(r.c.LogFile), r.c.CNIConfDir} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("prepare containerd: %w", err)
		}
	}
	if err := os.WriteFile(note, boot, 0o600); err != nil {
		return fmt.Errorf("prepare containerd: %w", err)
	}
	return nil
}

// runOnce brings containerd up and returns when it has ended, or when ctx has and containerd was stopped.
func (r *Runtime) runOnce(ctx context.Context) error {
	p, err := r.adoptOrStart(ctx)
	if err != nil {
		return err
	}
	r.setPID(p.record.PID)
	defer r.setPID(0)

	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	go func() { // a containerd that ends while starting will never answer
		select {
		case <-p.ended:
			cancel()
		case <-starting.Done():
		}
	}()
	if err := r.bringUp(starting); err != nil {
		select {
		case <-p.ended:
			return p.err()
		default:
		}
		return errors.Join(err, p.stop())
	}
	r.once.Do(func() { close(r.ready) })

	select {
	case <-p.ended:
		return p.err()
	case <-ctx.Done():
		return p.stop()
	}
}

// bringUp waits until CRI answers, then makes sure of the sandbox image.
func (r *Runtime) bringUp(ctx context.Context) error {
	began := time.Now()
	conn, err := r.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	version, err := waitForCRI(ctx, conn)
	if err != nil {
		return fmt.Errorf("wait for containerd's CRI at %s: %w", r.c.Socket, err)
	}
	r.log.Info("containerd answers", "version", version, "pid", r.PID(), "after", time.Since(began).Round(time.Millisecond))
	return r.ensureSandboxImage(ctx, conn)
}

func (r *Runtime) setPID(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pid = pid
}

// logTail is the end of containerd's log, for an error that a person reads.
func (r *Runtime) logTail() string {
	b, err := os.ReadFile(r.c.LogFile)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\nthe end of " + r.c.LogFile + ":\n  " + strings.Join(lines[max(0, len(lines)-8):], "\n  ")
}
