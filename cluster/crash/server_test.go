package crash

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/store"
)

const (
	serverDirEnv     = "SKIFF_CRASH_SERVER"  // makes this binary the server of the cluster in that directory
	serverCompactEnv = "SKIFF_CRASH_COMPACT" // how often it compacts; unset: as it always does
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDirEnv); dir != "" {
		os.Exit(serve(dir))
	}
	os.Exit(m.Run())
}

// serve is the main of a server process.
func serve(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	err := error(nil)
	if every, failed := time.ParseDuration(os.Getenv(serverCompactEnv)); failed == nil {
		err = runCompacting(ctx, dir, log, every)
	} else {
		err = cluster.RunLocalServer(ctx, dir, log, local.NotifyReady)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// runCompacting is what RunLocalServer runs where there are no nodes, with a
// compactor in a hurry.
func runCompacting(ctx context.Context, dir string, log *slog.Logger, every time.Duration) error {
	spec, err := local.Load(dir)
	if err != nil {
		return err
	}
	keys, err := cluster.LoadKeys(local.Dirs(dir).Keys())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", spec.APIPort))
	if err != nil {
		return err
	}
	backing, err := store.OpenEmbedded(ctx, store.EmbeddedConfig{Dir: local.Dirs(dir).Store(), Logger: log})
	if err != nil {
		return err
	}
	defer backing.Close()
	plane, err := cluster.NewControlPlane(cluster.ControlPlaneConfig{
		Store: backing, Keys: keys, Listeners: []net.Listener{listener}, Identity: spec.Name + "_server", Logger: log,
	})
	if err != nil {
		return err
	}
	compactor, err := store.NewCompactor(store.CompactorConfig{Store: backing, Interval: every, Logger: log})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return plane.Run(ctx) })
	group.Go(func() error { return compactor.Run(ctx) })
	group.Go(func() error {
		select {
		case <-plane.Ready():
			local.NotifyReady()
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// server is a server process, one life after the other. Clients ask it for the
// present life.
type server struct {
	dir     string
	compact time.Duration // 0: as every server does

	mu   sync.Mutex
	life *life         // the present one, once it is ready; nil: it is down; guarded by mu
	up   chan struct{} // closed when the life is there; guarded by mu
	over bool          // there will be no further life; guarded by mu
}

// life is one run of the process.
type life struct {
	number int
	ended  context.Context // ends when the process has ended
	end    context.CancelFunc

	mu  sync.Mutex
	cut time.Time // when the power went; zero: it is on; guarded by mu
}

func newLife(number int) *life {
	l := &life{number: number}
	l.ended, l.end = context.WithCancel(context.Background())
	return l
}

// known tells whether what was heard now was heard before the power went: where it
// really fails, nobody is there any more to hear it. (Ext4 can answer an fsync
// that its shutdown overtakes as if all were well.)
func (l *life) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut.IsZero()
}

func (l *life) cutNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = time.Now()
}

// newServer makes the record of a cluster such as `skiff up --nodes 0` makes.
func newServer(t *testing.T, dir string, compact time.Duration) *server {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	spec, err := local.New("crash", local.Containerd, 0)
	if err == nil {
		err = spec.Save(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &server{dir: dir, compact: compact, up: make(chan struct{})}
}

// process is a life as its parent sees it.
type process struct {
	cmd    *exec.Cmd
	stderr strings.Builder
	ready  chan struct{} // closed when it has said so
	ended  chan struct{} // closed when it has ended
}

// start starts a process.
func (s *server) start(t *testing.T) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer tell.Close()
	p := &process{ready: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), serverDirEnv+"="+s.dir, "SKIFF_READY_FD=3")
	if s.compact > 0 {
		p.cmd.Env = append(p.cmd.Env, serverCompactEnv+"="+s.compact.String())
	}
	p.cmd.ExtraFiles = []*os.File{tell}
	p.cmd.Stderr = &p.stderr
	// It does not outlive this process, however that ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal hangs on the thread
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // it does not end well
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended }) // if a test ended early
	go func() {
		defer told.Close()
		var word [1]byte
		if n, _ := told.Read(word[:]); n == 1 {
			close(p.ready)
		}
	}()
	return p
}

// moment is when the end of a life comes.
type moment struct {
	after time.Duration
	born  bool // after the process was started; otherwise, after it was ready
}

// live lets the server live until end is called, which must make it end. ready is
// called before clients may use it. It returns whether it came to that.
func (s *server) live(t *testing.T, l *life, when moment, ready func(), end func(*process, *life)) (usable bool) {
	t.Helper()
	p := s.start(t)
	timer := time.NewTimer(when.after)
	defer timer.Stop()
	if !when.born {
		timer.Stop()
	}
	word := p.ready
	for over := false; !over; {
		select {
		case <-word:
			usable, word = true, nil
			ready()
			s.set(l)
			if !when.born {
				timer.Reset(when.after)
			}
		case <-p.ended:
			t.Fatalf("the server ended by itself: %v\n%s", p.cmd.ProcessState, tail(p.stderr.String()))
		case <-timer.C:
			over = true
		}
	}
	end(p, l)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		<-p.ended
		t.Fatalf("the server did not end:\n%s", tail(p.stderr.String()))
	}
	s.set(nil)
	l.end()
	return usable
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// set makes a life the present one; nil: the server is down.
func (s *server) set(l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life = l; l != nil {
		close(s.up)
	} else if s.isUp() {
		s.up = make(chan struct{})
	}
}

func (s *server) isUp() bool {
	select {
	case <-s.up:
		return true
	default:
		return false
	}
}

// await waits for a server that is up, and returns nil when there will be none.
func (s *server) await() *life {
	for {
		s.mu.Lock()
		l, up, over := s.life, s.up, s.over
		s.mu.Unlock()
		switch {
		case over:
			return nil
		case l != nil:
			return l
		}
		<-up
	}
}

// finish tells all who wait that there is no further life.
func (s *server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over = true; !s.isUp() {
		close(s.up)
	}
}

// again makes way for another bout.
func (s *server) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life, s.over, s.up = nil, false, make(chan struct{})
}

// client is an HTTPS client with a connection of its own, which never asks twice.
type client struct {
	*http.Client
	base string
}

// errDown says that the request was not sent, since nobody listens.
var errDown = errors.New("the server is down")

func (s *server) client(t *testing.T) *client {
	t.Helper()
	access, err := cluster.AdminAccess(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(access.Certificate, access.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(access.CA)
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, ServerName: "localhost"},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{&http.Client{Transport: transport}, access.Server}
}

// do sends a request. errDown: it was not sent. Another error: nobody knows what
// became of it.
func (c *client) do(ctx context.Context, method, path, contentType, body string) (code int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return 0, nil, errDown
	}
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}
