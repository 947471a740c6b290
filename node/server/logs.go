package server

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/cri-client/pkg/logs"

	corev1 "k8s.io/api/core/v1"

	"skiff/node/pod"
)

// logOptions reads the query of a log request.
func logOptions(q url.Values) (o *logs.LogOptions, previous bool, stream string, err error) {
	o = &logs.LogOptions{}
	flag := func(name string) bool {
		v := q.Get(name)
		if v == "" {
			return false
		}
		b, perr := strconv.ParseBool(v)
		if perr != nil {
			err = fmt.Errorf("%s: %q is not true or false", name, v)
		}
		return b
	}
	count := func(name string) *int64 {
		v := q.Get(name)
		if v == "" || v == "all" {
			return nil
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil || n < 0 {
			err = fmt.Errorf("%s: %q is not a number from 0 on", name, v)
		}
		return &n
	}
	o.Follow, o.Timestamp, previous = flag("follow"), flag("timestamps"), flag("previous")
	o.TailLines, o.LimitBytes = count("tailLines"), count("limitBytes")
	if s := count("sinceSeconds"); s != nil {
		o.Since = time.Now().Add(-time.Duration(*s) * time.Second)
	}
	if t := q.Get("sinceTime"); t != "" {
		at, perr := time.Parse(time.RFC3339, t)
		if perr != nil {
			err = fmt.Errorf("sinceTime: %w", perr)
		}
		o.Since = at
	}
	return o, previous, q.Get("stream"), err
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	o, previous, stream, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, `{"message": "Unable to decode query: `+err.Error()+`"}`, http.StatusBadRequest)
		return
	}
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	v, ok := s.c.Pods.View(namespace, name)
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist\n", name), http.StatusNotFound)
		return
	}
	run, problem, code := lifeOf(v, container, previous)
	if problem != "" {
		http.Error(w, problem, code)
		return
	}
	out := flushing{w}
	stdout, stderr := io.Writer(out), io.Writer(out)
	switch stream {
	case "Stdout":
		stderr = nil
	case "Stderr":
		stdout = nil
	}
	w.Header().Set("Content-Type", "text/plain")
	path := run.LogPath
	if path == "" {
		path = filepath.Join(s.c.Layout.PodLogs(namespace, name, string(v.Pod.UID)), pod.ContainerLog(container, run.Attempt))
	}
	if !run.Running {
		o.Follow = false // it says no more
	}
	if err := s.c.Runtime.ReadLog(r.Context(), run.ID, path, o, stdout, stderr); err != nil && r.Context().Err() == nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// lifeOf finds the life of a container whose log is wanted, or says why there is none.
func lifeOf(v pod.View, container string, previous bool) (run *pod.Run, problem string, code int) {
	podID := fmt.Sprintf("%s_%s(%s)", v.Pod.Name, v.Pod.Namespace, v.Pod.UID)
	c, ok := v.Containers[container]
	if !ok {
		return nil, fmt.Sprintf("container %q is not valid for pod %s\n", container, podID), http.StatusBadRequest
	}
	run = c.Run
	if previous {
		// The life before the one that kubectl shows: the last that ended.
		if run != nil && run.Running {
			run = c.Prev
		} else if c.Prev != nil {
			run = c.Prev
		}
		if run == nil || run.Running {
			return nil, fmt.Sprintf("previous terminated container %q in pod %q not found", container, v.Pod.Name), http.StatusBadRequest
		}
		return run, "", 0
	}
	if run == nil {
		reason := "ContainerCreating"
		for _, list := range [][]corev1.ContainerStatus{v.Status.ContainerStatuses, v.Status.InitContainerStatuses, v.Status.EphemeralContainerStatuses} {
			for _, cs := range list {
				if cs.Name == container && cs.State.Waiting != nil {
					reason = cs.State.Waiting.Reason
				}
			}
		}
		if reason == "ErrImagePull" || reason == "ImagePullBackOff" {
			return nil, fmt.Sprintf("container %q in pod %q is waiting to start: trying and failing to pull image", container, v.Pod.Name), http.StatusBadRequest
		}
		return nil, fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, v.Pod.Name, reason), http.StatusBadRequest
	}
	return run, "", 0
}

// flushing sends each line on as it comes.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
	return n, err
}
