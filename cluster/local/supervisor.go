package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Dirs are the places of a cluster's data.
type Dirs string

func (d Dirs) Keys() string              { return filepath.Join(string(d), "pki") }
func (d Dirs) Store() string             { return filepath.Join(string(d), "etcd") }
func (d Dirs) Registry() string          { return filepath.Join(string(d), "registry") }
func (d Dirs) Run() string               { return filepath.Join(string(d), "run") }
func (d Dirs) Node(name string) string   { return filepath.Join(string(d), "nodes", name) }
func (d Dirs) Log(process string) string { return filepath.Join(string(d), "logs", process+".log") }
func (d Dirs) Socket() string            { return filepath.Join(d.Run(), "supervisor.sock") }

// Volumes is where the volumes of a node's own storage class really are: with the
// cluster's data, so that each node has its own, and they end with the cluster.
func (d Dirs) Volumes(node string) string { return filepath.Join(d.Node(node), "volumes") }

// volumesDir is where nodes find them: the default of package controllers/claims.
const volumesDir = "/var/lib/skiff/volumes"

// Namespaces of a node.
func (d Dirs) Namespaces(node string) Namespaces { return namespacesOf(d.Run(), node) }

// Network of the cluster on the machine.
func (d Dirs) Network(s *Spec) HostNetwork { return hostNetworkOf(string(d), s.Ranges()) }

// Supervisor keeps the processes of one cluster running. There is one per data
// directory, held by a lock.
type Supervisor struct {
	dirs  Dirs
	log   *slog.Logger
	stop  context.CancelFunc
	began time.Time

	mu    sync.Mutex
	spec  *Spec               // guarded by mu
	kids  map[string]*running // by process name; guarded by mu
	group *errgroup.Group
	ctx   context.Context
}

// running is a process and how it is stopped.
type running struct {
	*process
	stop context.CancelFunc
	done chan struct{}
}

const serverProcess = "server"

func agentProcess(node string) string { return "agent-" + node }

// Supervise runs the cluster in dir until ctx ends or somebody calls stop.
func Supervise(ctx context.Context, dir string, log *slog.Logger) error {
	dirs := Dirs(dir)
	if err := os.MkdirAll(dirs.Run(), 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	unlock, err := lock(filepath.Join(dirs.Run(), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	s := &Supervisor{dirs: dirs, log: log, stop: stop, spec: spec, kids: map[string]*running{}, group: group, ctx: ctx, began: time.Now()}
	listener, err := s.listen()
	if err != nil {
		return err
	}
	if err := s.start(); err != nil {
		stop()
		return errors.Join(err, listener.Close(), group.Wait())
	}
	NotifyReady()
	group.Go(func() error { return s.serve(ctx, listener) })
	return group.Wait()
}

// lock makes sure that nobody else supervises the cluster; the kernel lets go of
// it when the process ends, however it ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the cluster is supervised by another process already: %w", err)
	}
	return func() { f.Close() }, nil
}

// start brings everything up that the record says.
func (s *Supervisor) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec.Runtime == Containerd && len(s.spec.Nodes) > 0 {
		if err := s.dirs.Network(s.spec).Create(s.ctx); err != nil {
			return err
		}
	}
	s.launchLocked(serverProcess, []string{"server", "--local", string(s.dirs)}, nil)
	for _, n := range s.spec.Nodes {
		if n.Stopped || s.spec.Runtime == Simulated {
			continue // simulated nodes live in the server
		}
		if err := s.startNodeLocked(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Supervisor) startNodeLocked(n Node) error {
	if s.kids[agentProcess(n.Name)] != nil {
		return nil
	}
	ns := s.dirs.Namespaces(n.Name)
	if err := ns.Create(); err != nil {
		return err
	}
	if s.spec.RuntimeEndpoint == "" { // somebody else's runtime sees the machine's files
		if err := ns.Bind(s.dirs.Volumes(n.Name), volumesDir); err != nil {
			return fmt.Errorf("directory of volumes of node %s: %w", n.Name, err)
		}
	}
	if err := s.dirs.Network(s.spec).Attach(n, ns); err != nil {
		return err
	}
	s.launchLocked(agentProcess(n.Name), []string{"agent", "--local", string(s.dirs), "--node-name", n.Name}, &ns)
	return nil
}

// launchLocked starts a process and keeps it running.
func (s *Supervisor) launchLocked(name string, args []string, in *Namespaces) {
	ctx, stop := context.WithCancel(s.ctx)
	r := &running{newProcess(name, args, in, s.dirs.Log(name), s.log), stop, make(chan struct{})}
	s.kids[name] = r
	s.group.Go(func() error {
		defer close(r.done)
		return r.run(ctx)
	})
}

// halt stops a process and waits for its end.
func (s *Supervisor) halt(name string) {
	s.mu.Lock()
	r := s.kids[name]
	delete(s.kids, name)
	s.mu.Unlock()
	if r != nil {
		r.stop()
		<-r.done
	}
}

// Status is what the supervisor tells.
type Status struct {
	Spec      Spec            `json:"spec"`
	PID       int             `json:"pid"`
	Began     time.Time       `json:"began"`
	Processes []ProcessStatus `json:"processes"`
}

func (s *Supervisor) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{Spec: *s.spec, PID: os.Getpid(), Began: s.began}
	out.Spec.Nodes = append([]Node(nil), s.spec.Nodes...)
	names := []string{serverProcess}
	for _, n := range s.spec.Nodes {
		names = append(names, agentProcess(n.Name))
	}
	for _, name := range names {
		if r := s.kids[name]; r != nil {
			out.Processes = append(out.Processes, r.status())
		}
	}
	return out
}

// listen opens the supervisor's socket; one that a dead supervisor left is replaced.
func (s *Supervisor) listen() (net.Listener, error) {
	if err := os.Remove(s.dirs.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", s.dirs.Socket())
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	return l, os.Chmod(s.dirs.Socket(), 0o600)
}

// serve answers commands until ctx ends.
func (s *Supervisor) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status()) })
	mux.HandleFunc("GET /ready", s.awaitServer)
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status()); s.stop() })
	mux.HandleFunc("POST /nodes", s.addNode)
	mux.HandleFunc("DELETE /nodes/{name}", s.removeNode)
	mux.HandleFunc("POST /nodes/{name}/start", s.startNode)
	mux.HandleFunc("POST /nodes/{name}/stop", s.stopNode)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Shutdown(grace)
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer commands: %w", err)
	}
	return nil
}

// awaitServer answers when the server process has said that it is ready.
func (s *Supervisor) awaitServer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	server := s.kids[serverProcess]
	s.mu.Unlock()
	select {
	case <-server.ready:
		answer(w, s.status())
	case <-r.Context().Done():
	case <-s.ctx.Done():
		http.Error(w, "the cluster is stopping", http.StatusServiceUnavailable)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (s *Supervisor) addNode(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spec.Runtime == Simulated {
		http.Error(w, "simulated nodes are part of the server: stop the cluster, and `skiff up --nodes N` again", http.StatusConflict)
		return
	}
	n, err := s.spec.AddNode(r.URL.Query().Get("name"))
	if err == nil {
		err = s.spec.Save(string(s.dirs))
	}
	if err == nil {
		if err = s.dirs.Network(s.spec).Create(s.ctx); err == nil {
			err = s.startNodeLocked(*n)
		}
		if len(s.spec.Nodes) == 1 {
			s.kids[serverProcess].bounce() // now there is a bridge to listen on
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	answer(w, n)
}

// named finds the node of a request, or answers that there is none.
func (s *Supervisor) named(w http.ResponseWriter, r *http.Request) (Node, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.spec.Find(r.PathValue("name"))
	if n == nil {
		http.Error(w, fmt.Sprintf("cluster %s has no node %s", s.spec.Name, r.PathValue("name")), http.StatusNotFound)
		return Node{}, false
	}
	return *n, true
}

// record changes the record of a node.
func (s *Supervisor) record(name string, change func(*Node)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.spec.Find(name); n != nil {
		change(n)
	}
	return s.spec.Save(string(s.dirs))
}

func (s *Supervisor) startNode(w http.ResponseWriter, r *http.Request) {
	n, ok := s.named(w, r)
	if !ok {
		return
	}
	err := s.record(n.Name, func(n *Node) { n.Stopped = false })
	if err == nil {
		s.mu.Lock()
		err = s.startNodeLocked(n)
		s.mu.Unlock()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, n)
}

// stopNode switches a node off: its agent, its containers, its network.
func (s *Supervisor) stopNode(w http.ResponseWriter, r *http.Request) {
	n, ok := s.named(w, r)
	if !ok {
		return
	}
	err := s.record(n.Name, func(n *Node) { n.Stopped = true })
	s.halt(agentProcess(n.Name))
	if err = errors.Join(err, s.endNode(n)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, n)
}

// removeNode is stopNode, and forgets the node and its data.
func (s *Supervisor) removeNode(w http.ResponseWriter, r *http.Request) {
	n, ok := s.named(w, r)
	if !ok {
		return
	}
	s.halt(agentProcess(n.Name))
	err := s.endNode(n)
	if err == nil {
		err = os.RemoveAll(s.dirs.Node(n.Name))
	}
	if err == nil {
		s.mu.Lock()
		for i := range s.spec.Nodes {
			if s.spec.Nodes[i].Name == n.Name {
				s.spec.Nodes = append(s.spec.Nodes[:i], s.spec.Nodes[i+1:]...)
				break
			}
		}
		err = s.spec.Save(string(s.dirs))
		s.mu.Unlock()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, n)
}

// endNode ends all that runs on a node whose agent has been stopped, and takes
// its namespaces away.
func (s *Supervisor) endNode(n Node) error {
	return EndNode(context.WithoutCancel(s.ctx), s.dirs, s.spec, n)
}
