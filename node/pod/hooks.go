package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cri-client/pkg/logs"

	"skiff/node/probe"
	"skiff/node/runtime"
)

// hook runs a postStart or preStop handler to its end, or to ctx's.
func (m *Manager) hook(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, s Sandbox, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		r, err := m.c.Runtime.ExecSync(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %s", h.Exec.Command, c.Name, podID(p), runtime.Message(err))
		}
		if r.Code != 0 {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: command '%s' exited with %d: %s, message: %q",
				h.Exec.Command, c.Name, podID(p), strings.Join(h.Exec.Command, " "), r.Code, r.Stderr, string(r.Stdout)+string(r.Stderr))
		}
		return nil
	case h.HTTPGet != nil:
		return m.httpHook(ctx, p, c, s, h.HTTPGet)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case h.TCPSocket != nil:
		return errors.New("TCPSocket lifecycle hooks are not run; use exec or httpGet")
	}
	return fmt.Errorf("Invalid handler: %v", h)
}

func podID(p *corev1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }

// hookClient never reuses a connection: a hook is rare, and its pod short-lived.
var hookClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, TLSClientConfig: probe.InsecureTLS()}}

func (m *Manager) httpHook(ctx context.Context, p *corev1.Pod, c *corev1.Container, s Sandbox, h *corev1.HTTPGetAction) error {
	host := h.Host
	if host == "" {
		host = first(m.facts(p, s).PodIPs)
	}
	port, err := probe.Port(h.Port, c)
	if err != nil {
		if h.Port.Type == intstr.String && h.Port.StrVal == "" {
			port = 80
		} else {
			return err
		}
	}
	req, err := probe.HTTPRequest(h, net.JoinHostPort(host, strconv.Itoa(port)), "kube-lifecycle/1.37")
	if err != nil {
		return err
	}
	resp, err := hookClient.Do(req.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %w", h.Path, c.Name, podID(p), err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 10<<10)
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: HTTP probe failed with statuscode: %d", h.Path, c.Name, podID(p), resp.StatusCode)
	}
	return nil
}

// terminationFile makes the file into which a container writes why it ended.
func (m *Manager) terminationFile(r containerRequest) (string, error) {
	path := m.c.Layout.termination(string(r.pod.UID), r.spec.Name, r.attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make the container's directory: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("make the termination message file: %w", err)
	}
	defer f.Close()
	// Any user in the container may write it.
	if err := f.Chmod(0o666); err != nil {
		return "", fmt.Errorf("make the termination message file: %w", err)
	}
	return path, nil
}

const (
	maxTerminationMessage = 4096
	maxMessageFromLog     = 2048
	linesFromLog          = 80
)

// endMessage fills in why a container ended, from its file or from its log's end.
func (m *Manager) endMessage(p *corev1.Pod, c *corev1.Container, run *Run) {
	if c.TerminationMessagePath == "" || run.Running || m.c.Layout.Root == "" {
		return
	}
	data, err := readHead(m.c.Layout.termination(string(p.UID), c.Name, run.Attempt), maxTerminationMessage)
	if err != nil && !os.IsNotExist(err) {
		run.Message = fmt.Sprintf("Error reading termination log: %v", err)
		return
	}
	if len(data) > 0 {
		run.Message = string(data)
		return
	}
	if c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && run.ExitCode != 0 {
		var b strings.Builder
		lines := int64(linesFromLog)
		o := &logs.LogOptions{TailLines: &lines}
		if err := m.c.Runtime.ReadLog(m.ctx, run.ID, run.LogPath, o, &b, &b); err == nil {
			s := b.String()
			run.Message = s[max(0, len(s)-maxMessageFromLog):]
		}
	}
}

func readHead(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
