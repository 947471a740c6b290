//go:build linux

package proxy

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// healthChecks are the ports on which load balancers ask whether this node has
// endpoints of a service with externalTrafficPolicy Local.
type healthChecks struct {
	log     *slog.Logger
	running map[types.NamespacedName]*healthServer // owned by Run's goroutine
}

// healthCheck is what a service asks for; port 0 is none.
type healthCheck struct {
	port  int32
	local int // endpoints on this node
}

type healthServer struct {
	name   types.NamespacedName
	port   int32
	server *http.Server
	done   chan struct{}

	mu    sync.Mutex
	local int // guarded by mu
}

func newHealthChecks(log *slog.Logger) *healthChecks {
	return &healthChecks{log: log, running: map[types.NamespacedName]*healthServer{}}
}

// set starts, changes or stops the check of a service.
func (h *healthChecks) set(name types.NamespacedName, c healthCheck) {
	if s := h.running[name]; s != nil {
		if s.port == c.port {
			s.mu.Lock()
			s.local = c.local
			s.mu.Unlock()
			return
		}
		s.stop()
		delete(h.running, name)
	}
	if c.port == 0 {
		return
	}
	s, err := startHealthServer(name, c)
	if err != nil {
		h.log.Error("the health check of a service is not served", "service", name, "error", err)
		return
	}
	h.running[name] = s
}

func (h *healthChecks) stop() {
	for _, s := range h.running {
		s.stop()
	}
	clear(h.running)
}

func startHealthServer(name types.NamespacedName, c healthCheck) (*healthServer, error) {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(int(c.port)))
	if err != nil {
		return nil, fmt.Errorf("listen on health check port %d: %w", c.port, err)
	}
	s := &healthServer{name: name, port: c.port, local: c.local, done: make(chan struct{})}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(l) // always ends with an error, and only by stop
	}()
	return s, nil
}

func (s *healthServer) stop() {
	_ = s.server.Close()
	<-s.done
}

// ServeHTTP answers in the form that load balancers know from kube-proxy.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	local := s.local
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
	if local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "{\"service\":{\"namespace\":%q,\"name\":%q},\"localEndpoints\":%d,\"serviceProxyHealthy\":true}", s.name.Namespace, s.name.Name, local)
}
