package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Commands speaks to a running supervisor.
type Commands struct{ dirs Dirs }

// CommandsOf the cluster in dir.
func CommandsOf(dir string) Commands { return Commands{Dirs(dir)} }

// ErrStopped says that no supervisor runs.
var ErrStopped = errors.New("the cluster is stopped; `skiff up` starts it")

// Status asks the supervisor.
func (c Commands) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, "GET", "/status", &s)
}

// Ready waits until the server process is ready.
func (c Commands) Ready(ctx context.Context) error { return c.call(ctx, "GET", "/ready", nil) }

// AddNode adds a node; an empty name is chosen.
func (c Commands) AddNode(ctx context.Context, name string) (n Node, err error) {
	return n, c.call(ctx, "POST", "/nodes?name="+name, &n)
}

// RemoveNode ends a node and forgets it.
func (c Commands) RemoveNode(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/nodes/"+name, nil)
}

// StartNode switches a node on, StopNode off.
func (c Commands) StartNode(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/nodes/"+name+"/start", nil)
}

// StopNode switches a node off, with all its containers.
func (c Commands) StopNode(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/nodes/"+name+"/stop", nil)
}

func (c Commands) call(ctx context.Context, method, path string, into any) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.dirs.Socket())
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return ErrStopped
	}
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// Launch starts the supervisor of the cluster in dir in the background, unless
// one runs, and returns when it answers.
func Launch(ctx context.Context, dir string) (Status, error) {
	c := CommandsOf(dir)
	if s, err := c.Status(ctx); err == nil {
		return s, nil
	}
	program, err := os.Executable()
	if err != nil {
		return Status{}, fmt.Errorf("find this program: %w", err)
	}
	out, err := openLog(c.dirs.Log("supervisor"))
	if err != nil {
		return Status{}, err
	}
	defer out.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return Status{}, fmt.Errorf("make pipe: %w", err)
	}
	defer told.Close()
	cmd := exec.Command(program, "supervise", "--data-dir", dir)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{tell}
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's end is not the cluster's
	if err := cmd.Start(); err != nil {
		tell.Close()
		return Status{}, fmt.Errorf("start supervisor: %w", err)
	}
	tell.Close()
	go cmd.Wait() // while this process lives; then init does
	stop := context.AfterFunc(ctx, func() { told.SetReadDeadline(time.Now()) })
	defer stop()
	var word [1]byte
	if n, _ := told.Read(word[:]); n == 0 {
		return Status{}, fmt.Errorf("start supervisor: %s", lastLine(c.dirs.Log("supervisor")))
	}
	return c.Status(ctx)
}

// lastLine of a log, which says why a process ended.
func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}

// Stop stops the cluster in dir: all processes and containers end, all data stays.
func Stop(ctx context.Context, dir string) error {
	dirs := Dirs(dir)
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	if err := stopSupervisor(ctx, dirs); err != nil {
		return err
	}
	if spec.Runtime != Containerd {
		return nil
	}
	var errs []error
	for _, n := range spec.Nodes {
		errs = append(errs, EndNode(ctx, dirs, spec, n))
	}
	if len(spec.Nodes) > 0 {
		errs = append(errs, dirs.Network(spec).Remove(ctx))
	}
	return errors.Join(append(errs, RemoveCgroups(spec.Cgroup("")))...)
}

// stopSupervisor asks the supervisor to end, and waits until it has let go of
// the lock: its children have ended by then.
func stopSupervisor(ctx context.Context, dirs Dirs) error {
	err := CommandsOf(string(dirs)).call(ctx, "POST", "/stop", nil)
	if err != nil && !errors.Is(err, ErrStopped) {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dirs.Run(), "lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for supervisor: %w", err)
	}
	defer f.Close()
	held := make(chan error, 1)
	go func() { held <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
	select {
	case err := <-held:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the supervisor does not end: %w", ctx.Err())
	}
}

// Down ends the cluster in dir and removes all of it, the kubeconfig's entries too.
func Down(ctx context.Context, dir string) error {
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	if err := Stop(ctx, dir); err != nil {
		return err
	}
	if err := RemoveKubeconfig(spec.Name, spec.Kubeconfig); err != nil {
		return err
	}
	// The record last: a removal that was cut short can be taken up again.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove data: %w", err)
	}
	for _, e := range entries {
		if e.Name() == specFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove data: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove data: %w", err)
	}
	return nil
}

// Cgroup is the control group of a node's pods and runtime; of an empty name,
// that of the whole cluster.
func (s *Spec) Cgroup(node string) string { return filepath.Join("/skiff", s.Name, node) }

// EndNode ends all that runs on a node whose agent has been stopped, and takes
// its namespaces and its place on the bridge away.
func EndNode(ctx context.Context, dirs Dirs, spec *Spec, n Node) error {
	ns := dirs.Namespaces(n.Name)
	if ns.Exist() {
		if err := endInside(ctx, dirs, n, ns); err != nil {
			return err
		}
	}
	return errors.Join(dirs.Network(spec).Detach(n), ns.Remove(), RemoveCgroups(spec.Cgroup(n.Name)))
}

// endInside runs the agent once more, to end the runtime from within the node.
func endInside(ctx context.Context, dirs Dirs, n Node, ns Namespaces) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "agent", "--local", string(dirs), "--node-name", n.Name, "--end")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.RunIn(cmd, func() {}); err != nil {
		return fmt.Errorf("end node %s: %w: %s", n.Name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// RemoveCgroups removes an empty group and all below it, in every hierarchy, and
// the group of all clusters where this was the last one.
func RemoveCgroups(group string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return fmt.Errorf("find control groups: %w", err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup/cgroup.procs") {
		top := filepath.Join(filepath.Dir(root), group)
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list control groups: %w", err)
		}
		for i := len(dirs) - 1; i >= 0; i-- { // the innermost first
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove control group: %w", err)
			}
		}
		for up := filepath.Dir(top); len(dirs) > 0 && up != filepath.Dir(root); up = filepath.Dir(up) {
			if os.Remove(up) != nil {
				break // other clusters or nodes are in it
			}
		}
	}
	return nil
}
