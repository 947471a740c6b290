//go:build linux

package proxy

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// BenchmarkTable writes 1,000 services of 10 endpoints: all of them, and one
// whose endpoints change.
func BenchmarkTable(b *testing.B) {
	if _, err := exec.LookPath("nft"); err != nil || os.Geteuid() != 0 {
		b.Skip("needs root and nft")
	}
	all := map[types.NamespacedName]*part{nodePart: partOfNode(knftables.IPv4Family, testNode)}
	many := func(i, endpoints int) *part {
		s := web(func(s *corev1.Service) {
			s.Name = fmt.Sprintf("web-%d", i)
			s.Spec.ClusterIP = fmt.Sprintf("10.128.%d.%d", 1+i/250, 1+i%250)
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		})
		var ips []string
		for e := range endpoints {
			ips = append(ips, fmt.Sprintf("10.64.%d.%d", 1+e, 1+i%250))
		}
		return partOfService(testConfig, knftables.IPv4Family, testNode, s, []*discoveryv1.EndpointSlice{web80(ips...)})
	}
	for i := range 1000 {
		all[types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("web-%d", i)}] = many(i, 10)
	}
	open := func() *table {
		nft, err := knftables.New(knftables.IPv4Family, "skiff-proxy")
		if err != nil {
			b.Fatal(err)
		}
		return newTable(knftables.IPv4Family, nft, testConfig)
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if err := open().write(b.Context(), all); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one", func(b *testing.B) {
		t := open()
		if err := t.write(b.Context(), all); err != nil {
			b.Fatal(err)
		}
		i := 0
		for b.Loop() {
			i++
			if err := t.write(b.Context(), map[types.NamespacedName]*part{{Namespace: "default", Name: "web-7"}: many(7, 9+i%2)}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
