package nodeipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func node(name string, own ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: own}}
	if len(own) > 0 {
		n.Spec.PodCIDR = own[0]
	}
	return n
}

func world(t *testing.T, ranges ...string) *rehearsal.World {
	var rs []Range
	for _, r := range ranges {
		rs = append(rs, Range{Cluster: netip.MustParsePrefix(r)})
	}
	return rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Controller(rs))
}

func given(w *rehearsal.World, name string) string {
	n, _ := client.Find[*corev1.Node](w.View, "", name)
	return strings.Join(n.Spec.PodCIDRs, ",")
}

func TestEachNodeGetsItsOwn(t *testing.T) {
	w := world(t, "10.244.0.0/16", "fd00:1::/56")
	w.Put(node("own", "10.244.1.0/24"))
	w.Put(node("wide", "10.244.4.0/22", "fd00:1:0:2::/64"))
	for i := range 6 {
		w.Put(node(fmt.Sprint("n", i)))
	}
	w.Settle()
	for name, want := range map[string]string{
		"own": "10.244.1.0/24",
		"n0":  "10.244.0.0/24,fd00:1::/64", "n1": "10.244.2.0/24,fd00:1:0:1::/64", "n2": "10.244.3.0/24,fd00:1:0:3::/64",
		"n3": "10.244.8.0/24,fd00:1:0:4::/64", "n5": "10.244.10.0/24,fd00:1:0:6::/64",
	} {
		if got := given(w, name); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	if n, _ := client.Find[*corev1.Node](w.View, "", "n0"); n.Spec.PodCIDR != "10.244.0.0/24" {
		t.Errorf("podCIDR %s", n.Spec.PodCIDR)
	}
}

func TestNoneLeft(t *testing.T) {
	w := world(t, "10.0.0.0/23")
	for _, name := range []string{"a", "b", "c"} {
		w.Put(node(name))
	}
	w.Settle()
	if got := given(w, "a") + given(w, "b") + given(w, "c"); got != "10.0.0.0/2410.0.1.0/24" {
		t.Fatalf("given: %s", got)
	}
	if want := []string{"CIDRNotAvailable Node c status is now: CIDRNotAvailable"}; !slices.Equal(w.Events, want) {
		t.Errorf("events %q", w.Events)
	}
	w.Remove(node("a"))
	w.Settle()
	if got := given(w, "c"); got != "10.0.0.0/24" {
		t.Errorf("c has %q after a has gone", got)
	}
}

func TestNoRangesNoWork(t *testing.T) {
	w := world(t)
	w.Put(node("a"))
	w.Settle()
	if given(w, "a") != "" || len(w.Events) > 0 {
		t.Errorf("%q, %q", given(w, "a"), w.Events)
	}
}
