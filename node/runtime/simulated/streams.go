package simulated

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skiff/node/runtime"
)

func (r *Runtime) runningLocked(id string) (*container, error) {
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	c := r.containers[id]
	if c == nil {
		return nil, missing("container", id)
	}
	if c.state != cri.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", id)
	}
	return c, nil
}

func (r *Runtime) ReopenLog(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.runningLocked(id)
	return err
}

// ReadLog shows the line that each container logs at its start.
func (r *Runtime) ReadLog(ctx context.Context, id, _ string, o *logs.LogOptions, stdout, _ io.Writer) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return missing("container", id)
	}
	lines := slices.Clone(c.log)
	r.mu.Unlock()
	lines = slices.DeleteFunc(lines, func(l line) bool { return l.at.Before(o.Since) })
	if o.TailLines != nil {
		lines = lines[max(0, len(lines)-int(*o.TailLines)):]
	}
	var b strings.Builder
	for _, l := range lines {
		if o.Timestamp {
			b.WriteString(l.at.UTC().Format(logs.RFC3339NanoFixed) + " ")
		}
		b.WriteString(l.text + "\n")
	}
	text := b.String()
	if o.LimitBytes != nil {
		text = text[:min(len(text), int(*o.LimitBytes))]
	}
	if stdout != nil {
		if _, err := io.WriteString(stdout, text); err != nil {
			return err
		}
	}
	if o.Follow {
		select {
		case <-c.ended:
		case <-ctx.Done():
		}
	}
	return nil
}

// answer is what a command in a simulated container says.
func answer(name string, command []string) string {
	return fmt.Sprintf("simulated container %s: %s\n", name, strings.Join(command, " "))
}

// ExecSync runs nothing: "true" and all others succeed, "false" fails, "sleep"
// takes its time, and the rest says what it would have run.
func (r *Runtime) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (runtime.ExecResult, error) {
	r.mu.Lock()
	c, err := r.runningLocked(id)
	r.mu.Unlock()
	if err != nil {
		return runtime.ExecResult{}, err
	}
	if len(command) == 0 {
		return runtime.ExecResult{}, status.Error(codes.InvalidArgument, "no command given")
	}
	base := command[0][strings.LastIndexByte(command[0], '/')+1:]
	switch {
	case base == "true":
		return runtime.ExecResult{}, nil
	case base == "false":
		return runtime.ExecResult{Code: 1}, nil
	case base == "sleep" && len(command) == 2:
		d, err := time.ParseDuration(command[1])
		if err != nil {
			d, err = time.ParseDuration(command[1] + "s")
		}
		if err != nil {
			return runtime.ExecResult{Stderr: []byte("sleep: invalid number\n"), Code: 1}, nil
		}
		if timeout > 0 && d > timeout {
			if err := pause(ctx, timeout); err != nil {
				return runtime.ExecResult{}, err
			}
			return runtime.ExecResult{}, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %s", command, timeout)
		}
		return runtime.ExecResult{}, pause(ctx, d)
	}
	return runtime.ExecResult{Stdout: []byte(answer(c.config.Metadata.Name, command))}, nil
}

const streamIdle = 4 * time.Hour

func (r *Runtime) Exec(_ context.Context, req *cri.ExecRequest) (http.Handler, error) {
	r.mu.Lock()
	c, err := r.runningLocked(req.ContainerId)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		o := &remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}
		remotecommand.ServeExec(w, hr, streams{r, c}, "", "", c.id, req.Cmd, o, streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	}), nil
}

func (r *Runtime) Attach(_ context.Context, req *cri.AttachRequest) (http.Handler, error) {
	r.mu.Lock()
	c, err := r.runningLocked(req.ContainerId)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		o := &remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}
		remotecommand.ServeAttach(w, hr, streams{r, c}, "", "", c.id, o, streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	}), nil
}

func (r *Runtime) PortForward(_ context.Context, req *cri.PortForwardRequest) (http.Handler, error) {
	r.mu.Lock()
	s := r.sandboxes[req.PodSandboxId]
	r.mu.Unlock()
	if s == nil || !s.ready {
		return nil, missing("sandbox", req.PodSandboxId)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		portforward.ServePortForward(w, hr, streams{r, nil}, s.config.Metadata.Name, s.config.Metadata.Uid, &portforward.V4Options{Ports: req.Port}, streamIdle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
	}), nil
}

// streams answers in place of processes.
type streams struct {
	r *Runtime
	c *container
}

func (s streams) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if in != nil && out != nil && len(cmd) == 1 && strings.HasSuffix(cmd[0], "cat") {
		_, err := io.Copy(out, in)
		return err
	}
	res, err := s.r.ExecSync(ctx, s.c.id, cmd, timeout)
	if err != nil {
		return err
	}
	if out != nil {
		if _, err := out.Write(res.Stdout); err != nil {
			return err
		}
	}
	if errOut != nil {
		if _, err := errOut.Write(res.Stderr); err != nil {
			return err
		}
	}
	if res.Code != 0 {
		return exit(res.Code)
	}
	return nil
}

// AttachContainer shows nothing, since nothing is written, until the container ends.
func (s streams) AttachContainer(ctx context.Context, _, _, _ string, _ io.Reader, _, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	select {
	case <-s.c.ended:
	case <-ctx.Done():
	}
	return nil
}

// PortForward answers any HTTP request, whatever the port.
func (s streams) PortForward(_ context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	buf := make([]byte, 4096)
	if _, err := stream.Read(buf); err != nil {
		return err
	}
	body := fmt.Sprintf("simulated pod %s, port %d\n", name, port)
	_, err := fmt.Fprintf(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	return err
}

// exit is a command's exit code as the streaming library wants it.
type exit int32

func (e exit) Error() string   { return fmt.Sprintf("command terminated with exit code %d", int32(e)) }
func (e exit) String() string  { return e.Error() }
func (e exit) Exited() bool    { return true }
func (e exit) ExitStatus() int { return int(e) }
