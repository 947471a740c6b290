package apiserver

import (
	"runtime"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/version"
)

// The level of the API that is served. Clients compare it with their own.
const (
	levelMajor = "1"
	levelMinor = "37"
	gitVersion = "v1.37.2+skiff"
)

// Version is what /version says.
func Version() version.Info {
	info := version.Info{
		Major: levelMajor, Minor: levelMinor, GitVersion: gitVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		EmulationMajor: levelMajor, EmulationMinor: levelMinor,
		MinCompatibilityMajor: levelMajor, MinCompatibilityMinor: "36",
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.GitCommit = s.Value
		case "vcs.time":
			info.BuildDate = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				info.GitTreeState = "dirty"
			}
		}
	}
	return info
}
