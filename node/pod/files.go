package pod

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DNS is how the node's pods find names.
type DNS struct {
	Servers []string // of the cluster; none: pods get the node's own
	Domain  string   // "cluster.local"
	// ResolvConf is the node's own file; empty: /etc/resolv.conf.
	ResolvConf string
}

const (
	maxNameservers = 3
	maxSearches    = 32
)

// For makes a pod's resolver configuration from its policy and its own wishes.
func (d DNS) For(p *corev1.Pod) (*cri.DNSConfig, error) {
	out := &cri.DNSConfig{}
	policy := p.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && p.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	cluster := policy == corev1.DNSClusterFirst || policy == corev1.DNSClusterFirstWithHostNet || policy == ""
	if policy != corev1.DNSNone {
		host, err := d.host()
		if err != nil {
			return nil, err
		}
		out = host
		if cluster && len(d.Servers) > 0 {
			out.Servers = slices.Clone(d.Servers)
			out.Options = []string{"ndots:5"}
			if d.Domain != "" {
				own := []string{p.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}
				out.Searches = unique(append(own, out.Searches...))
			}
		}
	}
	if c := p.Spec.DNSConfig; c != nil {
		out.Servers = unique(append(out.Servers, c.Nameservers...))
		out.Searches = unique(append(out.Searches, c.Searches...))
		out.Options = mergeOptions(out.Options, c.Options)
	}
	out.Servers = out.Servers[:min(len(out.Servers), maxNameservers)]
	out.Searches = out.Searches[:min(len(out.Searches), maxSearches)]
	return out, nil
}

func (d DNS) host() (*cri.DNSConfig, error) {
	path := d.ResolvConf
	if path == "" {
		path = "/etc/resolv.conf"
	}
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read the node's resolver configuration: %w", err)
	}
	out := &cri.DNSConfig{}
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			out.Servers = append(out.Servers, f[1])
		case "search":
			out.Searches = f[1:]
		case "options":
			out.Options = append(out.Options, f[1:]...)
		}
	}
	out.Searches = slices.DeleteFunc(slices.Clone(out.Searches), func(s string) bool { return s == "." })
	return out, nil
}

func mergeOptions(have []string, more []corev1.PodDNSConfigOption) []string {
	for _, o := range more {
		have = slices.DeleteFunc(slices.Clone(have), func(h string) bool {
			name, _, _ := strings.Cut(h, ":")
			return name == o.Name
		})
		if o.Value != nil && *o.Value != "" {
			have = append(have, o.Name+":"+*o.Value)
		} else {
			have = append(have, o.Name)
		}
	}
	return have
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// hostname is the pod's host name, and its domain below the cluster's; empty: none.
func (d DNS) hostname(p *corev1.Pod) (name, domain string) {
	if p.Spec.HostnameOverride != nil {
		return *p.Spec.HostnameOverride, ""
	}
	name = p.Spec.Hostname
	if name == "" {
		name = p.Name
		if len(name) > 63 {
			name = strings.TrimRight(name[:63], "-.")
		}
	}
	if p.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", p.Spec.Subdomain, p.Namespace, d.Domain)
	}
	return name, domain
}

const hostsHead = "# Kubernetes-managed hosts file.\n"
const hostsHeadNode = "# Kubernetes-managed hosts file (host network).\n"

// hostsFile is a pod's /etc/hosts.
func hostsFile(p *corev1.Pod, ips []string, name, domain string) ([]byte, error) {
	var b bytes.Buffer
	if p.Spec.HostNetwork {
		b.WriteString(hostsHeadNode)
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("read the node's hosts file: %w", err)
		}
		b.Write(own)
	} else {
		b.WriteString(hostsHead)
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes(), nil
}

// Layout says where a pod's files are. Root "" means that there are none
// (simulated nodes).
type Layout struct {
	Root string // the node's directory
	Logs string // of containers; empty: Root/logs
}

// Pod is the directory of one pod's files.
func (l Layout) Pod(uid string) string { return filepath.Join(l.Root, "pods", uid) }

// PodLogs is the directory of one pod's logs.
func (l Layout) PodLogs(namespace, name, uid string) string {
	root := l.Logs
	if root == "" {
		root = filepath.Join(l.Root, "logs")
	}
	return filepath.Join(root, namespace+"_"+name+"_"+uid)
}

// ContainerLog is the log's path below PodLogs.
func ContainerLog(container string, attempt uint32) string {
	return filepath.Join(container, fmt.Sprintf("%d.log", attempt))
}

func (l Layout) hosts(uid string) string { return filepath.Join(l.Pod(uid), "etc-hosts") }

func (l Layout) termination(uid, container string, attempt uint32) string {
	return filepath.Join(l.Pod(uid), "containers", container, fmt.Sprint(attempt))
}
