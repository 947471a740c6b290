// Package stories holds what users type: the scripts in testdata run stock kubectl
// against a cluster in this process, and say what must come back. The package has
// no code but these tests; a new story is a new file in testdata.
//
// Beside testscript's own commands a script has
//
//	kubectl ARGS…                 stock kubectl, as the cluster's administrator
//	watch ARGS…                   kubectl ARGS… in the background; see seen
//	seen PATTERN                  waits until a line of watch's output matches
//	http [-as USER] [-token FILE] [-type TYPE] METHOD PATH [FILE]
//	                              one bare request: its status line and body, indented, as stdout
//	large SIZE FILE               writes a ConfigMap with a value of SIZE bytes
//	token NAME                    sets $NAME to the continue token in stdout
//	forget                        makes the cluster forget the past, as time does
package stories

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"k8s.io/client-go/rest"

	"skiff/skifftest"
)

// patience is how long a story waits for what must come.
const patience = 20 * time.Second

func TestStories(t *testing.T) {
	kubectls := findKubectls(t)
	if len(kubectls) == 0 {
		t.Skip("the stories need kubectl (`make kubectl` builds one)")
	}
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("stories: %v, %v", scripts, err)
	}
	for version, kubectl := range kubectls {
		for _, script := range scripts {
			t.Run(version+"/"+strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
				t.Parallel()
				tell(t, script, kubectl)
			})
		}
	}
}

// tell runs one script in a cluster of its own.
func tell(t *testing.T, script, kubectl string) {
	c := skifftest.New(t, skifftest.Config{Nodes: 2, Listen: true})
	s := &story{kubectl: kubectl, kubeconfig: c.Kubeconfig(), config: c.RESTConfig()}
	testscript.Run(t, testscript.Params{
		Files: []string{script},
		Setup: func(e *testscript.Env) error {
			e.Setenv("KUBECONFIG", s.kubeconfig)
			e.Setenv("HOME", e.WorkDir) // kubectl's cache
			e.Setenv("PATH", filepath.Dir(kubectl)+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"kubectl": s.runKubectl, "watch": s.watch, "seen": s.seen, "http": s.http, "large": large,
			"token": token, "forget": func(*testscript.TestScript, bool, []string) { c.Compact() },
		},
	})
}

// findKubectls returns the paths of the kubectls that there are, one of each minor
// version: those in bin/ of a folder above this one, and the one on PATH.
func findKubectls(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for ; dir != filepath.Dir(dir) && len(paths) == 0; dir = filepath.Dir(dir) {
		if paths, err = filepath.Glob(filepath.Join(dir, "bin", "kubectl*")); err != nil {
			t.Fatal(err)
		}
	}
	if path, err := exec.LookPath("kubectl"); err == nil {
		paths = append(paths, path)
	}
	found := map[string]string{}
	for _, path := range paths {
		out, err := exec.Command(path, "version", "--client").Output()
		version := minorVersion.FindSubmatch(out)
		if err != nil || version == nil {
			t.Logf("%s is no kubectl: %v, %q", path, err, out)
			continue
		}
		if found[string(version[1])] == "" {
			found[string(version[1])] = path
		}
	}
	return found
}

var minorVersion = regexp.MustCompile(`Client Version: v(1\.\d+)`)

// story is what the commands of one script share. A script runs on one goroutine.
type story struct {
	kubectl, kubeconfig string
	config              *rest.Config
	lines               <-chan string // of the watch that runs; nil: none does
}

func (s *story) runKubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(s.kubectl, args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("kubectl: %v", err)
	case err == nil && neg:
		ts.Fatalf("kubectl succeeded; the story says that it is refused")
	}
}

// watch starts kubectl and ends it with the script.
func (s *story) watch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || s.lines != nil {
		ts.Fatalf("usage: watch ARGS…, once in a script")
	}
	cmd := exec.Command(s.kubectl, args...)
	cmd.Env = []string{"KUBECONFIG=" + s.kubeconfig, "HOME=" + ts.Getenv("HOME")}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines := make(chan string, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			lines <- in.Text()
		}
	}()
	ts.Defer(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			ts.Logf("end kubectl: %v", err)
		}
		<-read
		_ = cmd.Wait() // it was killed, and says so
	})
	s.lines = lines
}

// seen reads the watch's lines up to one that matches.
func (s *story) seen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || s.lines == nil {
		ts.Fatalf("usage: seen PATTERN, after watch")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	late := time.After(patience)
	for {
		select {
		case line, more := <-s.lines:
			if !more {
				ts.Fatalf("the watch ended before a line matched %s", pattern)
			}
			ts.Logf("[watch] %s", line)
			if pattern.MatchString(line) {
				return
			}
		case <-late:
			ts.Fatalf("no line matched %s within %s", pattern, patience)
		}
	}
}

// http sends one request. With neg the answer must be an error.
func (s *story) http(ts *testscript.TestScript, neg bool, args []string) {
	config := rest.CopyConfig(s.config)
	contentType := "application/json"
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-as":
			config.Impersonate.UserName = args[1]
		case "-token":
			config = rest.AnonymousClientConfig(s.config)
			config.BearerToken = strings.TrimSpace(ts.ReadFile(args[1]))
			config.Dial = s.config.Dial
		case "-type":
			contentType = args[1]
		default:
			ts.Fatalf("http: unknown flag %s", args[0])
		}
		args = args[2:]
	}
	if len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: http [-as USER] [-token FILE] [-type TYPE] METHOD PATH [FILE]")
	}
	var body string
	if len(args) == 3 {
		body = ts.ReadFile(args[2])
	}
	code, err := exchange(ts, config, args[0], args[1], contentType, body)
	ts.Check(err)
	if failed := code >= 400; failed != neg {
		ts.Fatalf("%s %s: %d", args[0], args[1], code)
	}
}

// large writes a ConfigMap that is too big for a txtar file.
func large(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: large SIZE FILE")
	}
	size, err := strconv.Atoi(args[0])
	ts.Check(err)
	object := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large"},"data":{"a":"` + strings.Repeat("x", size) + `"}}`
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(object), 0o600))
}

var continues = regexp.MustCompile(`"continue": "([^"]+)"`)

// token finds where a list goes on.
func token(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: token NAME, after http")
	}
	found := continues.FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("the answer has no continue token")
	}
	ts.Setenv(args[0], found[1])
}

// exchange sends the request, shows its answer as the script's stdout and returns
// its status code.
func exchange(ts *testscript.TestScript, config *rest.Config, method, path, contentType, body string) (int, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	client.Timeout = patience
	request, err := http.NewRequest(method, config.Host+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", contentType)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("read answer: %w", err)
	}
	out := ts.Stdout()
	fmt.Fprintln(out, response.Status)
	for _, w := range response.Header.Values("Warning") {
		fmt.Fprintln(out, "Warning:", w)
	}
	var indented bytes.Buffer
	if json.Indent(&indented, data, "", "  ") == nil {
		data = indented.Bytes()
	}
	fmt.Fprintf(out, "%s\n", data)
	return response.StatusCode, nil
}
