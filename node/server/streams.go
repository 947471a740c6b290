package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/pod"
	"skiff/node/runtime"
)

// running finds a running container, or answers why there is none.
func (s *Server) running(w http.ResponseWriter, r *http.Request) (*pod.Run, bool) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	v, ok := s.c.Pods.View(namespace, name)
	if !ok || (r.PathValue("uid") != "" && r.PathValue("uid") != string(v.Pod.UID)) {
		http.Error(w, fmt.Sprintf("pod does not exist: %s/%s", namespace, name), http.StatusNotFound)
		return nil, false
	}
	c, ok := v.Containers[container]
	if !ok || c.Run == nil || !c.Run.Running {
		http.Error(w, fmt.Sprintf("container not found (%q)", container), http.StatusNotFound)
		return nil, false
	}
	return c.Run, true
}

// streams reads which streams a client wants. Old clients say input, output and
// error; the API server says stdin, stdout and stderr.
func streams(q url.Values) (in, out, err, tty bool) {
	is := func(names ...string) bool {
		for _, n := range names {
			if v := q.Get(n); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	tty = is("tty")
	return is("input", "stdin"), is("output", "stdout"), is("error", "stderr") && !tty, tty
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	run, ok := s.running(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	in, out, errs, tty := streams(q)
	if !in && !out && !errs {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	h, err := s.c.Runtime.Exec(r.Context(), &cri.ExecRequest{ContainerId: run.ID, Cmd: q["command"], Stdin: in, Stdout: out, Stderr: errs, Tty: tty})
	s.stream(w, r, h, err)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	run, ok := s.running(w, r)
	if !ok {
		return
	}
	in, out, errs, tty := streams(r.URL.Query())
	if !in && !out && !errs {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	h, err := s.c.Runtime.Attach(r.Context(), &cri.AttachRequest{ContainerId: run.ID, Stdin: in, Stdout: out, Stderr: errs, Tty: tty})
	s.stream(w, r, h, err)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	v, ok := s.c.Pods.View(namespace, name)
	if !ok || (r.PathValue("uid") != "" && r.PathValue("uid") != string(v.Pod.UID)) {
		http.Error(w, fmt.Sprintf("pod does not exist: %s/%s", namespace, name), http.StatusNotFound)
		return
	}
	if !v.Sandbox.Ready {
		http.Error(w, fmt.Sprintf("pod %s/%s has no sandbox that runs", namespace, name), http.StatusNotFound)
		return
	}
	req := &cri.PortForwardRequest{PodSandboxId: v.Sandbox.ID}
	for _, list := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		for _, p := range strings.Split(list, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				http.Error(w, fmt.Sprintf("invalid port %q", p), http.StatusBadRequest)
				return
			}
			req.Port = append(req.Port, int32(n))
		}
	}
	h, err := s.c.Runtime.PortForward(r.Context(), req)
	s.stream(w, r, h, err)
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, h http.Handler, err error) {
	switch {
	case runtime.IsNotFound(err):
		http.Error(w, runtime.Message(err), http.StatusNotFound)
	case err != nil:
		http.Error(w, runtime.Message(err), http.StatusInternalServerError)
	default:
		h.ServeHTTP(w, r)
	}
}

func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	run, ok := s.running(w, r)
	if !ok {
		return
	}
	command := strings.Split(r.URL.Query().Get("cmd"), " ")
	res, err := s.c.Runtime.ExecSync(r.Context(), run.ID, command, 0)
	if err != nil {
		http.Error(w, runtime.Message(err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	if _, err := w.Write(append(res.Stdout, res.Stderr...)); err != nil {
		s.c.Logger.Debug("answer is cut off", "err", err)
	}
}
