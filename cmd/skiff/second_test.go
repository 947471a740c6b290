package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"skiff/cluster/local"
)

// besideWeb is a service that wants a certain port of localhost.
const besideWeb = `
apiVersion: v1
kind: Pod
metadata: {name: beside, labels: {app: beside}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: example/web:v1
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: MESSAGE, value: %[1]q}]
---
apiVersion: v1
kind: Service
metadata: {name: beside}
spec:
  type: LoadBalancer
  selector: {app: beside}
  ports: [{port: %[2]d, targetPort: 8080}]
`

// mark notes by what the cluster's traces on the machine are known.
func (s *story) mark() {
	s.t.Helper()
	spec, err := local.Load(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	link := local.Dirs(s.dir).Network(spec).Interface()
	s.marks = append(s.marks, strings.TrimPrefix(link, "skiff-"), spec.Ranges().Pods.String(), spec.Ranges().Services.String())
}

// serveBeside applies besideWeb and returns where it answers at localhost.
func (s *story) serveBeside(message string, port int) (address string) {
	s.t.Helper()
	context := "--context=" + local.ContextName(s.name)
	s.skiff("image", "build", "--tag", "example/web:v1", "../../examples/web")
	s.kubectlInput(fmt.Sprintf(besideWeb, message, port), context, "apply", "-f", "-")
	s.kubectl(context, "wait", "pod/beside", "--for=condition=Ready", "--timeout=30s")
	s.kubectl(context, "wait", "service/beside", `--for=jsonpath={.metadata.annotations.skiff\.dev/localhost}`, "--timeout=30s")
	return s.kubectl(context, "get", "service", "beside", "-o", `jsonpath={.metadata.annotations.skiff\.dev/localhost}`)
}

// Two clusters stand side by side, and the end of one is nothing to the other.
func (s *story) secondCluster(t *testing.T) {
	first := s.in(t)
	first.mark()
	second := s.in(t)
	second.name, second.dir, second.marks = s.name+"-b", filepath.Join(filepath.Dir(s.dir), "e"), nil
	second.end()
	second.skiff("up")
	second.mark()

	// A port that both want: the first has it, the second says which it got instead.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	at, there := first.serveBeside("first", port), second.serveBeside("second", port)
	if want := fmt.Sprint("127.0.0.1:", port); at != want || there == want {
		t.Errorf("both want %s: the first has %s, the second %s", want, at, there)
	}
	context := "--context=" + local.ContextName(second.name)
	second.kubectl(context, "wait", "--for=create", "event", "--field-selector=reason=LocalhostPortTaken", "--timeout=20s")
	message := second.kubectl(context, "get", "events", "--field-selector=reason=LocalhostPortTaken,involvedObject.name=beside", "-o", "jsonpath={.items[*].message}")
	if !strings.Contains(message, fmt.Sprint("Port ", port)) || !strings.Contains(message, there) {
		t.Errorf("the event says %q, want ports %d and %s", message, port, there)
	}
	for message, address := range map[string]string{"first": at, "second": there} {
		if w, err := s.get("http://" + address + "/"); err != nil || w.Message != message {
			t.Errorf("%s cluster at %s: %v %v", message, address, w, err)
		}
	}

	// A second `up` finds all as it is.
	pid := second.pid("server")
	second.skiff("up")
	if now := second.pid("server"); now != pid {
		t.Errorf("`skiff up` of a cluster that runs: server %d became %d", pid, now)
	}

	// The second, which kubectl's current context is, ends: the first stands.
	second.skiff("down")
	if left := second.machine(); len(left) > 0 {
		t.Errorf("left behind of the second: %q", left)
	}
	if w, err := s.get("http://" + at + "/"); err != nil || w.Message != "first" {
		t.Errorf("the first, after the second ended: %v %v", w, err)
	}
	if out, err := s.run(s.kubectlPath, "config", "current-context"); err == nil {
		t.Errorf("the current context is %s, though its cluster is gone", out)
	}
	s.kubectl("config", "use-context", local.ContextName(s.name))
	if out := first.kubectl("get", "nodes", "-o", "name"); len(strings.Fields(out)) != 2 {
		t.Errorf("nodes of the first: %q", out)
	}
	first.kubectl("delete", "service/beside", "pod/beside")

	// And with the first nothing of either is left.
	first.skiff("down")
	if left := append(first.machine(), second.machine()...); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
