package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Mirror is a registry that is asked instead of another one.
type Mirror struct {
	For          string // the registry in image references: docker.io, ghcr.io, example.com:5000; "*" means every one without its own
	URL          string // https://mirror.example.com; a path is kept, with /v2 added unless OverridePath
	CAFile       string // "": the system's
	SkipVerify   bool   // the server's certificate is not checked
	OverridePath bool   // URL's path is the API's root as it stands
	PushToo      bool   // false: pulls only
}

// ParseMirror reads HOST=URL, as flags say it: for images of HOST ("*": of every
// registry), URL is asked first.
func ParseMirror(text string) (Mirror, error) {
	host, address, ok := strings.Cut(text, "=")
	u, err := url.Parse(address)
	if !ok || host != "*" && !validHost(host) || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Mirror{}, fmt.Errorf("mirror %q: give HOST=URL, such as docker.io=https://mirror.example.com", text)
	}
	return Mirror{For: host, URL: address}, nil
}

// Hosts says how a node's containerd finds images.
type Hosts struct {
	Dir     string // containerd's config_path
	Cluster string // the cluster's registry as the node reaches it, e.g. http://10.0.0.1:5000; "": none
	CAFile  string // for a Cluster with https
	// Names are the hosts that mean the cluster's registry and nothing else, as in Config.Names: for them no other registry is asked.
	Names   []string
	Mirrors []Mirror // tried in order, after the cluster's registry and before the registry that the reference names
}

// header marks the files that are ours to rewrite and remove. What a user put beside them stays.
const header = "# Written by skiff. Changes are lost.\n"

// clusterDialTimeout bounds how long a pull from elsewhere waits for a cluster registry that is away.
const clusterDialTimeout = "2s"

// WriteHosts writes the hosts.toml files for a node, replacing those of an earlier call. containerd reads them at each pull, so it need not
// be restarted.
func WriteHosts(h Hosts) error {
	files, err := h.files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return fmt.Errorf("write registry hosts: %w", err)
	}
	for dir, content := range files {
		if err := writeHostsFile(filepath.Join(h.Dir, dir), content); err != nil {
			return fmt.Errorf("write registry hosts: %w", err)
		}
	}
	return removeOthers(h.Dir, files)
}

// files makes the content of each hosts.toml, by directory.
func (h Hosts) files() (map[string]string, error) {
	cluster := Mirror{URL: h.Cluster, CAFile: h.CAFile}
	byRegistry := map[string][]Mirror{"*": nil}
	for _, m := range h.Mirrors {
		if m.For == "" {
			return nil, fmt.Errorf("write registry hosts: the mirror %s does not say for which registry it is", m.URL)
		}
		if m.For != "*" && !validHost(m.For) {
			return nil, fmt.Errorf("write registry hosts: %q is no registry", m.For)
		}
		byRegistry[m.For] = append(byRegistry[m.For], m)
	}
	files := map[string]string{}
	for registry, mirrors := range byRegistry {
		if h.Cluster != "" {
			mirrors = append([]Mirror{cluster}, mirrors...)
		}
		if len(mirrors) == 0 {
			continue
		}
		content, err := hostsFile("", mirrors)
		if err != nil {
			return nil, err
		}
		files[hostsDir(registry)] = content
	}
	if h.Cluster != "" {
		for _, name := range h.Names {
			content, err := hostsFile(h.Cluster, []Mirror{cluster})
			if err != nil {
				return nil, err
			}
			files[hostsDir(name)] = content
		}
	}
	return files, nil
}

// hostsDir is where containerd looks for a registry's file. It takes host:port and host_port_; the colon is not for every file system.
func hostsDir(registry string) string {
	if registry == "*" {
		return "_default"
	}
	if i := strings.LastIndex(registry, ":"); i > 0 {
		return registry[:i] + "_" + registry[i+1:] + "_"
	}
	return registry
}

// hostsFile writes one hosts.toml. server is the last resort, "" for the registry that the reference names.
func hostsFile(server string, mirrors []Mirror) (string, error) {
	var b bytes.Buffer
	b.WriteString(header)
	if server != "" {
		fmt.Fprintf(&b, "server = %q\n", server)
	}
	written := map[string]bool{} // a host twice would make containerd ignore the file
	for _, m := range mirrors {
		if written[m.URL] {
			continue
		}
		written[m.URL] = true
		u, err := url.Parse(m.URL)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(m.URL, "\"\\\n") {
			return "", fmt.Errorf("write registry hosts: %q is no http address of a mirror", m.URL)
		}
		fmt.Fprintf(&b, "\n[host.%q]\n", m.URL)
		if m.PushToo {
			b.WriteString("capabilities = [\"pull\", \"resolve\", \"push\"]\n")
		} else {
			b.WriteString("capabilities = [\"pull\", \"resolve\"]\n")
		}
		if m.CAFile != "" {
			fmt.Fprintf(&b, "ca = %q\n", m.CAFile)
		}
		if m.SkipVerify {
			b.WriteString("skip_verify = true\n")
		}
		if m.OverridePath {
			b.WriteString("override_path = true\n")
		}
		if m.For == "" { // the cluster's own
			fmt.Fprintf(&b, "dial_timeout = %q\n", clusterDialTimeout)
		}
	}
	return b.String(), nil
}

func writeHostsFile(dir, content string) error {
	file := filepath.Join(dir, "hosts.toml")
	old, err := os.ReadFile(file)
	if err == nil && string(old) == content {
		return nil
	}
	if err == nil && !bytes.HasPrefix(old, []byte(header)) {
		return fmt.Errorf("%s was written by somebody else: remove it, or give what it says as mirrors", file)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// removeOthers takes away files of ours that are not wanted any more.
func removeOthers(dir string, wanted map[string]string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write registry hosts: %w", err)
	}
	for _, e := range entries {
		if _, ok := wanted[e.Name()]; ok || !e.IsDir() {
			continue
		}
		file := filepath.Join(dir, e.Name(), "hosts.toml")
		old, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(old, []byte(header)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write registry hosts: %w", err)
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("write registry hosts: %w", err)
		}
		if rest, err := os.ReadDir(filepath.Dir(file)); err == nil && len(rest) == 0 {
			if err := os.Remove(filepath.Dir(file)); err != nil {
				return fmt.Errorf("write registry hosts: %w", err)
			}
		}
	}
	return nil
}
