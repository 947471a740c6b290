package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for what must come.
const patience = 30 * time.Second

// What users do with running containers: the scripts in testdata/containers, each
// in a namespace of its own of one cluster of two nodes, and the stories below them
// that need a program. Beside testscript's own commands a script has
//
//	kubectl ARGS…                        stock kubectl
//	watch NAME ARGS…                     kubectl ARGS… in the background, under a name
//	seen NAME PATTERN [VARIABLE]         waits until a line of its output matches; the first
//	                                     group becomes the variable's value
//	ask COUNT URL                        requests from this machine; the bodies are stdout
//	udp ADDRESS TEXT                     a packet from this machine; the answer is stdout
//	onnodes COUNT PATH                   the path is there below COUNT nodes' directories
//	distinct COUNT PATTERN               stdout has matches of COUNT different texts
//	again COMMAND ARGS…                  kubectl until it succeeds
func TestStoriesWithContainers(t *testing.T) {
	s := newStory(t)
	s.end()
	t.Log(s.skiff("up", "--nodes", "2"))
	private := s.privateRegistry()
	tools := s.buildTools()
	s.skiff("image", "build", "--tag", "example/web:v1", "../../examples/web")

	t.Run("scripts", s.scripts)
	t.Run("a rollout loses no request", func(t *testing.T) { s.rolloutUnderLoad(t, tools) })
	t.Run("a registry that asks for a password", func(t *testing.T) { s.in(t).pullSecrets(private) })
	t.Run("a second cluster", s.secondCluster)
}

// end takes the cluster down when the test ends.
func (s *story) end() {
	s.t.Helper()
	s.t.Cleanup(func() {
		if out, err := s.run(s.skiffPath, "down", "--name", s.name, "--data-dir", s.dir); err != nil {
			s.t.Errorf("skiff down: %v\n%s", err, out)
		}
	})
}

// buildTools makes the image that most scripts use: busybox, tar among it, and the
// program in testdata/tools, whose path on this machine it returns.
func (s *story) buildTools() (tools string) {
	s.t.Helper()
	root, tools := s.toolsRoot()
	s.skiff("image", "build", "--tag", "tools:v1", "--entrypoint", "/bin/sh", root)
	return tools
}

// toolsRoot makes the root file system of that image.
func (s *story) toolsRoot() (root, tools string) {
	s.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		s.t.Skip("skipped: there is no busybox (package busybox-static)")
	}
	root = s.t.TempDir()
	bin := filepath.Join(root, "bin")
	for _, dir := range []string{bin, filepath.Join(root, "tmp"), filepath.Join(root, "etc")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755)
	}
	for _, name := range strings.Fields("cat date echo false head hostname id kill ls mkdir nslookup ps rm seq sh sleep stty tar test touch true tty wc") {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(bin, name)))
	}
	err = errors.Join(err, os.WriteFile(filepath.Join(root, "etc", "passwd"), []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644))
	if err != nil {
		s.t.Fatal(err)
	}
	tools = filepath.Join(bin, "tools")
	build := exec.CommandContext(s.ctx, "go", "build", "-o", tools, "./testdata/tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("build tools: %v\n%s", err, out)
	}
	return root, tools
}

// scripts runs testdata/containers, side by side.
func (s *story) scripts(t *testing.T) {
	files, err := filepath.Glob("testdata/containers/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &script{story: s, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), watches: map[string]<-chan string{}}
			if err := r.enter(name); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(e *testscript.Env) error {
					e.Setenv("KUBECONFIG", r.kubeconfig)
					e.Setenv("HOME", e.WorkDir) // kubectl's cache
					e.Setenv("NAMESPACE", name)
					e.Setenv("PATH", filepath.Dir(s.kubectlPath)+string(os.PathListSeparator)+e.Getenv("PATH"))
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"kubectl": r.runKubectl, "watch": r.watch, "seen": r.seen, "ask": ask, "udp": udp, "distinct": distinct, "again": r.again, "onnodes": r.onNodes,
				},
			})
		})
	}
}

// script is what the commands of one script share. A script runs on one goroutine.
type script struct {
	*story
	kubeconfig string
	watches    map[string]<-chan string // lines of what watch started, by name
}

// enter makes a namespace, and a kubeconfig that stands in it.
func (r *script) enter(namespace string) error {
	config, err := os.ReadFile(r.story.kubeconfig)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.kubeconfig, config, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"create", "namespace", namespace},
		{"config", "set-context", "--current", "--namespace", namespace},
		{"wait", "--for=create", "serviceaccount/default", "--timeout=10s"},
	} {
		cmd := exec.CommandContext(r.ctx, r.kubectlPath, args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+r.kubeconfig)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func (r *script) runKubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(r.kubectlPath, args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("kubectl: %v", err)
	case err == nil && neg:
		ts.Fatalf("kubectl succeeded; the story says that it does not")
	}
}

// again calls kubectl until it succeeds: for what no condition tells of.
func (r *script) again(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: again ARGS…")
	}
	for late := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(r.kubectlPath, args...)
		if err == nil {
			return
		}
		if time.Now().After(late) {
			ts.Fatalf("kubectl: %v", err)
		}
	}
}

// onNodes counts the nodes that have a file.
func (r *script) onNodes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: onnodes COUNT PATH")
	}
	found, err := filepath.Glob(filepath.Join(r.dir, "nodes", "*", args[1]))
	ts.Check(err)
	if want, err := strconv.Atoi(args[0]); err != nil || len(found) != want {
		ts.Fatalf("%s is there: %q, want %s (%v)", args[1], found, args[0], err)
	}
}

// watch starts kubectl and ends it with the script.
func (r *script) watch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || r.watches[args[0]] != nil {
		ts.Fatalf("usage: watch NAME ARGS…, a name once")
	}
	cmd := exec.Command(r.kubectlPath, args[1:]...)
	cmd.Env = []string{"KUBECONFIG=" + r.kubeconfig, "HOME=" + ts.Getenv("HOME")}
	in, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	lines, ended := make(chan string, 10000), make(chan struct{})
	go func() {
		defer close(lines)
		for from := bufio.NewScanner(in); from.Scan(); {
			lines <- from.Text()
		}
	}()
	go func() {
		defer close(ended)
		_ = cmd.Wait() // most are killed, and say so
		out.Close()
	}()
	ts.Defer(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			ts.Logf("end kubectl: %v", err)
		}
		<-ended
	})
	r.watches[args[0]] = lines
}

// seen reads a watch's lines up to one that matches.
func (r *script) seen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 || r.watches[args[0]] == nil {
		ts.Fatalf("usage: seen NAME PATTERN [VARIABLE], after watch NAME")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	late := time.After(patience)
	for {
		select {
		case line, more := <-r.watches[args[0]]:
			if !more {
				ts.Fatalf("%s ended before a line matched %s", args[0], pattern)
			}
			ts.Logf("[%s] %s", args[0], line)
			found := pattern.FindStringSubmatch(line)
			if found == nil {
				continue
			}
			if len(args) == 3 {
				ts.Setenv(args[2], found[len(found)-1])
			}
			return
		case <-late:
			ts.Fatalf("no line of %s matched %s within %s", args[0], pattern, patience)
		}
	}
}

// ask sends requests, each on a connection of its own.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: ask COUNT URL")
	}
	count, err := strconv.Atoi(args[0])
	ts.Check(err)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range count {
		resp, err := client.Get(args[1])
		if (err != nil) != neg {
			ts.Fatalf("%s: %v", args[1], err)
		}
		if err != nil {
			return
		}
		_, err = io.Copy(ts.Stdout(), resp.Body)
		resp.Body.Close()
		ts.Check(err)
		fmt.Fprintln(ts.Stdout())
	}
}

// udp sends a packet until an answer comes.
func udp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: udp ADDRESS TEXT")
	}
	conn, err := net.Dial("udp", args[0])
	ts.Check(err)
	defer conn.Close()
	buffer := make([]byte, 1<<16)
	for late := time.Now().Add(patience); time.Now().Before(late); {
		_, err := conn.Write([]byte(args[1]))
		ts.Check(conn.SetReadDeadline(time.Now().Add(250 * time.Millisecond)))
		if err == nil {
			var n int
			if n, err = conn.Read(buffer); err == nil {
				fmt.Fprintf(ts.Stdout(), "%s\n", buffer[:n])
				return
			}
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			time.Sleep(100 * time.Millisecond) // refused: nobody listens yet
		}
	}
	ts.Fatalf("no answer from %s", args[0])
}

// distinct counts what stdout says of something.
func distinct(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: distinct COUNT PATTERN")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	seen := map[string]bool{}
	for _, match := range pattern.FindAllString(ts.ReadFile("stdout"), -1) {
		seen[match] = true
	}
	if len(seen) != want {
		ts.Fatalf("%d different matches of %s, want %d: %v", len(seen), pattern, want, seen)
	}
}
