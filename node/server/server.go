// Package server is the interface that the API server speaks to on each node:
// logs, exec, attach, port-forward, the list of pods, usage and metrics, at the
// paths that every Kubernetes API server knows. It owns the HTTPS listener, who
// may come in, and the translation to the runtime. Package node makes it; it
// changes nothing on the node.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff/node/pod"
	"skiff/node/runtime"
)

// Authorizer decides whether a client may do the verb to a part of the node:
// "proxy", "stats", "log", "metrics", "pods", "healthz".
type Authorizer func(ctx context.Context, user User, verb, part string) (bool, error)

// User is who a client certificate names.
type User struct {
	Name   string
	Groups []string
}

// Pods are the node's pods.
type Pods interface {
	View(namespace, name string) (pod.View, bool)
	Views() []pod.View
}

// Stats tell what is used.
type Stats interface {
	Summary(ctx context.Context) (*statsv1.Summary, error)
}

// Config is what a Server works with. Certificate and ClientCAs are needed by
// Serve only.
type Config struct {
	Runtime     runtime.Runtime
	Pods        Pods
	Layout      pod.Layout
	Stats       Stats
	Certificate func() (*tls.Certificate, error)
	ClientCAs   func() *x509.CertPool
	Authorize   Authorizer // nil: ByName
	Logger      *slog.Logger
}

// Server answers for the node.
type Server struct {
	c   Config
	mux *http.ServeMux
}

// New makes a Server.
func New(c Config) *Server {
	if c.Authorize == nil {
		c.Authorize = ByName
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	s := &Server{c: c, mux: http.NewServeMux()}
	s.mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	s.mux.HandleFunc("GET /pods", s.pods)
	s.mux.HandleFunc("GET /stats/summary", s.summary)
	s.mux.Handle("GET /metrics", metricsOf(func() []prometheus.Collector {
		return []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), podGauge{c.Pods}}
	}))
	s.mux.Handle("GET /metrics/resource", metricsOf(func() []prometheus.Collector { return []prometheus.Collector{usage{c.Stats}} }))
	s.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for path, h := range map[string]http.HandlerFunc{
		"/exec/{namespace}/{pod}/{container}":         s.exec,
		"/exec/{namespace}/{pod}/{uid}/{container}":   s.exec,
		"/attach/{namespace}/{pod}/{container}":       s.attach,
		"/attach/{namespace}/{pod}/{uid}/{container}": s.attach,
		"/portForward/{namespace}/{pod}":              s.portForward,
		"/portForward/{namespace}/{pod}/{uid}":        s.portForward,
	} {
		s.mux.HandleFunc("GET "+path, h)
		s.mux.HandleFunc("POST "+path, h)
	}
	s.mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	s.mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	return s
}

// Handler serves without asking who calls.
func (s *Server) Handler() http.Handler { return s.mux }

// part is what of the node a request is about, and the verb.
func part(r *http.Request) (verb, name string) {
	switch r.Method {
	case http.MethodPost:
		verb = "create"
	default:
		verb = "get"
	}
	switch first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); first {
	case "stats":
		return verb, "stats"
	case "metrics":
		return verb, "metrics"
	case "healthz":
		return verb, "healthz"
	case "pods":
		return verb, "pods"
	}
	return verb, "proxy"
}

// ByName is the Authorizer of a cluster whose API server carries a well-known
// name: it and administrators may do all.
func ByName(_ context.Context, u User, _, _ string) (bool, error) {
	switch u.Name {
	case "system:kube-apiserver", "kube-apiserver", "kube-apiserver-kubelet-client":
		return true, nil
	}
	for _, g := range u.Groups {
		if g == "system:masters" || g == "kubeadm:cluster-admins" {
			return true, nil
		}
	}
	return false, nil
}

// guarded lets those through whom a client certificate names and Authorize allows.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.VerifiedChains[0][0].Subject
		user := User{Name: subject.CommonName, Groups: subject.Organization}
		verb, name := part(r)
		ok, err := s.c.Authorize(r.Context(), user, verb, name)
		if err != nil {
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s): %v", user.Name, verb, name, err), http.StatusInternalServerError)
			return
		}
		if !ok {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])", user.Name, verb, name), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.c.Certificate == nil || s.c.ClientCAs == nil {
		return errors.New("node server: no certificate, or no authority for clients")
	}
	hs := &http.Server{
		Handler: s.guarded(s.mux), ReadHeaderTimeout: 30 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.c.Logger.Handler(), slog.LevelDebug),
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.tlsConfig},
		// Upgraded connections need HTTP/1.1.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		if err := hs.Close(); err != nil {
			s.c.Logger.Debug("close the node's server", "err", err)
		}
	}()
	err := hs.ServeTLS(l, "", "")
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("node server: %w", err)
}

// tlsConfig is made anew for each connection: certificate and authorities may change.
func (s *Server) tlsConfig(*tls.ClientHelloInfo) (*tls.Config, error) {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      s.c.ClientCAs(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.c.Certificate() },
		NextProtos:     []string{"http/1.1"},
	}, nil
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, v := range s.c.Pods.Views() {
		p := *v.Pod
		p.Status = v.Status
		list.Items = append(list.Items, p)
	}
	s.answer(w, list)
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.c.Stats.Summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.answer(w, sum)
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.c.Logger.Debug("answer is cut off", "err", err)
	}
}
