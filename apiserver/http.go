package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/apiserver/flow"
)

// FrontConfig says how the server listens, who it is, and how much it takes.
type FrontConfig struct {
	// Listeners carry HTTPS: HTTP/2 and HTTP/1.1. Run closes them.
	Listeners []net.Listener
	// Memory are listeners that never leave the process and carry plain HTTP,
	// HTTP/2 without TLS too. Run closes them.
	Memory []net.Listener

	// Certificate is asked at each handshake, so that a renewed certificate
	// needs no restart. Required where there are Listeners.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs is asked at each handshake: clients are told that certificates
	// signed by these are welcome. Whether one holds is for authentication. Nil: none is asked for.
	ClientCAs func() *x509.CertPool

	// Nodes reaches node agents and pods; nil: plain TCP to the addresses that
	// the objects name.
	Nodes NodeDialer
	// NodeCertificate is what the server shows to node agents, and NodeCAs what
	// must have signed theirs. Both are asked at each dial. Nil: nodes that are
	// not in this process cannot be reached.
	NodeCertificate func() (*tls.Certificate, error)
	NodeCAs         func() *x509.CertPool
	// ProxyCertificate is what the server shows to API servers behind APIServices,
	// which believe by it who is said to ask. Asked at each dial. Nil: none.
	ProxyCertificate func() (*tls.Certificate, error)

	// RequestTimeout of requests that are not long-running; 0: a minute.
	RequestTimeout time.Duration
	// MaxReads and MaxWrites are how many requests may be in flight; 0: 400 and 200.
	MaxReads, MaxWrites int
	// MaxLong is how many watches, logs, shells and other connections that stay there
	// may be at a time, without those of the cluster's own parts, of which there may be
	// five times as many; 0: 20,000.
	MaxLong int
	// Grace is how long requests may go on after Run's context ends; 0: 10 seconds.
	Grace time.Duration

	// Paths are served beside the API, once the server is ready. Who may ask for
	// them roles decide, by nonResourceURLs; the verb is the method in lower case.
	Paths map[string]http.HandlerFunc

	// Health are checks beside the built-in ones, for /livez, /readyz and /healthz.
	Health []HealthCheck
}

// front is what Server has for HTTP.
type front struct {
	frontConfig FrontConfig
	limits      *limiter
	flow        *flow.Controller
	audit       *auditor
	metrics     *metrics
	nodes       *nodes
	stopping    context.Context // ends when shutdown begins, and watches with it
	stop        context.CancelFunc
}

func newFront(s *Server, c FrontConfig) (front, error) {
	if len(c.Listeners) > 0 && c.Certificate == nil {
		return front{}, errors.New("apiserver: FrontConfig.Certificate is required to listen")
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = time.Minute
	}
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	f := front{frontConfig: c, limits: newLimiter(c),
		nodes: newNodes(c, s.findNode)}
	f.flow = newFlow(f.limits)
	f.stopping, f.stop = context.WithCancel(context.Background())
	f.metrics = newMetrics(f.limits, f.flow, objectCounts{s})
	f.audit = &auditor{log: s.log, metrics: f.metrics}
	return f, nil
}

// run answers all listeners until ctx ends, then lets requests finish.
func (f *front) run(ctx context.Context, s *Server) error {
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, f.stop)
	defer f.stop()
	for _, l := range f.frontConfig.Listeners {
		group.Go(func() error { return f.listen(ctx, s, l, f.tls()) })
	}
	for _, l := range f.frontConfig.Memory {
		group.Go(func() error { return f.listen(ctx, s, l, nil) })
	}
	group.Go(func() error { return s.followFlow(ctx) })
	group.Go(func() error { // also where others listen, and only call Handler
		<-ctx.Done()
		return nil
	})
	err := group.Wait()
	f.nodes.close()
	return err
}

func (f *front) listen(ctx context.Context, s *Server, l net.Listener, secure *tls.Config) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if secure != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	server := &http.Server{
		Handler: s.Handler(), TLSConfig: secure, Protocols: protocols,
		ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 1 << 20,
		// A client has one connection for all its requests, its watches
		// included: 250 of them, as Kubernetes has it. Uploads are small, but a
		// body of the largest size should not wait for window updates.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 250, MaxReadFrameSize: 1 << 20,
			MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 25 * 256 << 10, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() {
		if secure != nil {
			done <- server.ServeTLS(l, "", "")
		} else {
			done <- server.Serve(l)
		}
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.frontConfig.Grace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		server.Close() // what did not finish in time is cut
	}
	<-done
	return nil
}

// tls asks for certificates anew at each handshake.
func (f *front) tls() *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.frontConfig.Certificate, NextProtos: []string{"h2", "http/1.1"}}
	if f.frontConfig.ClientCAs == nil {
		return base
	}
	base.ClientAuth = tls.RequestClientCert
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = f.frontConfig.ClientCAs()
		c.GetConfigForClient = nil
		return c, nil
	}
	return base
}

// Handler serves the API over HTTP. Callers that bring their own listener must
// see to TLS themselves.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

// serveHTTP is what a request over HTTP has around serve.
func (s *Server) serveHTTP(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Audit-Id", auditID(req))
	header.Set("Cache-Control", "no-cache, private")
	r := s.locate(req)
	defer s.recover(w, r)

	if err := s.identify(req.Context(), r); err != nil {
		s.audit.refused(r, err)
		s.respond(w, r, nil, err)
		return
	}
	ctx, cancel, err := s.deadline(req.Context(), r)
	if err != nil {
		s.respond(w, r, nil, err)
		return
	}
	defer cancel()
	select {
	case <-s.ready:
	default:
		if !early(r) {
			s.respond(w, r, nil, starting())
			return
		}
	}
	defer hurry(ctx, w, r)()
	defer r.leave()
	result, err := s.serve(ctx, r)
	r.answered = true
	addFlowHeaders(header, r.class)
	s.respond(w, r.withContext(ctx), result, err)
}

// hurry makes the request's deadline count for its client, too: who sends a body
// or takes a list too slowly is cut off. What it returns must be called at the
// end. (Errors: a writer without deadlines is one of a test.)
func hurry(ctx context.Context, w http.ResponseWriter, r *Request) func() {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nothing
	}
	connection := http.NewResponseController(w)
	switch {
	case r.Verb == "list":
		_ = connection.SetWriteDeadline(deadline)
		return func() { _ = connection.SetWriteDeadline(time.Time{}) }
	case mutates(r.Verb) && !r.streams():
		_ = connection.SetReadDeadline(deadline)
	}
	return nothing
}

// withContext makes the deadline count for the answer, too.
func (r *Request) withContext(ctx context.Context) *Request {
	if r.HTTP.Context() != ctx {
		r.HTTP = r.HTTP.WithContext(ctx)
	}
	return r
}

// early requests are answered before the server is ready.
func early(r *Request) bool { return r.Resource == nil && alwaysServed(r) }

func starting() error {
	err := apierrors.NewServiceUnavailable("the server is starting, please try again")
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	return err
}

// auditID names the request in logs on both sides; a client may choose it.
func auditID(req *http.Request) string {
	if id := req.Header.Get("Audit-ID"); id != "" && len(id) <= 64 {
		return id
	}
	return uuid.NewString()
}

// deadline gives ctx the time that the request has: what the client asks for by
// ?timeout, at most the configured time; none for what is long-running.
func (s *Server) deadline(ctx context.Context, r *Request) (context.Context, context.CancelFunc, error) {
	if longRunning(r) {
		return ctx, nothing, nil
	}
	limit := s.frontConfig.RequestTimeout
	if v := r.Query.Get("timeout"); v != "" {
		asked, err := time.ParseDuration(v)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
		}
		if asked > 0 && asked < limit {
			limit = asked
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	return ctx, cancel, nil
}

// recover turns a panic into a 500, and keeps the server running.
func (s *Server) recover(w http.ResponseWriter, r *Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	s.log.Error("panic in a request", "verb", r.Verb, "path", r.HTTP.URL.Path, "cause", cause, "stack", string(debug.Stack()))
	if r.answered {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	s.respond(w, r, nil, apierrors.NewInternalError(errors.New("This request caused apiserver to panic. Look in the logs for details.")))
}
