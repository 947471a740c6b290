package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readHosts(t *testing.T, dir, registry string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, registry, "hosts.toml"))
	if os.IsNotExist(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(string(b), header)
}

func TestWriteHosts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hosts")
	h := Hosts{Dir: dir, Cluster: "http://10.9.0.1:5000", Names: []string{"registry.skiff.local"}, Mirrors: []Mirror{
		{For: "docker.io", URL: "https://mirror.example.com/hub", CAFile: "/etc/ca.pem", SkipVerify: true, OverridePath: true},
		{For: "docker.io", URL: "https://mirror.example.com/hub"}, // a second time: left out
		{For: "example.com:5000", URL: "http://10.1.1.1", PushToo: true},
	}}
	if err := WriteHosts(h); err != nil {
		t.Fatal(err)
	}
	const cluster = `
[host."http://10.9.0.1:5000"]
capabilities = ["pull", "resolve"]
dial_timeout = "2s"
`
	for registry, want := range map[string]string{
		"_default":             cluster,
		"registry.skiff.local": "server = \"http://10.9.0.1:5000\"\n" + cluster,
		"docker.io": cluster + `
[host."https://mirror.example.com/hub"]
capabilities = ["pull", "resolve"]
ca = "/etc/ca.pem"
skip_verify = true
override_path = true
`,
		"example.com_5000_": cluster + "\n[host.\"http://10.1.1.1\"]\ncapabilities = [\"pull\", \"resolve\", \"push\"]\n",
	} {
		if got := readHosts(t, dir, registry); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", registry, got, want)
		}
	}

	// Another call takes back what is not wanted any more, and only what is ours.
	foreign := filepath.Join(dir, "quay.io", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("server = \"https://quay.io\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Mirrors = nil
	if err := WriteHosts(h); err != nil {
		t.Fatal(err)
	}
	if readHosts(t, dir, "docker.io") != "" || readHosts(t, dir, "_default") != cluster || readHosts(t, dir, "quay.io") == "" {
		t.Error("the second call left or took too much")
	}
	if _, err := os.Stat(filepath.Join(dir, "docker.io")); err == nil {
		t.Error("an empty directory is left")
	}
	h.Mirrors = []Mirror{{For: "quay.io", URL: "http://10.1.1.1"}}
	if err := WriteHosts(h); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("a user's file: %v", err)
	}
}

func TestWriteHostsRefuses(t *testing.T) {
	for name, m := range map[string]Mirror{
		"no registry":  {URL: "https://m"},
		"a path":       {For: "../etc", URL: "https://m"},
		"no scheme":    {For: "*", URL: "mirror.example.com"},
		"a quote":      {For: "*", URL: `https://m"]`},
		"another kind": {For: "*", URL: "ftp://m"},
	} {
		if err := WriteHosts(Hosts{Dir: t.TempDir(), Mirrors: []Mirror{m}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	dir := t.TempDir()
	if err := WriteHosts(Hosts{Dir: dir}); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("nothing was asked for, %v was written", left)
	}
}

func TestParseMirror(t *testing.T) {
	for text, want := range map[string]Mirror{
		"docker.io=https://mirror.example.com":     {For: "docker.io", URL: "https://mirror.example.com"},
		"*=http://10.0.0.1:5000/proxy":             {For: "*", URL: "http://10.0.0.1:5000/proxy"},
		"example.com:5000=https://mirror.local/v2": {For: "example.com:5000", URL: "https://mirror.local/v2"},
		"docker.io":                    {},
		"docker.io=mirror.example.com": {},
		"=https://mirror.example.com":  {},
		"docker.io=ftp://mirror":       {},
		"a/b=https://mirror":           {},
	} {
		got, err := ParseMirror(text)
		if got != want || (err == nil) != (want != Mirror{}) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
