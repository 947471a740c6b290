package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/cluster/pki"
)

// boundedEnv makes this program the server of TestMemoryIsBounded.
const boundedEnv = "SKIFF_TEST_BOUNDED_SERVER"

// boundedMemory is what the server of the test may have at most, with these limits:
// half of it for what it is and keeps, half for what is asked of it.
const boundedMemory = 384 << 20

func boundedLimits(c *Config, _ *pki.Authority) {
	c.Front.MaxReads, c.Front.MaxWrites, c.Front.MaxLong, c.Front.RequestTimeout = 40, 10, 100, 4*time.Second
}

// boundedServer serves until its standard input ends. It prints the paths of the
// kubeconfigs of an administrator, a user who may do anything but is none, and a
// node.
func boundedServer(t *testing.T) {
	l := listen(t, boundedLimits)
	defer l.stop()
	w := &writing{Server: l.Server, t: t}
	w.must("create", "rbac.authorization.k8s.io/v1/clusterrolebindings", "", "",
		`{"metadata":{"name":"flooder"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"flooder"}]}`)
	w.must("create", "coordination.k8s.io/v1/leases", "kube-node-lease", "", `{"metadata":{"name":"n"},"spec":{"holderIdentity":"n"}}`)
	text := strings.Repeat("x", 8<<10)
	for i := range 1000 {
		w.must("create", "v1/configmaps", "default", "", fmt.Sprintf(`{"metadata":{"name":"m-%d"},"data":{"k":%q}}`, i, text))
	}
	for _, who := range []*rest.Config{l.config, l.as(t, "flooder"), l.as(t, "system:node:n", user.NodesGroup)} {
		l := &listening{Server: l.Server, url: l.url, config: who}
		fmt.Println("kubeconfig", l.kubeconfig(t))
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// bounded starts the server and returns its process and its clients' configurations.
func bounded(t *testing.T) (pid int, admin, flooder, node *rest.Config) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryIsBounded$")
	cmd.Env = append(os.Environ(), boundedEnv+"=1", fmt.Sprintf("GOMEMLIMIT=%d", boundedMemory*3/4))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	t.Cleanup(func() {
		in.Close()
		for lines.Scan() { // until it has ended
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended: %v", err)
		}
	})
	var configs []*rest.Config
	for len(configs) < 3 && lines.Scan() {
		name, ok := strings.CutPrefix(lines.Text(), "kubeconfig ")
		if !ok {
			continue
		}
		config, err := clientcmd.BuildConfigFromFlags("", name)
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, config)
	}
	if len(configs) < 3 {
		t.Fatal("the server did not start")
	}
	return cmd.Process.Pid, configs[0], configs[1], configs[2]
}

// peak is the most memory that a process ever had resident.
func peak(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "VmHWM:")
	var kilobytes int
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil || !ok {
		t.Fatalf("no VmHWM in %s", data)
	}
	return kilobytes << 10
}

// answers counts the answers to requests by what becomes of them.
type answers struct {
	taken, refused, hasty atomic.Int64 // hasty: refused without saying when to come back
}

func (a *answers) count(resp *http.Response) {
	switch {
	case resp.StatusCode != http.StatusTooManyRequests:
		a.taken.Add(1)
	case resp.Header.Get("Retry-After") == "":
		a.hasty.Add(1)
	default:
		a.refused.Add(1)
	}
}

// "Below the configured limits no set of authorised requests can push the server
// over its cap; it answers 429 with Retry-After." Readers who ask for everything and
// take nothing, the largest bodies, and watches without end, all at once. And "health,
// leases and one admin identity always get through".
func TestMemoryIsBounded(t *testing.T) {
	if os.Getenv(boundedEnv) != "" {
		boundedServer(t)
		return
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("skipped: there is no /proc to read a process's memory from")
	}
	pid, admin, flooder, node := bounded(t)
	idle := peak(t, pid)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var lists, writes, watches answers
	var flood sync.WaitGroup
	var open sync.WaitGroup // what stays open until the end
	// ask sends a request over a connection of a client; what is left of the answer
	// is not read before the end.
	ask := func(client *http.Client, a *answers, method, path string, body []byte) {
		req, err := http.NewRequestWithContext(ctx, method, flooder.Host+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return // cut off
		}
		a.count(resp)
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return
		}
		open.Go(func() { <-ctx.Done(); resp.Body.Close() })
	}
	clients := func(n int) (clients []*http.Client) {
		for i := range n {
			config := rest.CopyConfig(flooder)
			config.DisableCompression = true
			config.Dial = (&net.Dialer{Timeout: time.Duration(i+10) * time.Second}).DialContext // no transport is shared
			c, err := rest.HTTPClientFor(config)
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
		}
		return clients
	}(4)
	large := fmt.Appendf(nil, `{"metadata":{"name":"large"},"data":{"k":%q}}`, strings.Repeat("x", maxBody-100))
	for i := range 64 {
		flood.Go(func() { ask(clients[i%4], &lists, "GET", "/api/v1/configmaps", nil) })
	}
	for i := range 60 {
		flood.Go(func() { ask(clients[i%4], &writes, "POST", "/api/v1/namespaces/default/configmaps?dryRun=All", large) })
	}
	for i := range 500 {
		flood.Go(func() { ask(clients[i%4], &watches, "GET", "/api/v1/nodes?watch=true", nil) })
	}
	var slowest time.Duration
	for range 8 { // meanwhile
		for _, c := range []struct {
			who                *rest.Config
			method, path, body string
		}{
			{flooder, "GET", "/readyz", ""},
			{node, "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", ""},
			{node, "PATCH", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", `{"spec":{"leaseDurationSeconds":40}}`},
			{admin, "GET", "/api/v1/namespaces/default/configmaps/m-1", ""},
			{admin, "PATCH", "/api/v1/namespaces/default/configmaps/m-1", `{"data":{"a":"b"}}`},
		} {
			began := time.Now()
			if resp, body := callAs(t, c.who, c.method, c.path, map[string]string{"Content-Type": "application/merge-patch+json"}, c.body); resp.StatusCode != 200 {
				t.Errorf("in the flood, %s %s: %s %s", c.method, c.path, resp.Status, body)
			}
			slowest = max(slowest, time.Since(began))
		}
	}
	flood.Wait()
	most := peak(t, pid)
	end()
	open.Wait()
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	for what, a := range map[string]*answers{"lists": &lists, "large bodies": &writes, "watches": &watches} {
		t.Logf("%s: %d taken, %d refused", what, a.taken.Load(), a.refused.Load())
		if a.taken.Load() == 0 || a.refused.Load() == 0 || a.hasty.Load() > 0 {
			t.Errorf("%s: %d were taken, %d refused, %d of them without Retry-After", what, a.taken.Load(), a.refused.Load()+a.hasty.Load(), a.hasty.Load())
		}
	}
	if n := watches.taken.Load(); n > 100 {
		t.Errorf("%d watches at a time, want 100 at most", n)
	}
	t.Logf("resident: %d MiB before, %d MiB at most; the slowest of what always gets through: %s", idle>>20, most>>20, slowest.Round(time.Millisecond))
	if most > boundedMemory {
		t.Errorf("the server had %d MiB, want %d at most", most>>20, boundedMemory>>20)
	}
}
