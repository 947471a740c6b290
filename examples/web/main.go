// Command web is the example application: a web server that says which pod on which node answered, and that loses no request when its
// pod is replaced. `make up` builds its image and applies examples/web.yaml.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// answer is what a request is told.
type answer struct {
	Message  string `json:"message"`
	Pod      string `json:"pod"`
	Node     string `json:"node"`
	Address  string `json:"address"`
	Requests int64  `json:"requests"` // answered by this pod so far
	Uptime   string `json:"uptime"`
}

// server is the application's state.
type server struct {
	message  string
	started  time.Time
	requests atomic.Int64
	leaving  atomic.Bool // the pod was told to end: no new work, please
}

func main() {
	if err := run(); err != nil {
		slog.Error("web ends", "error", err)
		os.Exit(1)
	}
}

// run serves until the pod is told to end, then finishes what it has begun.
func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s := &server{message: or(os.Getenv("MESSAGE"), "Hello"), started: time.Now()}
	h := &http.Server{Addr: ":" + or(os.Getenv("PORT"), "8080"), Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- h.ListenAndServe() }() // ends with Shutdown
	slog.Info("serving", "address", h.Addr, "pod", os.Getenv("POD_NAME"), "node", os.Getenv("NODE_NAME"))

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.leaving.Store(true)
	slog.Info("ending", "requests", s.requests.Load())
	grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.Shutdown(grace); err != nil {
		return fmt.Errorf("finish open requests: %w", err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.hello)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// ready tells the Service whether to send requests here.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.leaving.Load() {
		http.Error(w, "ending", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// hello answers a browser with a page and everybody else with JSON.
func (s *server) hello(w http.ResponseWriter, r *http.Request) {
	a := answer{
		Message: s.message, Pod: or(os.Getenv("POD_NAME"), os.Getenv("HOSTNAME")), Node: os.Getenv("NODE_NAME"), Address: os.Getenv("POD_IP"),
		Requests: s.requests.Add(1), Uptime: time.Since(s.started).Round(time.Second).String(),
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a); err != nil {
			slog.Info("a client went away", "error", err)
		}
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, page, html.EscapeString(a.Message), html.EscapeString(a.Pod), html.EscapeString(a.Node), html.EscapeString(a.Address), a.Requests, a.Uptime)
}

const page = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%[1]s</title>
<style>
body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 4rem auto; padding: 0 1rem; color-scheme: light dark; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { opacity: .65; } dd { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
</style></head>
<body>
<h1>%[1]s</h1>
<p>This page came from one pod of several. Load it again, and another one may answer.</p>
<dl>
<dt>pod</dt><dd>%[2]s</dd>
<dt>node</dt><dd>%[3]s</dd>
<dt>address</dt><dd>%[4]s</dd>
<dt>requests</dt><dd>%[5]d</dd>
<dt>up for</dt><dd>%[6]s</dd>
</dl>
</body>
</html>
`

// or is the first of two that is not empty.
func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
