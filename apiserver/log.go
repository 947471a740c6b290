package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"skiff/api"
)

// podLog streams a container's log from the agent of its node.
func (s *Server) podLog(ctx context.Context, r *Request) (*Result, error) {
	options, err := readLogOptions(r.Query)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if errs := validateLogOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, r.Name, errs)
	}
	pod, err := s.pod(ctx, r)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, options.Container)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" { // nothing has run, so there is nothing to show
		return &Result{Stream: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}, nil
	}
	if r.HTTP == nil {
		return nil, notFoundHere()
	}
	logs, err := s.openLog(r, pod, container, options)
	if err != nil {
		return nil, err
	}
	return s.streaming(r, func(w http.ResponseWriter, req *http.Request) { s.copyLog(w, req, logs, options.Follow) }), nil
}

// openLog asks the agent. What it answers with, if not a log, is the answer.
func (s *Server) openLog(r *Request, pod *corev1.Pod, container string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
	target := url.URL{Scheme: "http", Host: pod.Spec.NodeName, Path: fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), RawQuery: logQuery(o).Encode()}
	// The client's own context: the log may go on long after serve has returned.
	req, err := http.NewRequestWithContext(r.HTTP.Context(), http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	resp, err := s.nodes.transport.RoundTrip(req)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("get logs of pod %s/%s: %w", pod.Namespace, pod.Name, err))
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 206 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 50000)) // what came of it says best what was wrong
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return nil, apierrors.NewInternalError(fmt.Errorf("%s", body))
	case http.StatusBadRequest:
		return nil, apierrors.NewBadRequest(string(body))
	}
	return nil, apierrors.NewGenericServerResponse(resp.StatusCode, "", schema.GroupResource{Resource: "pods/log"}, r.Name, string(body), 0, false)
}

func (s *Server) copyLog(w http.ResponseWriter, req *http.Request, logs io.ReadCloser, follow bool) {
	defer logs.Close()
	stop := context.AfterFunc(s.stopping, func() { logs.Close() })
	defer stop()
	if wsstream.IsWebSocketRequest(req) {
		if err := wsstream.NewReader(logs, true, wsstream.NewDefaultReaderProtocols()).Copy(w, req); err != nil {
			s.log.Debug("stream logs over WebSocket", "error", err)
		}
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := logs.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			if follow && flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pod returns the pod that a request names, as it is now.
func (s *Server) pod(ctx context.Context, r *Request) (*corev1.Pod, error) {
	return livePod(ctx, s, r.Namespace, r.Name)
}

func livePod(ctx context.Context, s *Server, namespace, name string) (*corev1.Pod, error) {
	pod, err := live[*corev1.Pod](ctx, s, namespace, name)
	if err == nil && pod == nil {
		err = apierrors.NewNotFound(api.For[*corev1.Pod]().GroupResource(), name)
	}
	return pod, err
}

// containerOf returns the container that is meant: the one named, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	names := containerNames(pod)
	switch {
	case name != "" && slices.Contains(names, name):
		return name, nil
	case name != "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case len(pod.Spec.Containers) == 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
}

// containerNames are all containers of a pod, in the order in which they start.
func containerNames(pod *corev1.Pod) (names []string) {
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	return names
}

// readLogOptions reads PodLogOptions from a query.
func readLogOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{Container: q.Get("container")}
	for name, into := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps, "insecureSkipTLSVerifyBackend": &o.InsecureSkipTLSVerifyBackend} {
		if err := queryBool(q, name, into); err != nil {
			return nil, err
		}
	}
	for name, into := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if v := q[name]; len(v) > 0 {
			if err := runtime.Convert_Slice_string_To_Pointer_int64(&v, into, nil); err != nil {
				return nil, err
			}
		}
	}
	if v := q["sinceTime"]; len(v) > 0 && v[0] != "" {
		o.SinceTime = &metav1.Time{}
		if err := o.SinceTime.UnmarshalQueryParameter(v[0]); err != nil {
			return nil, err
		}
	}
	stream := corev1.LogStreamAll
	if v := q.Get("stream"); v != "" {
		stream = v
	}
	o.Stream = &stream
	return o, nil
}

func queryBool(q url.Values, name string, into *bool) error {
	v, ok := q[name]
	if !ok {
		return nil
	}
	return runtime.Convert_Slice_string_To_bool(&v, into, nil)
}

func validateLogOptions(o *corev1.PodLogOptions) (errs field.ErrorList) {
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	streams := []string{corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout}
	if !slices.Contains(streams, *o.Stream) {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, streams))
	} else if *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
}

// logQuery is what the agent is asked.
func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, v := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if v {
			q.Set(name, "true")
		}
	}
	for name, v := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if v != nil {
			q.Set(name, strconv.FormatInt(*v, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	q.Set("stream", *o.Stream)
	return q
}
