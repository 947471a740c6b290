package images

import (
	"slices"
	"testing"

	imageutils "k8s.io/kubernetes/test/utils/image"
)

func TestLibraries(t *testing.T) {
	depends := `curl
  Depends: libc6
  Depends: libcurl4
  Depends: zlib1g
libc6
  Depends: libgcc-s1
libcap2-bin
libcurl4
libgcc-s1
 |Depends: cdebconf
<debconf-2.0>
zlib1g
bind9-libs
debconf
`
	want := []string{"bind9-libs", "curl", "libc6", "libcurl4", "libgcc-s1", "zlib1g"}
	if got := libraries(depends, []string{"curl"}); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Two rows with one name would give a node two images under it.
func TestRows(t *testing.T) {
	seen := map[imageutils.ImageID]bool{}
	for _, r := range rows {
		if seen[r.id] {
			t.Errorf("two rows make %s", name(r.id))
		}
		seen[r.id] = true
	}
}
