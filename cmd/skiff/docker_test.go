package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dockerRules are what Docker leaves on a machine: what is forwarded and is not its
// own is dropped, and bridged packets count as forwarded where br_netfilter is loaded.
const dockerRules = `
table ip filter {
	chain DOCKER-USER { return; }
	chain DOCKER { }
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		jump DOCKER-USER
		oifname "docker0" ct state established,related accept
		oifname "docker0" jump DOCKER
		iifname "docker0" accept
	}
}
`

// dockerMachine makes two network namespaces: a machine with Docker's rules, and the
// outside, which a web server and an echo answer in at 198.51.100.1.
func (s *story) dockerMachine(tools string) {
	s.t.Helper()
	machine, outside := fmt.Sprint("skm", os.Getpid()), fmt.Sprint("sko", os.Getpid())
	page := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(page, "page"), []byte("from outside\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { exec.Command("sh", "-c", "ip netns del "+machine+"; ip netns del "+outside).Run() })
	script := fmt.Sprintf(`set -e
ip netns add %[1]s; ip netns add %[2]s
ip -n %[1]s link set lo up; ip -n %[2]s link set lo up
ip -n %[1]s link add eth0 type veth peer name eth0 netns %[2]s
ip -n %[1]s addr add 198.51.100.2/24 dev eth0; ip -n %[2]s addr add 198.51.100.1/24 dev eth0
ip -n %[1]s link set eth0 up; ip -n %[2]s link set eth0 up
ip -n %[1]s route add default via 198.51.100.1
ip -n %[1]s link add docker0 type bridge; ip -n %[1]s link set docker0 up
nsenter --net=/run/netns/%[1]s sh -c 'echo 1 > /proc/sys/net/ipv4/conf/docker0/forwarding; nft -f -' <<'RULES'
%[3]s
RULES
`, machine, outside, dockerRules)
	if out, err := exec.CommandContext(s.ctx, "bash", "-c", script).CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	for _, server := range [][]string{{"busybox", "httpd", "-f", "-p", "8000", "-h", page}, {tools, "echo", "5300"}} {
		cmd := exec.CommandContext(s.ctx, "nsenter", append([]string{"--net=/run/netns/" + outside}, server...)...)
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	s.prefix = []string{"nsenter", "--net=/run/netns/" + machine}
}

// rules of the machine that are not ours.
func (s *story) rules() string {
	s.t.Helper()
	out, err := s.run("nft", "list", "table", "ip", "filter")
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Docker drops what it does not know: pods reach each other, services and the
// outside nevertheless, and Docker's rules stay as they are.
func TestBesideDocker(t *testing.T) {
	s := newStory(t)
	s.name += "-docker"
	root, tools := s.toolsRoot()
	s.dockerMachine(tools)
	before := s.rules()
	s.end()
	up := s.skiff("up", "--nodes", "2")
	if !strings.Contains(up, "not by ping") || !strings.Contains(up, "table ip filter, chain FORWARD") {
		t.Errorf("`skiff up` does not say what the machine drops:\n%s", up)
	}
	if status := s.skiff("status"); !strings.Contains(status, "not by ping") {
		t.Errorf("`skiff status` does not say what the machine drops:\n%s", status)
	}
	s.skiff("image", "build", "--tag", "tools:v1", "--entrypoint", "/bin/sh", root)
	s.skiff("image", "build", "--tag", "example/web:v1", "../../examples/web")
	s.kubectl("apply", "-f", "../../examples/web.yaml")
	s.kubectl("run", "client", "--image=tools:v1", "--", "-c", "exec sleep 1000")
	s.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	s.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=30s")

	// The outside, by TCP and UDP, from a pod, and from a node itself.
	if out := s.kubectl("exec", "client", "--", "tools", "ask", "-n", "20", "http://198.51.100.1:8000/page"); strings.Count(out, "from outside") != 20 {
		t.Errorf("the outside answered %q", out)
	}
	if out := s.kubectl("exec", "client", "--", "tools", "send", "198.51.100.1:5300", "hello"); !strings.HasSuffix(out, " hello") {
		t.Errorf("the outside echoed %q", out)
	}
	s.kubectl("run", "node", "--image=tools:v1", "--restart=Never", `--overrides={"spec":{"hostNetwork":true}}`, "--", "-c",
		"tools ask http://198.51.100.1:8000/page && tools send 198.51.100.1:5300 hello")
	s.kubectl("wait", "pod/node", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")

	// A connection that nobody takes ends, and does not hang.
	began := time.Now()
	if out, err := s.run(s.kubectlPath, "exec", "client", "--", "tools", "ask", "http://198.51.100.1:9/"); err == nil || time.Since(began) > 4*time.Second {
		t.Errorf("a port where nobody listens: %v after %s: %s", err, time.Since(began), out)
	}

	// Pods of both nodes, through the service, from a pod and from localhost.
	s.kubectl("wait", "service/web", `--for=jsonpath={.metadata.annotations.skiff\.dev/localhost}`, "--timeout=30s")
	localhost := s.kubectl("get", "service", "web", "-o", `jsonpath={.metadata.annotations.skiff\.dev/localhost}`)
	outside, err := s.run(tools, "ask", "-n", "60", "http://"+localhost+"/")
	if err != nil {
		t.Errorf("at %s: %v %s", localhost, err, outside)
	}
	for from, out := range map[string]string{"a pod": s.kubectl("exec", "client", "--", "tools", "ask", "-n", "60", "http://web:8080/"), "localhost": outside} {
		for _, node := range []string{s.name + "-1", s.name + "-2"} {
			if !strings.Contains(out, `"node":"`+node+`"`) {
				t.Errorf("from %s no pod of %s answered", from, node)
			}
		}
	}

	s.skiff("down")
	if after := s.rules(); after != before {
		t.Errorf("Docker's rules were\n%s\nand are\n%s", before, after)
	}
}
