package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// rollingWeb is six pods that say when they are ready, and that stay a moment
// longer than the nodes need to hear that they leave.
const rollingWeb = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolling}
spec:
  replicas: 6
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 3}}
  selector: {matchLabels: {app: rolling}}
  template:
    metadata: {labels: {app: rolling}}
    spec:
      containers:
      - name: web
        image: example/web:v1
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: rolling}
spec:
  type: LoadBalancer
  selector: {app: rolling}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: asking}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: tools, image: tools:v1, command: [sleep, "1000"]}
`

// loadReport is what `tools load` prints.
type loadReport struct {
	Requests int
	Failures map[string]int
	Pods     map[string]int
}

// Six pods are replaced, again and again, while 200 requests a second come: 100 to
// localhost of the machine, and 100 from within a pod. None is lost. In the ordinary
// run there are two rollouts; SKIFF_LOAD=60s says for how long there are more.
func (s *story) rolloutUnderLoad(t *testing.T, tools string) {
	s = s.in(t)
	long, err := time.ParseDuration(or(os.Getenv("SKIFF_LOAD"), "0s"))
	if err != nil {
		t.Fatal(err)
	}
	s.kubectlInput(rollingWeb, "apply", "-f", "-")
	s.kubectl("rollout", "status", "deployment/rolling", "--timeout=60s")
	s.kubectl("wait", "pod/asking", "--for=condition=Ready", "--timeout=30s")
	s.kubectl("wait", "service/rolling", `--for=jsonpath={.metadata.annotations.skiff\.dev/localhost}`, "--timeout=30s")
	localhost := s.kubectl("get", "service", "rolling", "-o", `jsonpath={.metadata.annotations.skiff\.dev/localhost}`)

	began := time.Now()
	outside := s.load(tools, "load", "-rate", "100", "http://"+localhost+"/")
	inside := s.load(s.kubectlPath, "exec", "-i", "asking", "--", "tools", "load", "-rate", "100", "http://rolling:8080/")
	rollouts := 0
	for rollouts < 2 || time.Since(began) < long {
		s.kubectl("rollout", "restart", "deployment/rolling")
		s.kubectl("rollout", "status", "deployment/rolling", "--timeout=60s")
		rollouts++
	}
	took := time.Since(began)
	for from, stop := range map[string]func() loadReport{"this machine": outside, "a pod": inside} {
		r := stop()
		t.Logf("%d requests from %s to %d pods, in %d rollouts of 6 pods in %.0f s; failures: %v", r.Requests, from, len(r.Pods), rollouts, took.Seconds(), r.Failures)
		if len(r.Failures) > 0 {
			t.Errorf("requests from %s were lost: %v", from, r.Failures)
		}
		if len(r.Pods) < 6*rollouts || float64(r.Requests) < 40*took.Seconds() {
			t.Errorf("%d requests from %s came to %d pods: that shows nothing", r.Requests, from, len(r.Pods))
		}
	}
	s.kubectl("delete", "deployment/rolling", "service/rolling", "pod/asking", "--wait=false")
}

// load starts a load; what is returned ends it.
func (s *story) load(program string, args ...string) (stop func() loadReport) {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig)
	var out, errors strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errors
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return func() (r loadReport) {
		s.t.Helper()
		if err := in.Close(); err != nil {
			s.t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("%s: %v: %s", program, err, errors.String())
		}
		if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
			s.t.Errorf("%s printed %q: %v", program, out.String(), err)
		}
		return r
	}
}

// in is the same story, told to a subtest.
func (s *story) in(t *testing.T) *story {
	other := *s
	other.t = t
	return &other
}

// kubectlInput calls kubectl with something to read.
func (s *story) kubectlInput(input string, args ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx, s.kubectlPath, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig)
	cmd.Stdin = io.Reader(strings.NewReader(input))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatal(fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out))
	}
}

// or is the first of two that is not empty.
func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
