package containerd

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// connect prepares a connection of our own, quick to come back: containerd is down for moments only.
func (r *Runtime) connect() (*grpc.ClientConn, error) {
	quick := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient(r.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return conn, nil
}

// waitForCRI returns containerd's version once its CRI plugin answers. The socket is there a moment before the plugin is.
func waitForCRI(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	client := cri.NewRuntimeServiceClient(conn)
	for {
		v, err := client.Version(ctx, &cri.VersionRequest{Version: "v1"}, grpc.WaitForReady(true))
		if err == nil {
			return v.RuntimeVersion, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ensureSandboxImage puts the image that every sandbox runs into containerd, without a network: over a registry on loopback that is
// there for this one pull.
func (r *Runtime) ensureSandboxImage(ctx context.Context, conn *grpc.ClientConn) error {
	if r.c.Bundled == nil {
		return nil
	}
	client := cri.NewImageServiceClient(conn)
	spec := &cri.ImageSpec{Image: r.c.SandboxImage}
	have, err := client.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err != nil {
		return fmt.Errorf("look for the sandbox image: %w", err)
	}
	if have.Image != nil {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve the sandbox image: %w", err)
	}
	server := &http.Server{Handler: r.c.Bundled, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(listener) }() // ends with Close
	defer func() { server.Close(); <-served }()

	host, _, _ := strings.Cut(r.c.SandboxImage, "/")
	dir := filepath.Join(r.c.RegistryHostsDir, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("serve the sandbox image: %w", err)
	}
	defer os.RemoveAll(dir)
	hosts := fmt.Sprintf("server = %[1]s\n[host.%[1]s]\ncapabilities = [\"pull\", \"resolve\"]\n", quote("http://"+listener.Addr().String()))
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		return fmt.Errorf("serve the sandbox image: %w", err)
	}
	if _, err := client.PullImage(ctx, &cri.PullImageRequest{Image: spec}); err != nil {
		return fmt.Errorf("pull the sandbox image %s: %w", r.c.SandboxImage, err)
	}
	return nil
}
