package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/apiserver/admission/dynamic"
)

// newDynamic sets up the steps that ask webhooks and policies about writes.
func newDynamic(s *Server, builtIn admission.Chain) (*dynamic.Admission, error) {
	return dynamic.New(dynamic.Config{
		Reader:     reader{s},
		Client:     s.Client(self, self.Name),
		Loopback:   &rest.Config{Host: "http://loopback", Transport: loopback{s}, QPS: -1},
		Authorizer: s.authz,
		Services:   anyService{},
		Wrap: func(of webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver {
			return toServices{of, s}
		},
		Kinds: s,
		Again: builtIn.Mutate,
	})
}

// Rows implements dynamic.Kinds.
func (s *Server) Rows() ([]*api.Resource, <-chan struct{}) {
	set := s.customs.served()
	rows := slices.Clone(s.customs.builtIn)
	for _, d := range set.definitions {
		rows = append(rows, d.Rows...)
	}
	return rows, set.changed
}

// mayConnect asks webhooks and policies whether a connection may be opened to a
// pod, service or node; options are what the client said about it.
func (s *Server) mayConnect(ctx context.Context, r *Request, options runtime.Object) error {
	w := s.judged(r, "connect", nil, nil)
	w.Object = options
	if err := s.asking.Mutate(ctx, w); err != nil {
		return err
	}
	return s.asking.Validate(ctx, w)
}

// loopback is how libraries that speak HTTP reach this server without a socket, as
// the server itself.
type loopback struct{ s *Server }

// ownRequest marks the context of a request that came through loopback. Nothing
// that comes over a network can have it.
type ownRequest struct{}

// RoundTrip implements http.RoundTripper.
func (l loopback) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(context.WithValue(req.Context(), ownRequest{}, true))
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, write := io.Pipe()
	w := &pipedAnswer{header: http.Header{}, begun: make(chan struct{}), body: write}
	go func() {
		defer func() {
			err := io.EOF
			if cause := recover(); cause != nil {
				err = fmt.Errorf("the answer was cut off: %v", cause)
			}
			w.WriteHeader(http.StatusOK) // if it wrote nothing
			write.CloseWithError(err)
		}()
		l.s.serveHTTP(w, in)
	}()
	select {
	case <-w.begun:
	case <-req.Context().Done():
		body.CloseWithError(req.Context().Err())
		return nil, req.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: body, ContentLength: -1, Request: req,
	}, nil
}

// pipedAnswer writes an answer to a reader in this process.
type pipedAnswer struct {
	header, sent http.Header
	code         int
	once         sync.Once
	begun        chan struct{} // closed when code and sent are there
	body         *io.PipeWriter
}

// Header implements http.ResponseWriter.
func (w *pipedAnswer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *pipedAnswer) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}

// Write implements http.ResponseWriter.
func (w *pipedAnswer) Write(data []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(data)
}

// Flush implements http.Flusher: nothing is held back, but the header.
func (w *pipedAnswer) Flush() { w.WriteHeader(http.StatusOK) }
