package volume

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	if err := os.WriteFile(at("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tc := range []struct {
		path string
		kind corev1.HostPathType
		want string // of the error; empty: none
	}{
		{at("missing"), corev1.HostPathUnset, ""},
		{dir, corev1.HostPathDirectory, ""},
		{at("file"), corev1.HostPathDirectory, "is not a directory"},
		{at("none"), corev1.HostPathDirectory, "is not a directory"},
		{at("made/deep"), corev1.HostPathDirectoryOrCreate, ""},
		{at("file"), corev1.HostPathFile, ""},
		{dir, corev1.HostPathFile, "is not a file"},
		{at("madefile"), corev1.HostPathFileOrCreate, ""},
		{at("file"), corev1.HostPathFileOrCreate, ""},
		{at("socket"), corev1.HostPathSocket, ""},
		{at("file"), corev1.HostPathSocket, "is not a socket file"},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{dir, "Nonsense", "invalid volume type"},
	} {
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind})
		if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s as %q: %v, want %q", tc.path, tc.kind, err, tc.want)
		}
	}
	if info, err := os.Stat(at("made/deep")); err != nil || info.Mode().Perm() != 0o755 {
		t.Error(info, err)
	}
}
