package pod

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# comment\nnameserver 192.0.2.53\nsearch corp.example .\noptions timeout:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := DNS{Servers: []string{"10.96.0.10"}, Domain: "cluster.local", ResolvConf: file}
	two := "2"
	own := &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"my.example"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
	for _, tc := range []struct {
		policy                     corev1.DNSPolicy
		host                       bool
		config                     *corev1.PodDNSConfig
		servers, searches, options string
	}{
		{corev1.DNSClusterFirst, false, nil, "10.96.0.10", "default.svc.cluster.local svc.cluster.local cluster.local corp.example", "ndots:5"},
		{corev1.DNSClusterFirst, true, nil, "192.0.2.53", "corp.example", "timeout:1"},
		{corev1.DNSClusterFirstWithHostNet, true, nil, "10.96.0.10", "default.svc.cluster.local svc.cluster.local cluster.local corp.example", "ndots:5"},
		{corev1.DNSDefault, false, nil, "192.0.2.53", "corp.example", "timeout:1"},
		{corev1.DNSNone, false, own, "1.1.1.1", "my.example", "ndots:2 edns0"},
		{corev1.DNSClusterFirst, false, own, "10.96.0.10 1.1.1.1", "default.svc.cluster.local svc.cluster.local cluster.local corp.example my.example", "ndots:2 edns0"},
	} {
		p := testPod(func(p *corev1.Pod) {
			p.Spec.DNSPolicy, p.Spec.HostNetwork, p.Spec.DNSConfig = tc.policy, tc.host, tc.config
		})
		got, err := d.For(p)
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.Join(got.Servers, " "); s != tc.servers {
			t.Errorf("%s: servers %q, want %q", tc.policy, s, tc.servers)
		}
		if s := strings.Join(got.Searches, " "); s != tc.searches {
			t.Errorf("%s: searches %q, want %q", tc.policy, s, tc.searches)
		}
		if s := strings.Join(got.Options, " "); s != tc.options {
			t.Errorf("%s: options %q, want %q", tc.policy, s, tc.options)
		}
	}
}

func TestHostname(t *testing.T) {
	d := DNS{Domain: "cluster.local"}
	long := strings.Repeat("a", 62) + "-b"
	for _, tc := range []struct {
		change     func(*corev1.Pod)
		name, host string
	}{
		{nil, "p", ""},
		{func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "sub" }, "h", "sub.default.svc.cluster.local"},
		{func(p *corev1.Pod) { p.Name = long }, strings.Repeat("a", 62), ""},
	} {
		if name, domain := d.hostname(testPod(tc.change)); name != tc.name || domain != tc.host {
			t.Errorf("%q %q, want %q %q", name, domain, tc.name, tc.host)
		}
	}
}

func TestHostsFile(t *testing.T) {
	p := testPod(func(p *corev1.Pod) {
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.9.9.9", Hostnames: []string{"a", "b"}}}
	})
	data, err := hostsFile(p, []string{"10.0.0.2"}, "p", "")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for _, want := range []string{"# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "10.0.0.2\tp", "10.9.9.9\ta\tb"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in %q", want, data)
		}
	}
}
