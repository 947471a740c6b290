package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

// auditor notes every request: a line at debug level, and the counters. A
// policy that keeps more than that would stand here.
type auditor struct {
	log     *slog.Logger
	metrics *metrics
}

// begin notes that a request has arrived; what it returns must be called with
// the answer.
func (a *auditor) begin(r *Request) func(*Result, error) {
	start := time.Now()
	return func(result *Result, err error) { a.end(r, codeOf(result, err), time.Since(start), err) }
}

// refused notes a request that did not get as far as serve.
func (a *auditor) refused(r *Request, err error) { a.end(r, codeOf(nil, err), 0, err) }

func (a *auditor) end(r *Request, code int, took time.Duration, err error) {
	a.metrics.observe(r, code, took)
	if !a.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	line := []any{"verb", r.Verb, "path", r.describe(), "code", code, "took", took, "agent", r.UserAgent}
	if r.User != nil {
		line = append(line, "user", r.User.GetName())
	}
	if err != nil {
		line = append(line, "error", err)
	}
	a.log.Debug("request", line...)
}

func codeOf(result *Result, err error) int {
	switch {
	case err != nil && errors.Is(err, context.Canceled):
		return 499 // the client went away
	case err != nil:
		return int(statusOf(err).Code)
	case result == nil:
		return http.StatusInternalServerError // neither answer nor error: a panic is on its way out
	case result.Code != 0:
		return result.Code
	}
	return http.StatusOK
}

// describe names what is asked for, as a path.
func (r *Request) describe() string {
	if r.Resource == nil {
		return r.Path
	}
	d := r.Resource.String()
	if r.Namespace != "" {
		d += "/" + r.Namespace
	}
	if r.Name != "" {
		d += "/" + r.Name
	}
	if r.Subresource != "" {
		d += "/" + r.Subresource
	}
	return d
}
