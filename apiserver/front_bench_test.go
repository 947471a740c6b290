package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"skiff/client"
)

// manyPods is a server with 5,000 pods of about 3 kB of JSON.
func manyPods(b *testing.B) *listening {
	l := listen(b, nil)
	c := l.Client(&user.DefaultInfo{Name: "filler", Groups: []string{user.SystemPrivilegedGroup}}, "filler")
	if _, err := client.Create(b.Context(), c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}); err != nil {
		b.Fatal(err)
	}
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := w; i < 5000; i += 8 {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("pod-%d", i), Labels: map[string]string{"app": "web", "tier": "front"}},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/web:1.2.3", Env: []corev1.EnvVar{{Name: "A", Value: strings.Repeat("v", 300)}}}}}}
				if _, err := client.Create(b.Context(), c, pod); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	return l
}

// BenchmarkHTTP measures answers over TLS and HTTP/2; the client's own work
// counts, too.
func BenchmarkHTTP(b *testing.B) {
	l := manyPods(b)
	defer l.stop()
	config := rest.CopyConfig(l.config)
	config.DisableCompression = true
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]struct{ path, accept, encoding string }{
		"get/json":      {"/api/v1/namespaces/default/pods/pod-7", "application/json", ""},
		"get/protobuf":  {"/api/v1/namespaces/default/pods/pod-7", "application/vnd.kubernetes.protobuf", ""},
		"list/json":     {"/api/v1/pods", "application/json", ""},
		"list/protobuf": {"/api/v1/pods", "application/vnd.kubernetes.protobuf", ""},
		"list/gzip":     {"/api/v1/pods", "application/json", "gzip"},
		"list/table":    {"/api/v1/pods", "application/json;as=Table;v=v1;g=meta.k8s.io", ""},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				req, err := http.NewRequest("GET", l.url+c.path, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Accept", c.accept)
				if c.encoding != "" {
					req.Header.Set("Accept-Encoding", c.encoding)
				}
				resp, err := h.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(resp.Status, err)
				}
				b.SetBytes(n)
			}
		})
	}
	b.Run("get/handler", func(b *testing.B) { // without sockets and TLS
		b.ReportAllocs()
		state := certificateState(b, l)
		defer reportCPU(b)()
		for b.Loop() {
			req := httptest.NewRequest("GET", "/api/v1/namespaces/default/pods/pod-7", nil)
			req.TLS = state
			w := httptest.NewRecorder()
			l.Handler().ServeHTTP(w, req)
			if w.Code != 200 {
				b.Fatal(w.Body.String())
			}
		}
	})
}

// reportCPU adds the process's CPU time per operation: on a busy machine it says
// more than the clock.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op") }
}
