package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// play runs a worker against a fixed row of answers ("." success, "x" failure) and
// tells when it reported what, in seconds after the container's start.
func play(t *testing.T, p *corev1.Probe, answers string, initially, repeat bool) string {
	var out []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		i := 0
		w := Worker{Probe: p, Started: start, Initially: initially, Repeat: repeat,
			Check: func(context.Context) Result {
				if i == len(answers) {
					cancel()
					return Result{Success, ""}
				}
				i++
				return map[byte]Result{'.': {Success, ""}, 'x': {Failure, "no"}, '?': {Unknown, "error"}, 'w': {Warning, "redirect"}}[answers[i-1]]
			},
			Report: func(ok bool) { out = append(out, fmt.Sprintf("%v@%d", ok, int(time.Since(start).Seconds()))) },
			Note:   func(Result) {},
		}
		w.Run(ctx)
		cancel()
	})
	return strings.Join(out, " ")
}

func TestThresholds(t *testing.T) {
	for _, tc := range []struct {
		name              string
		probe             corev1.Probe
		answers           string
		initially, repeat bool
		want              string
	}{
		{"liveness says nothing while well", corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3}, ".....", true, true, ""},
		{"liveness fails at the third failure in a row", corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3}, ".xx.xxx", true, true, "false@60"},
		{"an error counts as failure, a warning as success", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2}, "x?ww", true, true, "false@1 true@2"},
		{"readiness begins as false", corev1.Probe{PeriodSeconds: 5, FailureThreshold: 3}, "xx..", false, true, "true@10"},
		{"readiness needs two successes", corev1.Probe{PeriodSeconds: 5, SuccessThreshold: 2, FailureThreshold: 1}, ".x..x", false, true, "true@15 false@20"},
		{"the initial delay counts from the start", corev1.Probe{PeriodSeconds: 5, InitialDelaySeconds: 7}, ".", false, true, "true@7"},
		{"a startup probe ends at its first success", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30}, "xxx......", false, false, "true@3"},
		{"a startup probe gives up", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3}, "xxx", false, false, "false@2"},
		{"defaults: every 10 s, three failures", corev1.Probe{}, "xxx", true, true, "false@20"},
	} {
		answers := tc.answers
		if !tc.repeat && strings.Contains(tc.want, "true") {
			answers = strings.TrimRight(answers, ".") + "."
		}
		if got := play(t, &tc.probe, answers, tc.initially, tc.repeat); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestNetworkProbes(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Probe") != "yes" || r.Host != "virtual.example" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://other.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()
	port := func(url string) int32 {
		_, p, _ := net.SplitHostPort(url[strings.Index(url, "//")+2:])
		n, _ := strconv.Atoi(p)
		return int32(n)
	}
	headers := []corev1.HTTPHeader{{Name: "X-Probe", Value: "yes"}, {Name: "Host", Value: "virtual.example"}}
	get := func(path string, named bool, scheme corev1.URIScheme) corev1.ProbeHandler {
		at := intstr.FromInt32(port(plain.URL))
		if named {
			at = intstr.FromString("web")
		}
		if scheme == corev1.URISchemeHTTPS {
			at = intstr.FromInt32(port(secure.URL))
		}
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: at, Scheme: scheme, HTTPHeaders: headers}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := int32(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs, hs := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(gs, hs)
	hs.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	go gs.Serve(gl)
	defer gs.Stop()
	gport := int32(gl.Addr().(*net.TCPAddr).Port)
	sick, unknown := "sick", "unknown"
	target := Target{Pod: &corev1.Pod{}, IP: "127.0.0.1", Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port(plain.URL)}}}}
	check := Network(nil)
	for _, tc := range []struct {
		h      corev1.ProbeHandler
		want   Outcome
		output string
	}{
		{get("/ok", false, ""), Success, ""},
		{get("/ok", true, "HTTP"), Success, ""},
		{get("/ok", false, "HTTPS"), Success, ""},
		{get("/bad", false, ""), Failure, "HTTP probe failed with statuscode: 500"},
		{get("/away", false, ""), Warning, "Probe terminated redirects"},
		{get("/here", false, ""), Failure, "statuscode: 500"},
		{get("/slow", false, ""), Failure, "context deadline exceeded"},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}, Success, ""},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(closed)}}, Failure, "connection refused"},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("none")}}, Unknown, "couldn't find port: none"},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: gport}}, Success, ""},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: gport, Service: &sick}}, Failure, "NOT_SERVING"},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: gport, Service: &unknown}}, Failure, "health rpc probe failed"},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: closed}}, Failure, "timeout: failed to connect service"},
	} {
		r := check(t.Context(), target, &corev1.Probe{ProbeHandler: tc.h, TimeoutSeconds: 1})
		if r.Outcome != tc.want || !strings.Contains(r.Output, tc.output) {
			t.Errorf("%+v: %+v, want %s %q", tc.h, r, tc.want, tc.output)
		}
	}
}

func TestPort(t *testing.T) {
	c := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}}
	var got []string
	for _, v := range []intstr.IntOrString{intstr.FromInt32(1), intstr.FromString("web"), intstr.FromString("8080"), intstr.FromInt32(0), intstr.FromString("x")} {
		n, err := Port(v, c)
		got = append(got, fmt.Sprint(n, err))
	}
	if want := []string{"1 <nil>", "80 <nil>", "8080 <nil>", "0 invalid port number: 0", "0 couldn't find port: x"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
