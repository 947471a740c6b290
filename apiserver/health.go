package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// HealthCheck is one line of /livez?verbose.
type HealthCheck struct {
	Name string
	// Check returns why it is not well. It has ten seconds.
	Check func(context.Context) error
	// Live and Ready say whether /livez and /readyz ask it; /healthz asks all.
	Live, Ready bool
}

// healthChecks are all checks, in the order in which they are shown.
func (s *Server) healthChecks() []HealthCheck {
	well := func(context.Context) error { return nil }
	checks := []HealthCheck{
		{Name: "ping", Check: well, Live: true, Ready: true},
		{Name: "log", Check: well, Live: true, Ready: true},
		{Name: "etcd", Check: s.storeAnswers, Live: true, Ready: true},
		{Name: "etcd-readiness", Check: s.storeAnswers, Ready: true},
		{Name: "informer-sync", Check: s.isReady, Ready: true},
		{Name: "poststarthook/rbac/bootstrap-roles", Check: s.isReady, Live: true, Ready: true},
	}
	checks = append(checks, s.frontConfig.Health...)
	return append(checks, HealthCheck{Name: "shutdown", Ready: true, Check: func(context.Context) error {
		if s.stopping.Err() != nil {
			return fmt.Errorf("process is shutting down")
		}
		return nil
	}})
}

func (s *Server) storeAnswers(ctx context.Context) error {
	_, err := s.store.Revision(ctx)
	return err
}

func (s *Server) isReady(context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
		return fmt.Errorf("not finished")
	}
}

// health answers /livez, /readyz, /healthz and single checks below them.
func (s *Server) health(w http.ResponseWriter, req *http.Request) {
	endpoint, single, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	checks := slices.DeleteFunc(s.healthChecks(), func(c HealthCheck) bool {
		return endpoint == "livez" && !c.Live || endpoint == "readyz" && !c.Ready
	})
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second)
	defer cancel()
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	if single != "" {
		s.oneCheck(ctx, w, checks, single)
		return
	}
	report, failed := s.report(ctx, endpoint, checks, req.URL.Query()["exclude"])
	switch _, verbose := req.URL.Query()["verbose"]; {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, report)
	case verbose:
		fmt.Fprint(w, report)
	default:
		fmt.Fprint(w, "ok")
	}
}

func (s *Server) oneCheck(ctx context.Context, w http.ResponseWriter, checks []HealthCheck, name string) {
	i := slices.IndexFunc(checks, func(c HealthCheck) bool { return c.Name == name })
	if i < 0 {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if err := checks[i].Check(ctx); err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "ok")
}

// report asks all checks. Reasons go to the log only: anyone may ask.
func (s *Server) report(ctx context.Context, endpoint string, checks []HealthCheck, exclude []string) (string, bool) {
	var lines strings.Builder
	excluded := map[string]bool{}
	for _, list := range exclude {
		for name := range strings.SplitSeq(list, ",") {
			excluded[name] = true
		}
	}
	failed := false
	for _, c := range checks {
		if excluded[c.Name] {
			delete(excluded, c.Name)
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Check(ctx); err != nil {
			failed = true
			s.log.Warn("health check failed", "endpoint", endpoint, "check", c.Name, "error", err)
			fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", c.Name)
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
	}
	if len(excluded) > 0 {
		names := make([]string, 0, len(excluded))
		for name := range excluded {
			names = append(names, fmt.Sprintf("%q", name))
		}
		slices.Sort(names)
		fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(names, ","))
	}
	outcome := "passed"
	if failed {
		outcome = "failed"
	}
	fmt.Fprintf(&lines, "%s check %s\n", endpoint, outcome)
	return lines.String(), failed
}
