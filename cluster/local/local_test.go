package local

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestBlocksAreDisjoint(t *testing.T) {
	var seen []netip.Prefix
	for i := range blocks {
		for _, r := range RangesOf(i).All() {
			for _, other := range seen {
				if r.Overlaps(other) {
					t.Fatalf("%s of block %d overlaps %s", r, i, other)
				}
			}
			seen = append(seen, r)
		}
	}
	r := RangesOf(3)
	if r.Host().String() != "10.63.3.1" || r.Node(1).String() != "10.63.3.2" || r.PodsOf(2).String() != "10.67.2.0/24" || r.DNS().String() != "10.131.0.10" {
		t.Errorf("addresses of block 3: %s %s %s %s", r.Host(), r.Node(1), r.PodsOf(2), r.DNS())
	}
}

func TestNodesKeepTheirNumbers(t *testing.T) {
	s := &Spec{Name: "c"}
	for range 3 {
		if _, err := s.AddNode(""); err != nil {
			t.Fatal(err)
		}
	}
	s.Nodes = append(s.Nodes[:1], s.Nodes[2:]...) // c-2 is removed
	n, err := s.AddNode("extra")
	if err != nil || n.Number != 2 {
		t.Errorf("the new node is %+v, %v; want the free number 2", n, err)
	}
	if _, err := s.AddNode("extra"); err == nil {
		t.Error("two nodes of one name")
	}
	if _, err := s.AddNode("Not Good"); err == nil {
		t.Error("a node with a name that is none")
	}
}

func TestASpecIsKeptAndANewerOneRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, ErrNone) {
		t.Errorf("no cluster: %v", err)
	}
	s := &Spec{Version: specVersion, Name: "c", Runtime: Simulated, Block: 4, APIPort: 1234}
	s.AddNode("")
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil || got.Block != 4 || got.APIPort != 1234 || got.Find("c-1") == nil {
		t.Errorf("%+v, %v", got, err)
	}
	s.Version = specVersion + 1
	s.Save(dir)
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "newer skiff") {
		t.Errorf("a newer version: %v", err)
	}
}

func TestKubeconfigIsMergedAndTakenOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "config")
	t.Setenv("KUBECONFIG", path)
	t.Setenv("SUDO_USER", "")
	if err := RemoveKubeconfig("a", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("taking out of no kubeconfig made one")
	}
	for _, name := range []string{"a", "b"} {
		if _, err := MergeKubeconfig(name, Access{Server: "https://127.0.0.1:1", CA: []byte("ca")}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := clientcmd.LoadFromFile(path)
	if err != nil || len(c.Contexts) != 2 || c.CurrentContext != "skiff-b" {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := RemoveKubeconfig("b", path); err != nil {
		t.Fatal(err)
	}
	c, _ = clientcmd.LoadFromFile(path)
	if len(c.Contexts) != 1 || len(c.Clusters) != 1 || len(c.AuthInfos) != 1 || c.CurrentContext != "" {
		t.Errorf("after taking b out: %+v", c)
	}
	info, _ := os.Stat(path)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 600: it holds a key", info.Mode())
	}
}
