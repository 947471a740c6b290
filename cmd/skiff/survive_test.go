package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/cluster/local"
)

// crashEnv asks for ten kills of the server instead of three, and for a node that
// is cut off for more than a minute.
const crashEnv = "SKIFF_CRASH"

// killServer kills the server again and again, under writes: what it acknowledged
// is there, the application at address answers meanwhile, and no process of any
// container is touched.
func (s *story) killServer(t *testing.T, address string) {
	kills := 3
	if os.Getenv(crashEnv) != "" {
		kills = 10
	}
	containers, processes := s.containers(), s.processes()
	if len(processes) < 2*len(containers) { // a pause process with each
		t.Fatalf("the test does not see the processes of %v: %v", containers, processes)
	}
	stop := s.writeOn(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range kills {
		server := s.pid("server")
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // a random moment
		if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if w, err := s.get(address); err != nil {
			t.Errorf("kill %d: the application does not answer without the control plane: %v %v", n, w, err)
		}
		s.skiff("up") // waits until the next one is ready
		if again := s.pid("server"); again == server || again == 0 {
			t.Errorf("kill %d: the server was not started again: pid %d, was %d", n, again, server)
		}
	}
	acknowledged := stop()
	there := strings.Fields(s.kubectl("get", "configmaps", "-l", "written", "-o", "jsonpath={.items[*].metadata.name}"))
	for _, name := range acknowledged {
		if !slices.Contains(there, name) {
			t.Errorf("configmap %s was acknowledged, and is lost", name)
		}
	}
	t.Logf("%d kills (seed %d): %d acknowledged writes are there", kills, seed, len(acknowledged))
	if now := s.containers(); !slices.Equal(now, containers) {
		t.Errorf("containers %v, were %v", now, containers)
	}
	if now := s.processes(); !maps.Equal(now, processes) {
		t.Errorf("processes of containers %v, were %v", now, processes)
	}
	// In one request: kubectl by itself would delete each of the thousands in one of its own.
	s.kubectl("delete", "--raw", "/api/v1/namespaces/default/configmaps?labelSelector=written")
}

// writeOn creates config maps, whatever becomes of the server, until stop is
// called, which returns the names of those that were acknowledged.
func (s *story) writeOn(t *testing.T) (stop func() []string) {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	var mu sync.Mutex
	var names []string
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("written-%d-%d", w, n), Labels: map[string]string{"written": ""}}}
				if _, err := clientset.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
					select { // it is down: a moment later it may be up
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond):
					}
					continue
				}
				mu.Lock()
				names = append(names, cm.Name)
				mu.Unlock()
				time.Sleep(5 * time.Millisecond) // a few hundred writes a second are enough to meet every kill
			}
		})
	}
	t.Cleanup(cancel)
	return func() []string {
		cancel()
		writers.Wait()
		return names
	}
}

// processOf is a process of a container: whose, and when it was started (in the
// kernel's ticks), by which it is told from a later one of its number.
type processOf struct{ pod, started string }

var podGroup = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f_-]{27})`)

// processes are those of all containers of the cluster, by process id, as the
// kernel knows them.
func (s *story) processes() map[int]processOf {
	s.t.Helper()
	all := map[int]processOf{}
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} { // cgroup v1, v2
		err := filepath.WalkDir(filepath.Join(root, "skiff", s.name), func(path string, d fs.DirEntry, err error) error {
			group := podGroup.FindStringSubmatch(path)
			if err != nil || group == nil || d.Name() != "cgroup.procs" {
				return nil // what is gone meanwhile is not ours to look at
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			for _, text := range strings.Fields(string(data)) {
				pid, err := strconv.Atoi(text)
				if err != nil {
					return err
				}
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err != nil {
					continue
				}
				_, after, _ := strings.Cut(string(stat), ") ")
				all[pid] = processOf{strings.ReplaceAll(group[1], "_", "-"), strings.Fields(after)[19]}
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(all) > 0 {
			break
		}
	}
	return all
}

// leaving are applications that leave a lost node after a second: one whose pods
// are all alike, one whose pods have names.
const leaving = `
apiVersion: apps/v1
kind: %s
metadata: {name: %s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: %[2]s}}}
      containers:
      - {name: web, image: "example/web:v1", ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}}
`

// cutNode pulls the plug of the second node, for as long as it takes until its
// pods come up elsewhere, and plugs it in again: then the old ones end.
func (s *story) cutNode(t *testing.T) {
	spec, err := local.Load(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	node := spec.Nodes[1]
	s.kubectlInput(fmt.Sprintf(leaving, "Deployment", "alike"), "apply", "-f", "-")
	s.kubectlInput(fmt.Sprintf(leaving, "StatefulSet", "named"), "apply", "-f", "-")
	s.kubectl("rollout", "status", "deployment/alike", "--timeout=60s")
	s.kubectl("rollout", "status", "statefulset/named", "--timeout=60s")
	on := func(app, field string) string {
		return s.kubectl("get", "pods", "-l", "app="+app, "--field-selector", "spec.nodeName="+node.Name, "-o", "jsonpath={.items[0].metadata."+field+"}")
	}
	alike, alikeUID, named, namedUID := on("alike", "name"), on("alike", "uid"), on("named", "name"), on("named", "uid")
	containers, processes := s.containers(), s.processes()
	of := func(uid string) (n int) {
		for pid, p := range s.processes() {
			if p.pod == uid && p == processes[pid] {
				n++
			}
		}
		return n
	}

	bridge := local.Dirs(s.dir).Namespaces(".bridge") // the nodes' switch: at its end the cable is pulled
	plug := func(state string) {
		t.Helper()
		cmd := exec.CommandContext(s.ctx, "ip", "link", "set", fmt.Sprint("node-", node.Number), state)
		if err := bridge.RunIn(cmd, func() {}); err != nil {
			t.Fatalf("set the link of %s %s: %v", node.Name, state, err)
		}
	}
	plug("down")
	s.kubectl("wait", "node/"+node.Name, "--for=condition=Ready=Unknown", "--timeout=90s")
	s.kubectl("wait", "pod/"+alike, `--for=jsonpath={.metadata.deletionTimestamp}`, "--timeout=30s")
	s.kubectl("rollout", "status", "deployment/alike", "--timeout=60s")
	if out := s.kubectl("get", "pod", named, "-o", "jsonpath={.metadata.uid} {.metadata.deletionTimestamp}"); !strings.HasPrefix(out, namedUID+" 2") {
		t.Errorf("%s is %q, want %s, being deleted: it may still run on the lost node", named, out, namedUID)
	}
	if of(alikeUID) == 0 || of(namedUID) == 0 {
		t.Errorf("the pods on the lost node ended, though nobody could tell them to: %v", s.processes())
	}

	plug("up")
	s.kubectl("wait", "node/"+node.Name, "--for=condition=Ready=True", "--timeout=60s")
	s.kubectl("wait", "pod/"+alike, "--for=delete", "--timeout=60s")
	s.kubectl("rollout", "status", "statefulset/named", "--timeout=60s")
	if uid := s.kubectl("get", "pod", named, "-o", "jsonpath={.metadata.uid}"); uid == namedUID {
		t.Errorf("%s is the old one", named)
	}
	if n := of(alikeUID) + of(namedUID); n > 0 {
		t.Errorf("%d processes of the old pods still run on the node that returned", n)
	}
	// Who has more patience than that was not touched, and answers again.
	if now := s.containers(); !slices.Equal(now, containers) {
		t.Errorf("containers %v, were %v", now, containers)
	}
	s.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	s.kubectl("delete", "deployment/alike", "statefulset/named", "--timeout=60s")
}
