package local

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root for network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: needs nft (package nftables)")
	}
}

// leftovers lists what the machine has of this network: other tests may run beside
// this one, so only what bears its names and addresses counts.
func leftovers(t *testing.T, h HostNetwork, dir string) (lines []string) {
	t.Helper()
	marks := []string{h.id, dir}
	for _, p := range h.ranges.All() {
		marks = append(marks, strings.TrimSuffix(p.Addr().String(), "0.0")+"0.", p.String())
	}
	for _, command := range []string{"ip -br link", "ip -4 route show table all", "nft list tables", "cat /proc/self/mounts"} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func TestNodesReachEachOtherAndNothingIsLeftBehind(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	block, err := freeBlock()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := hostNetworkOf(dir, RangesOf(block))
	t.Cleanup(func() {
		h.Remove(ctx)
		for _, name := range []string{"one", "two"} {
			namespacesOf(dir, name).Remove()
		}
	})
	for range 2 { // a second time completes what is there
		if err := h.Create(ctx); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"one", "two"} {
			ns := namespacesOf(dir, name)
			if err := ns.Create(); err != nil {
				t.Fatal(err)
			}
			if err := h.Attach(Node{Name: name, Number: i + 1}, ns); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(leftovers(t, h, dir)) < 8 {
		t.Error("the test does not see what it looks for") // bridge, interfaces, routes, table, mounts
	}
	one := namespacesOf(dir, "one")
	try := func(command string) (string, error) {
		var out []byte
		err := one.In(func() (err error) {
			out, err = exec.Command("sh", "-c", command).CombinedOutput()
			return err
		})
		return string(out), err
	}
	for _, to := range []string{h.ranges.Node(2).String(), h.ranges.Host().String()} {
		if out, err := try("bash -c 'exec 3<>/dev/tcp/" + to + "/9' 2>&1"); !strings.Contains(out, "refused") {
			t.Errorf("node one does not reach %s: %v %s", to, err, out)
		}
	}
	for _, p := range h.ranges.All()[1:] {
		if out, _ := try("ip route get " + p.Addr().Next().String() + " 2>&1"); !strings.Contains(out, "unreachable") && !strings.Contains(out, "No route to host") {
			t.Errorf("a packet for %s would leave: %s", p, out)
		}
	}
	for i, name := range []string{"one", "two"} {
		if err := h.Detach(Node{Name: name, Number: i + 1}); err != nil {
			t.Error(err)
		}
		if err := namespacesOf(dir, name).Remove(); err != nil {
			t.Error(err)
		}
	}
	if err := h.Remove(ctx); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, h, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
