//go:build linux

package podnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The pool meets a twin that only knows which addresses are out.
func TestPoolNeverGivesAnAddressTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.64.1.0/24", "10.64.1.0/28", "10.64.1.0/30", "10.64.1.0/31", "fd00:1::/124"}).Draw(t, "range"))
		p := newPool([]netip.Prefix{r}, nil)
		out := map[string]netip.Addr{}
		room := 0
		for ip := r.Addr().Next().Next(); r.Contains(ip); ip = ip.Next() {
			if !ip.Is4() || r.Contains(ip.Next()) {
				room++
			}
		}
		var last netip.Addr
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(out) > 0 && rapid.Bool().Draw(t, "release") {
				k := rapid.SampledFrom(sortedKeys(out)).Draw(t, "which")
				if a := p.drop(k); a == nil || a.Addresses[0] != out[k] {
					t.Fatalf("drop %s returns %v", k, a)
				}
				delete(out, k)
				continue
			}
			a := &attachment{ContainerID: string(rune('A' + i)), Interface: "eth0"}
			err := p.take(a)
			if (err != nil) != (len(out) == room) {
				t.Fatalf("%d of %d addresses are out, take says %v", len(out), room, err)
			}
			if err != nil {
				continue
			}
			for k, ip := range out {
				if ip == a.Addresses[0] {
					t.Fatalf("%s was given to %s and to %s", ip, k, a.key())
				}
			}
			if !r.Contains(a.Addresses[0]) || a.Addresses[0] == last && len(out) < room-1 {
				t.Fatalf("%s was given, of %s, twice in a row", a.Addresses[0], r)
			}
			out[a.key()], last = a.Addresses[0], a.Addresses[0]
		}
	})
}

func sortedKeys(m map[string]netip.Addr) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func TestAttachmentsSurvive(t *testing.T) {
	dir := t.TempDir()
	p := newPool([]netip.Prefix{netip.MustParsePrefix("10.64.1.0/24"), netip.MustParsePrefix("fd00:1::/64")}, nil)
	a := &attachment{ContainerID: "c1", Interface: "eth0", Netns: "/x"}
	if err := p.take(a); err != nil {
		t.Fatal(err)
	}
	if err := saveAttachment(dir, a); err != nil {
		t.Fatal(err)
	}
	// What a loss of power leaves: an empty file, and one that was being written.
	for _, name := range []string{"c2_eth0.json", ".new-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := loadAttachments(dir)
	if err != nil || len(again) != 1 || !slices.Equal(again[0].Addresses, a.Addresses) {
		t.Fatalf("loaded %v, %v", again, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files are left, want 1", len(left))
	}
}

func TestDisjoint(t *testing.T) {
	var in []netip.Prefix
	for _, s := range strings.Fields("10.64.1.0/24 10.64.0.0/16 10.64.255.0/24 10.63.0.5/24 10.63.0.7/32 10.65.0.0/16 fd00::/8") {
		in = append(in, netip.MustParsePrefix(s))
	}
	var got []string
	for _, p := range disjoint(in, true) {
		got = append(got, p.String())
	}
	if want := "10.63.0.0/24 10.64.0.0/16 10.65.0.0/16"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func FuzzCall(f *testing.F) {
	f.Add([]byte("CNI_COMMAND=ADD\nCNI_CONTAINERID=x\nCNI_IFNAME=eth0\nCNI_NETNS=/n\n\n{}"))
	f.Fuzz(func(t *testing.T, request []byte) {
		c, err := parseCall(request)
		if err == nil && (strings.Contains(c.containerID, "/") || strings.Contains(c.ifName, "/")) {
			t.Errorf("the key %q leaves the state directory", key(c.containerID, c.ifName))
		}
	})
}
