package endpoints

import (
	"fmt"
	"math/rand/v2"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const v4 = discoveryv1.AddressTypeIPv4

func testPacker() packer {
	return packer{
		most: 10, families: []discoveryv1.AddressType{v4},
		empty: func(f discoveryv1.AddressType) *discoveryv1.EndpointSlice {
			return &discoveryv1.EndpointSlice{AddressType: f, ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}}
		},
		mine: func(s *discoveryv1.EndpointSlice) bool { return s.Annotations["stranger"] == "" },
	}
}

func ports(n int32) []discoveryv1.EndpointPort { return []discoveryv1.EndpointPort{{Port: &n}} }

func endpoints(from, to int) (out []discoveryv1.Endpoint) {
	for i := from; i < to; i++ {
		out = append(out, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.%d.%d", i/200, i%200)}})
	}
	return out
}

// state is the slices that there are, by name.
type state map[string]*discoveryv1.EndpointSlice

func (s state) list() (out []*discoveryv1.EndpointSlice) {
	for i := range 1000 {
		if slice := s[fmt.Sprint(i)]; slice != nil {
			out = append(out, slice)
		}
	}
	return out
}

// apply carries a packing out, as the API server would, and counts its writes.
func (s state) apply(t *testing.T, p packing) int {
	t.Helper()
	for _, slice := range p.remove {
		delete(s, slice.Name)
	}
	for _, slice := range p.update {
		if old := s[slice.Name]; old == nil || old.AddressType != slice.AddressType {
			t.Fatalf("updates %q, of another address type or not there", slice.Name)
		}
		s[slice.Name] = slice
	}
	for _, slice := range p.create {
		for i := 0; ; i++ {
			if s[fmt.Sprint(i)] == nil {
				slice.Name = fmt.Sprint(i)
				s[slice.Name] = slice
				break
			}
		}
	}
	return len(p.create) + len(p.update) + len(p.remove)
}

func TestFewSlicesAreTouched(t *testing.T) {
	s, p := state{}, testPacker()
	step := func(what string, want int, groups ...group) {
		t.Helper()
		if got := s.apply(t, p.pack(s.list(), groups)); got != want {
			t.Errorf("%s: %d writes, want %d", what, got, want)
		}
	}
	step("a placeholder where there is nothing", 1)
	step("and it stays", 0)
	step("25 endpoints: the placeholder is written anew, two are created", 3, group{v4, ports(80), endpoints(0, 25)})
	step("no change", 0, group{v4, ports(80), endpoints(0, 25)})
	step("one goes", 1, group{v4, ports(80), endpoints(1, 25)})
	step("one comes: it goes where there is most room taken", 1, group{v4, ports(80), endpoints(1, 26)})
	step("another port: three are written anew", 3, group{v4, ports(81), endpoints(1, 26)})
	step("all go: one is the placeholder, two are removed", 3)
	if len(s) != 1 {
		t.Errorf("%d slices are left", len(s))
	}
}

func TestPackingHoldsExactlyWhatIsWanted(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		s, p := state{}, testPacker()
		for range 10 {
			var want []group
			total := map[string]int{}
			for port := range r.IntN(3) {
				from := r.IntN(40)
				g := group{v4, ports(int32(80 + port)), endpoints(from, from+r.IntN(40))}
				want = append(want, g)
				for i := range g.endpoints {
					total[portsKey(v4, g.ports)+endpointKey(&g.endpoints[i])]++
				}
			}
			s.apply(t, p.pack(s.list(), want))
			for _, slice := range s {
				if len(slice.Endpoints) > p.most {
					t.Fatalf("%d endpoints in a slice", len(slice.Endpoints))
				}
				if len(slice.Endpoints) == 0 && len(s) > 1 {
					t.Fatal("an empty slice beside others")
				}
				for i := range slice.Endpoints {
					total[portsKey(v4, slice.Ports)+endpointKey(&slice.Endpoints[i])]--
				}
			}
			for key, n := range total {
				if n != 0 {
					t.Fatalf("%s is there %d times too few", key, n)
				}
			}
			if again := p.pack(s.list(), want); len(again.create)+len(again.update)+len(again.remove) != 0 {
				t.Fatalf("it does not come to rest: %+v", again)
			}
			if r.IntN(4) == 0 && s["0"] != nil {
				s["0"].Annotations = map[string]string{"stranger": "yes"}
			}
		}
	}
}
