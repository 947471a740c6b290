package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// respond writes the answer of serve to an HTTP client.
func (s *Server) respond(w http.ResponseWriter, r *Request, result *Result, err error) {
	addWarnings(w.Header(), r.warnings)
	if err != nil {
		s.respondError(w, r, err)
		return
	}
	switch {
	case result.Stream != nil:
		result.Stream.ServeHTTP(w, r.HTTP)
	case result.Watch != nil:
		s.respondWatch(w, r, result.Watch)
	default:
		s.respondBody(w, r, result)
	}
}

func (s *Server) respondError(w http.ResponseWriter, r *Request, err error) {
	status := statusOf(err)
	header := w.Header()
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	header.Set("X-Content-Type-Options", "nosniff")
	out := Output{MediaType: r.Out.MediaType, Pretty: r.Out.Pretty}
	if out.MediaType == "" { // it failed before, or by, negotiation
		out, _ = acceptable(r.HTTP.Header.Get("Accept"), false, true)
		out.As = ""
		if out.MediaType == "" {
			out = Output{MediaType: runtime.ContentTypeJSON, Pretty: true}
		}
		out.Pretty = out.Pretty || wantsPretty(r.Query, r.HTTP.UserAgent())
	}
	s.respondBody(w, &Request{HTTP: r.HTTP, Out: out}, &Result{Code: int(status.Code), Object: status})
}

// respondBody writes one document: an object, a list, a table.
func (s *Server) respondBody(w http.ResponseWriter, r *Request, result *Result) {
	result, err := converted(result, r.Resource, r.Out)
	if err != nil {
		s.respondError(w, &Request{HTTP: r.HTTP, Out: Output{MediaType: r.Out.MediaType}}, err)
		return
	}
	code := result.Code
	if code == 0 {
		code = http.StatusOK
	}
	body := &bodyWriter{to: w, code: code, media: r.Out.MediaType, gzip: acceptsGzip(r.HTTP)}
	switch {
	case result.Entry != nil:
		err = encodeEntry(body, result.Entry, r.Out)
	case result.List != nil:
		err = result.List.Encode(body, r.Out)
	default:
		err = encodeObject(body, result.Object, r.Out)
	}
	if err == nil {
		err = body.finish()
		s.metrics.answered(r, body.written)
	}
	if err != nil && !body.begun && r.HTTP.Context().Err() == nil {
		body.drop()
		s.log.Error("encode an answer", "path", r.HTTP.URL.Path, "error", err)
		if result.Object == nil || result.Code < 400 {
			s.respondError(w, &Request{HTTP: r.HTTP, Out: Output{MediaType: runtime.ContentTypeJSON}}, err)
		}
	} else if err != nil {
		s.log.Debug("write an answer", "path", r.HTTP.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // half a document must not look like a whole one
	}
}

// gzipFrom is the size from which an answer is compressed where the client
// takes it: below, it costs more time than it saves.
const gzipFrom = 128 << 10

func acceptsGzip(req *http.Request) bool {
	for _, line := range req.Header["Accept-Encoding"] {
		for part := range strings.SplitSeq(line, ",") {
			name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
			if name == "gzip" && strings.TrimSpace(q) != "q=0" {
				return true
			}
		}
	}
	return false
}

// bodyWriter writes a body whose size is not known. Where gzip is taken, it
// holds back the beginning until it knows whether compressing is worth it.
type bodyWriter struct {
	to    http.ResponseWriter
	code  int
	media string
	gzip  bool

	begun   bool // the header is out
	written int  // bytes that the body has, before compression
	held    *bytes.Buffer
	zip     *gzip.Writer
}

func (b *bodyWriter) Write(p []byte) (int, error) {
	b.written += len(p)
	switch {
	case b.zip != nil:
		return b.zip.Write(p)
	case b.begun:
		return b.to.Write(p)
	case !b.gzip:
		b.begin("")
		return b.to.Write(p)
	}
	if b.held == nil {
		b.held = buffers.Get().(*bytes.Buffer)
	}
	if b.held.Len()+len(p) <= gzipFrom {
		return b.held.Write(p)
	}
	b.begin("gzip")
	b.zip = zippers.Get().(*gzip.Writer)
	b.zip.Reset(b.to)
	if _, err := b.zip.Write(b.held.Bytes()); err != nil {
		return 0, err
	}
	b.drop()
	return b.zip.Write(p)
}

func (b *bodyWriter) begin(encoding string) {
	header := b.to.Header()
	header.Set("Content-Type", b.media)
	if encoding != "" {
		header.Set("Content-Encoding", encoding)
		header.Add("Vary", "Accept-Encoding")
	}
	b.to.WriteHeader(b.code)
	b.begun = true
}

// finish writes what was held back and gives buffers back.
func (b *bodyWriter) finish() (err error) {
	switch {
	case b.zip != nil:
		err = b.zip.Close()
		b.zip.Reset(io.Discard)
		zippers.Put(b.zip)
		b.zip = nil
	case b.held != nil:
		b.to.Header().Set("Content-Length", strconv.Itoa(b.held.Len()))
		b.begin("")
		_, err = b.to.Write(b.held.Bytes())
		b.drop()
	case !b.begun:
		b.begin("")
	}
	return err
}

func (b *bodyWriter) drop() {
	if b.held != nil {
		b.held.Reset()
		buffers.Put(b.held)
		b.held = nil
	}
}

var (
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	zippers = sync.Pool{New: func() any {
		z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return z
	}}
)

// Warnings are cut so that no proxy refuses the headers.
const (
	warningsTotal = 4 << 10
	warningEach   = 256
)

func addWarnings(header http.Header, texts []string) {
	total := 0
	for _, text := range texts {
		total += len(text)
	}
	room := warningsTotal
	for _, text := range texts {
		if total > warningsTotal && len(text) > warningEach {
			text = text[:warningEach]
		}
		line, err := utilnet.NewWarningHeader(299, "-", text)
		if err != nil || len(line) > room {
			continue
		}
		room -= len(line)
		header.Add("Warning", line)
	}
}

// respondWatch writes events as they come. What Next returns at once is written
// and flushed at once: under load that batches, and a lone event never waits.
func (s *Server) respondWatch(w http.ResponseWriter, r *Request, watch *Watch) {
	defer watch.Close()
	s.metrics.watching.Inc()
	defer s.metrics.watching.Dec()
	defer s.metrics.stays(r)()

	ctx, cancel := s.untilStopping(r.HTTP.Context())
	defer cancel()
	if isWebSocket(r.HTTP) {
		watchWebSocket(ctx, w, r, newWatchEncoder(watch, r.Out))
		return
	}
	header := w.Header()
	header.Set("Content-Type", watchContentType(r.Out))
	w.WriteHeader(http.StatusOK)
	connection := http.NewResponseController(w)
	flush := connection.Flush
	if flush() != nil {
		return
	}
	// Who answers pings but does not read would keep the write, and what it writes,
	// for ever. The deadline is set when it is there: one that lapses between writes
	// would end a quiet watch.
	stalled := time.AfterFunc(time.Hour, func() { _ = connection.SetWriteDeadline(time.Now()) })
	stalled.Stop()
	defer stalled.Stop()
	events := newWatchEncoder(watch, r.Out)
	count := s.metrics.watch(watch.Resource)
	for {
		frames, err := events.next(ctx)
		if err != nil {
			return
		}
		count(events.told, len(frames))
		stalled.Reset(s.frontConfig.RequestTimeout)
		if _, err := w.Write(frames); err != nil {
			return
		}
		if flush() != nil {
			return
		}
		stalled.Stop()
	}
}

// untilStopping ends a stream when the server shuts down, so that its client
// goes on elsewhere instead of holding up the shutdown.
func (s *Server) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { forget(); cancel() }
}

// watchEncoder makes frames of a watch's events.
type watchEncoder struct {
	watch *Watch
	out   Output
	table *tableWriter // nil unless a Table is asked for
	buf   []byte
	told  int // events in buf
}

func newWatchEncoder(watch *Watch, out Output) *watchEncoder {
	e := &watchEncoder{watch: watch, out: out}
	if out.As == "Table" {
		e.table = newTableWriter(watch.Resource, out)
	}
	return e
}

// next waits for events and returns their frames, one after the other, which
// stay valid until the next call.
func (e *watchEncoder) next(ctx context.Context) ([]byte, error) {
	e.buf, e.told = e.buf[:0], 0
	err := e.each(ctx, func(event WatchEvent) (err error) {
		e.buf, err = e.append(e.buf, event)
		e.told++
		return err
	})
	if cap(e.buf) > 1<<20 { // a burst is over; an idle watch should hold little
		buf := e.buf
		e.buf = nil
		return buf, err
	}
	return e.buf, err
}

func (e *watchEncoder) each(ctx context.Context, do func(WatchEvent) error) error {
	events, err := e.watch.Next(ctx)
	if err != nil {
		return err
	}
	for _, event := range events {
		if err := do(event); err != nil {
			return err
		}
	}
	return nil
}

func (e *watchEncoder) append(buf []byte, event WatchEvent) ([]byte, error) {
	if e.out.As == "" || event.Status != nil {
		out := e.out
		out.As = ""
		return appendEvent(buf, e.watch, event, out)
	}
	obj, err := e.convert(event)
	if err != nil {
		return buf, err
	}
	return appendObjectEvent(buf, string(event.Type), obj, e.out)
}

// convert makes an event's object a Table or its metadata.
func (e *watchEncoder) convert(event WatchEvent) (runtime.Object, error) {
	if event.Entry == nil { // a bookmark
		meta := bookmarkMeta(event)
		if e.table != nil {
			return e.table.bookmark(meta), nil
		}
		return partialOf(&meta, e.out.AsVersion), nil
	}
	if e.table != nil {
		return e.table.event(event.Entry)
	}
	obj, err := objectOf(event.Entry)
	if err != nil {
		return nil, err
	}
	return partialOf(obj, e.out.AsVersion), nil
}

func bookmarkMeta(event WatchEvent) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(event.Revision, 10)}
	if event.Initial {
		meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return meta
}
