package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// target is the server under load. Requests are plain HTTP over the kubeconfig's
// transport: bodies are made beforehand and answers are not decoded, so that the
// generator takes little of the processors that it shares with the server.
type target struct {
	base   string
	config *rest.Config
	http   *http.Client
}

const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
	tableType    = "application/json;as=Table;v=v1;g=meta.k8s.io"
)

func newTarget(config *rest.Config) (*target, error) {
	t := &target{config: config}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("address of the server: %w", err)
	}
	t.base = strings.TrimRight(base.String(), "/")
	t.http, err = t.connection()
	return t, err
}

// connection returns a client with connections of its own.
func (t *target) connection() (*http.Client, error) {
	tls, err := rest.TLSConfigFor(t.config)
	if err != nil {
		return nil, fmt.Errorf("keys for the server: %w", err)
	}
	plain := &http.Transport{
		TLSClientConfig: tls, ForceAttemptHTTP2: true, DialContext: t.config.Dial, Proxy: t.config.Proxy,
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 256,
		// Bodies come as they are sent: who wants gzip says so.
		DisableCompression: true,
	}
	wrapped, err := rest.HTTPWrappersForConfig(t.config, plain)
	if err != nil {
		return nil, fmt.Errorf("authentication for the server: %w", err)
	}
	return &http.Client{Transport: wrapped}, nil
}

// answerError is an answer that refuses.
type answerError struct {
	status int
	reason string // the API's, or "HTTP 500"
	text   string
}

func (e *answerError) Error() string { return fmt.Sprintf("%s (HTTP %d)", e.text, e.status) }

// is tells whether err is an answer with this HTTP status.
func is(err error, status int) bool {
	e, ok := err.(*answerError)
	return ok && e.status == status
}

// request is one request; what is empty is not sent.
type request struct {
	method, path string
	body         []byte
	contentType  string
	accept       string
	encoding     string
}

// open sends a request and returns its answer if that is a good one.
func (t *target) open(ctx context.Context, client *http.Client, q request) (*http.Response, error) {
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, t.base+q.path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "skiff-bench")
	for name, value := range map[string]string{"Content-Type": q.contentType, "Accept": q.accept, "Accept-Encoding": q.encoding} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what of it came will do for a message
	e := &answerError{status: res.StatusCode, reason: fmt.Sprintf("HTTP %d", res.StatusCode), text: strings.TrimSpace(string(text))}
	var status metav1.Status
	if json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		if status.Reason != "" {
			e.reason = string(status.Reason)
		}
		e.text = status.Message
	}
	return nil, e
}

// do sends a request and counts the bytes of the answer, which it drops.
func (t *target) do(ctx context.Context, q request) (int64, error) {
	res, err := t.open(ctx, t.http, q)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return io.Copy(io.Discard, res.Body)
}

// read sends a request and returns the answer's body.
func (t *target) read(ctx context.Context, q request) ([]byte, error) {
	res, err := t.open(ctx, t.http, q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// create sends an object, encoded as JSON, to a collection.
func (t *target) create(ctx context.Context, collection string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode for %s: %w", collection, err)
	}
	_, err = t.do(ctx, request{method: http.MethodPost, path: collection, body: body, contentType: jsonType, accept: jsonType})
	return err
}

// version is what the server says it is.
func (t *target) version(ctx context.Context) (string, error) {
	body, err := t.read(ctx, request{method: http.MethodGet, path: "/version", accept: jsonType})
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", t.base, err)
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", t.base, err)
	}
	return v.GitVersion, nil
}
