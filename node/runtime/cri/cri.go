// Package cri is the container runtime behind a CRI v1 socket: containerd from
// 1.6 on, or CRI-O. It owns the connection and nothing else; every call is passed
// on as it is. It never retries: callers know what may be done twice.
package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/proxy"
	criapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"skiff/node/runtime"
)

// Config says where the runtime listens.
type Config struct {
	// Endpoint is the CRI socket: "unix:///run/containerd/containerd.sock" or a plain path.
	Endpoint string
	// Timeout of one call that should be quick. 0 means 2 minutes.
	Timeout time.Duration
}

// Runtime is one connection. It reconnects by itself when the runtime restarts.
type Runtime struct {
	conn    *grpc.ClientConn
	rpc     cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	timeout time.Duration
}

var _ runtime.Runtime = (*Runtime)(nil)

// maxMessage bounds a CRI answer: lists of a full node's containers with their annotations.
const maxMessage = 64 << 20

// New prepares the connection; it is made by the first call.
func New(c Config) (*Runtime, error) {
	if c.Endpoint == "" {
		return nil, errors.New("container runtime: no endpoint given")
	}
	target := c.Endpoint
	if strings.HasPrefix(target, "/") {
		target = "unix://" + target
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 3 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("container runtime at %s: %w", c.Endpoint, err)
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	return &Runtime{conn: conn, rpc: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn), timeout: c.Timeout}, nil
}

// Close gives the connection back.
func (r *Runtime) Close() error { return r.conn.Close() }

func (r *Runtime) quick(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, r.timeout)
}

func (r *Runtime) Version(ctx context.Context) (*cri.VersionResponse, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	return r.rpc.Version(ctx, &cri.VersionRequest{Version: "v1"})
}

func (r *Runtime) Status(ctx context.Context) (*cri.StatusResponse, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return nil, err
	}
	if a.Status == nil {
		return nil, status.Error(codes.Internal, "the runtime's status is empty")
	}
	return a, nil
}

func (r *Runtime) CgroupDriver(ctx context.Context) (string, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return r.configuredDriver(ctx)
	case err != nil:
		return "", err
	case a.Linux == nil:
		return "", nil
	case a.Linux.CgroupDriver == cri.CgroupDriver_SYSTEMD:
		return "systemd", nil
	}
	return "cgroupfs", nil
}

func (r *Runtime) RunSandbox(ctx context.Context, config *cri.PodSandboxConfig, handler string) (string, error) {
	// Network set-up may be slow: twice the time of other calls.
	ctx, cancel := context.WithTimeout(ctx, 2*r.timeout)
	defer cancel()
	a, err := r.rpc.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return "", err
	}
	return a.PodSandboxId, nil
}

func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

func (r *Runtime) SandboxStatus(ctx context.Context, id string) (*cri.PodSandboxStatus, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, err
	}
	return a.Status, nil
}

func (r *Runtime) Sandboxes(ctx context.Context) ([]*cri.PodSandbox, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	return a.Items, nil
}

func (r *Runtime) CreateContainer(ctx context.Context, sandbox string, config *cri.ContainerConfig, sandboxConfig *cri.PodSandboxConfig) (string, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		return "", err
	}
	return a.ContainerId, nil
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return err
}

func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+r.timeout)
	defer cancel()
	_, err := r.rpc.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Round(time.Second).Seconds())})
	return ignoreNotFound(err)
}

func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	return ignoreNotFound(err)
}

func (r *Runtime) ContainerStatus(ctx context.Context, id string) (*cri.ContainerStatus, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, err
	}
	return a.Status, nil
}

func (r *Runtime) Containers(ctx context.Context) ([]*cri.Container, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	return a.Containers, nil
}

func (r *Runtime) UpdateContainer(ctx context.Context, id string, resources *cri.LinuxContainerResources) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: resources})
	return err
}

func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.rpc.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
	return err
}

func (r *Runtime) ReadLog(ctx context.Context, id, path string, o *logs.LogOptions, stdout, stderr io.Writer) error {
	return logs.ReadLogs(ctx, path, id, o, statusOnly{r: r}, stdout, stderr)
}

// statusOnly is the part of CRI that the log reader uses: it asks whether a
// followed container still runs.
type statusOnly struct {
	criapi.RuntimeService
	r *Runtime
}

func (s statusOnly) ContainerStatus(ctx context.Context, id string, _ bool) (*cri.ContainerStatusResponse, error) {
	st, err := s.r.ContainerStatus(ctx, id)
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatusResponse{Status: st}, nil
}

func (r *Runtime) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (runtime.ExecResult, error) {
	if timeout > 0 {
		// The runtime enforces the timeout; the call waits a little longer for its answer.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+r.timeout)
		defer cancel()
	}
	seconds := int64((timeout + time.Second - 1) / time.Second)
	a, err := r.rpc.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: seconds})
	if err != nil {
		return runtime.ExecResult{}, err
	}
	return runtime.ExecResult{Stdout: a.Stdout, Stderr: a.Stderr, Code: a.ExitCode}, nil
}

func (r *Runtime) Exec(ctx context.Context, req *cri.ExecRequest) (http.Handler, error) {
	a, err := r.rpc.Exec(ctx, req)
	if err != nil {
		return nil, err
	}
	return streamTo(a.Url)
}

func (r *Runtime) Attach(ctx context.Context, req *cri.AttachRequest) (http.Handler, error) {
	a, err := r.rpc.Attach(ctx, req)
	if err != nil {
		return nil, err
	}
	return streamTo(a.Url)
}

func (r *Runtime) PortForward(ctx context.Context, req *cri.PortForwardRequest) (http.Handler, error) {
	a, err := r.rpc.PortForward(ctx, req)
	if err != nil {
		return nil, err
	}
	return streamTo(a.Url)
}

// streamTo passes an upgraded connection through to the runtime's streaming server.
func streamTo(address string) (http.Handler, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("streaming address %q of the container runtime: %w", address, err)
	}
	return proxy.NewUpgradeAwareHandler(u, nil, false, true, streamError{}), nil
}

type streamError struct{}

func (streamError) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, fmt.Sprintf("connect to the container runtime's streaming server: %v", err), http.StatusInternalServerError)
}

func (r *Runtime) Events(ctx context.Context, connected func(), on func(*cri.ContainerEventResponse)) error {
	stream, err := r.rpc.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return noEvents(err)
	}
	// A runtime that has no events answers Unimplemented at once, with its
	// headers; one that has them may send headers only with the first event.
	connected()
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the container runtime ended the stream of events")
		}
		if err != nil {
			return noEvents(err)
		}
		on(e)
	}
}

func noEvents(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return runtime.ErrNoEvents
	}
	return err
}

func (r *Runtime) ImageStatus(ctx context.Context, image *cri.ImageSpec) (*cri.Image, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image})
	if err != nil {
		return nil, err
	}
	return a.Image, nil
}

func (r *Runtime) PullImage(ctx context.Context, image *cri.ImageSpec, auth *cri.AuthConfig, sandboxConfig *cri.PodSandboxConfig) (string, error) {
	a, err := r.images.PullImage(ctx, &cri.PullImageRequest{Image: image, Auth: auth, SandboxConfig: sandboxConfig})
	if err != nil {
		return "", err
	}
	return a.ImageRef, nil
}

func (r *Runtime) Images(ctx context.Context) ([]*cri.Image, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	return a.Images, nil
}

func (r *Runtime) RemoveImage(ctx context.Context, image *cri.ImageSpec) error {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	_, err := r.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: image})
	return ignoreNotFound(err)
}

func (r *Runtime) ImageFS(ctx context.Context) (*cri.ImageFsInfoResponse, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	return r.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
}

func (r *Runtime) Stats(ctx context.Context) ([]*cri.ContainerStats, error) {
	ctx, cancel := r.quick(ctx)
	defer cancel()
	a, err := r.rpc.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, err
	}
	return a.Stats, nil
}

func ignoreNotFound(err error) error {
	if runtime.IsNotFound(err) {
		return nil
	}
	return err
}
