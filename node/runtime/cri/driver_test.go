package cri

import "testing"

func TestDriverOfOlderContainerd(t *testing.T) {
	for config, want := range map[string]string{
		`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":{"SystemdCgroup":true}},"other":{}}}}`: "systemd",
		`{"containerd":{"defaultRuntimeName":"other","runtimes":{"runc":{"options":{"SystemdCgroup":true}},"other":{"options":{}}}}}`:                          "cgroupfs",
		`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":null}}}}`:                                                                    "cgroupfs",
		`{"containerd":{"defaultRuntimeName":"gone","runtimes":{}}}`:                                                                                           "",
		`{}`: "", ``: "", `nonsense`: "",
	} {
		if got := driverOf(config); got != want {
			t.Errorf("driver of %s is %q, want %q", config, got, want)
		}
	}
}
