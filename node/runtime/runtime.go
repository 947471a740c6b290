// Package runtime is what the node agent asks of a container runtime. It owns no
// state: its two bodies are runtime/cri, which speaks CRI v1 to containerd or
// CRI-O over a socket, and runtime/simulated, which only pretends and lets one
// process stand for thousands of nodes. Both pass the suite in runtime/runtimetest.
// The messages are CRI's own. Only package node and its subpackages call it; it
// knows nothing of the Kubernetes API.
package runtime

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// Labels by which a sandbox or a container tells whose it is. They are the ones
// that every CRI tool knows.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// ErrNoEvents is returned by Events when the runtime cannot send any (containerd
// before 1.7): the caller must list instead.
var ErrNoEvents = errors.New("the container runtime sends no container events")

// Runtime runs sandboxes and containers. Errors are gRPC status errors, also
// from bodies without gRPC; IsNotFound tests the one that callers care about.
// All methods are safe for concurrent use. Stopping and removing what is not
// there succeeds.
type Runtime interface {
	// Version names the runtime and its version.
	Version(ctx context.Context) (*cri.VersionResponse, error)
	// Status tells whether the runtime and its network are ready, and what it can do.
	Status(ctx context.Context) (*cri.StatusResponse, error)
	// CgroupDriver is "systemd" or "cgroupfs", or empty where the runtime does
	// not say: then the agent's configuration decides.
	CgroupDriver(ctx context.Context) (string, error)

	RunSandbox(ctx context.Context, config *cri.PodSandboxConfig, handler string) (id string, err error)
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error
	SandboxStatus(ctx context.Context, id string) (*cri.PodSandboxStatus, error)
	Sandboxes(ctx context.Context) ([]*cri.PodSandbox, error)

	CreateContainer(ctx context.Context, sandbox string, config *cri.ContainerConfig, sandboxConfig *cri.PodSandboxConfig) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer asks the container to end (SIGTERM or its stop signal) and
	// kills it after grace. It returns when the container has ended.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	ContainerStatus(ctx context.Context, id string) (*cri.ContainerStatus, error)
	Containers(ctx context.Context) ([]*cri.Container, error)
	UpdateContainer(ctx context.Context, id string, resources *cri.LinuxContainerResources) error

	// ReopenLog makes the runtime write to a new file at the container's log path.
	ReopenLog(ctx context.Context, id string) error
	// ReadLog copies a container's log to stdout and stderr (nil: not wanted).
	// path is the log's file, where the runtime writes files; id ends a follow
	// when the container ends.
	ReadLog(ctx context.Context, id, path string, o *logs.LogOptions, stdout, stderr io.Writer) error

	// ExecSync runs a command in a container and waits. timeout 0 means none.
	ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (ExecResult, error)
	// Exec, Attach and PortForward return a handler for one upgraded request.
	Exec(ctx context.Context, r *cri.ExecRequest) (http.Handler, error)
	Attach(ctx context.Context, r *cri.AttachRequest) (http.Handler, error)
	PortForward(ctx context.Context, r *cri.PortForwardRequest) (http.Handler, error)

	// Events calls connected once the stream stands, then on for each event in
	// order, until ctx ends or the stream breaks. What happened before connected
	// may be told or not: list after it.
	Events(ctx context.Context, connected func(), on func(*cri.ContainerEventResponse)) error

	// ImageStatus returns nil when the image is not there.
	ImageStatus(ctx context.Context, image *cri.ImageSpec) (*cri.Image, error)
	PullImage(ctx context.Context, image *cri.ImageSpec, auth *cri.AuthConfig, sandboxConfig *cri.PodSandboxConfig) (ref string, err error)
	Images(ctx context.Context) ([]*cri.Image, error)
	RemoveImage(ctx context.Context, image *cri.ImageSpec) error
	ImageFS(ctx context.Context) (*cri.ImageFsInfoResponse, error)

	// Stats returns the running containers' usage as the runtime counts it.
	Stats(ctx context.Context) ([]*cri.ContainerStats, error)
}

// ExecResult is what a command left. Code is its exit code.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int32
}
