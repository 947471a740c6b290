package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// story is a user at a shell: skiff and kubectl, and a kubeconfig of their own.
type story struct {
	t                      *testing.T
	ctx                    context.Context
	skiffPath, kubectlPath string
	name, dir, kubeconfig  string
	prefix                 []string // what programs are started through; empty: nothing
	marks                  []string // by which what the cluster made is known, beside its name and directory
}

// newStory builds skiff and names a cluster; nothing runs yet. It skips where the
// machine cannot run containers.
func newStory(t *testing.T) *story {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: a cluster with containers needs root")
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(repository, "bin")
	if other := os.Getenv("SKIFF_BIN"); other != "" { // programs that lie elsewhere
		built = other
	}
	for _, needed := range []string{"runtime/containerd", "runtime/runc", "skiff", "skiff-cni"} {
		if _, err := os.Stat(filepath.Join(built, needed)); err != nil {
			t.Skipf("skipped: bin/%s is not built (make build)", needed)
		}
	}
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		kubectl = filepath.Join(built, "kubectl")
		if _, err := os.Stat(kubectl); err != nil {
			t.Skip("skipped: there is no kubectl (make kubectl)")
		}
	}
	// A short path: unix sockets lie below it.
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	return &story{
		t: t, ctx: ctx, skiffPath: filepath.Join(built, "skiff"), kubectlPath: kubectl,
		name: fmt.Sprintf("story-%d", os.Getpid()), dir: filepath.Join(dir, "d"), kubeconfig: filepath.Join(dir, "kubeconfig"),
	}
}

func (s *story) run(program string, args ...string) (string, error) {
	words := append(append(slices.Clone(s.prefix), program), args...)
	cmd := exec.CommandContext(s.ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig, "SUDO_USER=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// skiff runs a command about the story's cluster.
func (s *story) skiff(args ...string) string {
	s.t.Helper()
	out, err := s.run(s.skiffPath, append(args, "--name", s.name, "--data-dir", s.dir)...)
	if err != nil {
		s.t.Fatalf("skiff %s: %v\n%s%s", strings.Join(args, " "), err, out, s.logs())
	}
	return out
}

func (s *story) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.run(s.kubectlPath, args...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, s.logs())
	}
	return strings.TrimSpace(out)
}

// logs is the end of what the cluster's processes have logged.
func (s *story) logs() (out string) {
	files, _ := filepath.Glob(filepath.Join(s.dir, "logs", "*.log"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil {
			out += fmt.Sprintf("--- %s\n%s\n", filepath.Base(f), data[max(0, len(data)-2000):])
		}
	}
	return out
}

// pid of one of the cluster's processes.
func (s *story) pid(process string) int {
	s.t.Helper()
	var status clusterStatus
	if err := json.Unmarshal([]byte(s.skiff("status", "-o", "json")), &status); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range status.Processes {
		if p.Name == process {
			return p.PID
		}
	}
	s.t.Fatalf("there is no process %s: %+v", process, status.Processes)
	return 0
}

// machine lists what a cluster could leave behind that bears its marks.
func (s *story) machine() (lines []string) {
	s.t.Helper()
	for _, command := range []string{
		"ip -br link", "ip -4 route show table all", "nft list tables", "cat /proc/self/mounts", "find /sys/fs/cgroup -maxdepth 3 -type d",
		"for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null", "cat " + s.kubeconfig + " 2>/dev/null || true",
	} {
		out, err := exec.CommandContext(s.ctx, "sh", "-c", command).Output()
		if err != nil {
			s.t.Fatalf("%s: %v", command, err)
		}
		for line := range strings.Lines(string(out)) {
			marked := slices.ContainsFunc(append(s.marks, s.name, s.dir), func(mark string) bool { return strings.Contains(line, mark) })
			if marked && !strings.Contains(line, "cmdline") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// web is what the example answers with.
type web struct{ Pod, Node, Message string }

func (s *story) get(url string) (w web, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return w, err
	}
	req.Close = true // a connection each, so that the service may choose anew
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return w, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return w, err
	}
	return w, json.Unmarshal(body, &w)
}

// A newcomer's first ten minutes, and the worst of the next day.
func TestAClusterWithContainers(t *testing.T) {
	s := newStory(t)
	s.end()

	t.Log(s.skiff("up", "--nodes", "2"))
	s.mark()
	s.skiff("image", "build", "--tag", "example/web:v1", "../../examples/web")
	s.kubectl("apply", "-f", "../../examples/web.yaml")
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	if marks := s.machine(); len(marks) < 5 {
		t.Errorf("the test does not see what it looks for later: %q", marks)
	}

	// A service spreads requests over pods on both nodes.
	s.kubectl("wait", "service/web", "--for=jsonpath={.status.loadBalancer.ingress}", "--timeout=30s")
	address := "http://" + s.kubectl("get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}:{.spec.ports[0].port}") + "/"
	pods, nodes := map[string]bool{}, map[string]bool{}
	for range 60 {
		if w, err := s.get(address); err == nil {
			pods[w.Pod], nodes[w.Node] = true, true
		}
	}
	if len(pods) != 3 || len(nodes) != 2 {
		t.Errorf("60 requests came to pods %v on nodes %v, want 3 pods on 2 nodes", pods, nodes)
	}
	// The same at localhost, where a newcomer looks first.
	s.kubectl("wait", "service/web", `--for=jsonpath={.metadata.annotations.skiff\.dev/localhost}`, "--timeout=30s")
	local := s.kubectl("get", "service", "web", "-o", `jsonpath={.metadata.annotations.skiff\.dev/localhost}`)
	if w, err := s.get("http://" + local + "/"); err != nil || !pods[w.Pod] {
		t.Errorf("at %s: %v %v", local, w, err)
	}
	pod := s.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	if out := s.kubectl("logs", pod); !strings.Contains(out, "serving") {
		t.Errorf("logs: %q", out)
	}

	s.killServer(t, address)

	// kill -9 of an agent: its containers run on, and are adopted.
	agent := "agent-" + s.name + "-1"
	killed := s.pid(agent)
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.skiff("up")
	s.kubectl("rollout", "restart", "deployment/web") // the new agent starts and ends pods
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	if again := s.pid(agent); again == killed || again == 0 {
		t.Errorf("the agent was not started again: pid %d, was %d", again, killed)
	}
	if out := s.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(out, "0 ") != "" {
		t.Errorf("containers were restarted: %s", out)
	}

	if os.Getenv(crashEnv) != "" {
		s.cutNode(t)
	}

	// Gone is gone.
	s.skiff("down")
	if left := s.machine(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// containers lists the ids of the example's containers, sorted; not those of pods
// that are on their way out.
func (s *story) containers() []string {
	s.t.Helper()
	out := s.kubectl("get", "pods", "-l", "app=web", "-o", "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}"+
		"{{with index .status.containerStatuses 0}}{{.containerID}} {{.restartCount}} {{.state.running.startedAt}}{{\"\\n\"}}{{end}}{{end}}{{end}}")
	ids := strings.Split(out, "\n")
	slices.Sort(ids)
	return ids
}
