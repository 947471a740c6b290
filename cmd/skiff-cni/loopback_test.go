//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoopbackIsSetUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root for network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("skipped: needs ip (package iproute2)")
	}
	name := fmt.Sprint("sklo", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	program := filepath.Join(t.TempDir(), "loopback")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, command := range []string{"ADD", "DEL"} {
		cmd := exec.Command(program)
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_NETNS=/run/netns/" + name, "CNI_CONTAINERID=c", "CNI_IFNAME=lo"}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}`)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		if command == "ADD" && !strings.Contains(string(out), `"name":"lo"`) {
			t.Errorf("it answers %s", out)
		}
	}
	if out, err := exec.Command("ip", "-n", name, "link", "show", "lo").CombinedOutput(); err != nil || !strings.Contains(string(out), "LOOPBACK,UP") {
		t.Errorf("lo: %v: %s", err, out)
	}
}
