package cri

import (
	"context"
	"encoding/json"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// configuredDriver is the cgroup driver of a runtime that has no RuntimeConfig:
// containerd before 2.0 shows its configuration when it is asked in detail. Empty
// where it does not.
func (r *Runtime) configuredDriver(ctx context.Context) (string, error) {
	a, err := r.rpc.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return "", err
	}
	return driverOf(a.Info["config"]), nil
}

// driverOf reads the configuration of containerd's CRI plugin.
func driverOf(config string) string {
	var c struct {
		Containerd struct {
			Default  string `json:"defaultRuntimeName"`
			Runtimes map[string]struct {
				Options struct{ SystemdCgroup bool }
			}
		}
	}
	if json.Unmarshal([]byte(config), &c) != nil {
		return ""
	}
	used, ok := c.Containerd.Runtimes[c.Containerd.Default]
	switch {
	case !ok:
		return ""
	case used.Options.SystemdCgroup:
		return "systemd"
	}
	return "cgroupfs"
}
