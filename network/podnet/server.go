//go:build linux

package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// CNI's error codes.
const (
	codeBadEnvironment = 4
	codeBadInput       = 6
	codeBadConfig      = 7
	codeTryAgain       = 11
	codeUnavailable    = 50
	codeOther          = 100
)

const (
	largestRequest  = 4 << 20 // prevResult and the list of a GC are in it
	exchangeTimeout = 50 * time.Second
)

// listen takes over the socket of an earlier run. Only root may ask.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the pod network's socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the pod network's old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the CNI program: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the pod network's socket: %w", err), l.Close())
	}
	return l, nil
}

// serve answers until ctx ends, and then waits for what it has begun.
func (n *Network) serve(ctx context.Context, l *net.UnixListener) {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.log.Error("cannot take CNI requests", "error", err)
			time.Sleep(100 * time.Millisecond) // out of file descriptors, most likely
			continue
		}
		running.Go(func() {
			defer conn.Close()
			// What has begun is carried through when the agent stops: half a pod
			// network is worse than a slow end.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exchangeTimeout)
			defer cancel()
			deadline, _ := ctx.Deadline()
			if err := conn.SetDeadline(deadline); err != nil {
				return
			}
			if err := n.exchange(ctx, conn); err != nil {
				n.log.Debug("CNI exchange broke off", "error", err)
			}
		})
	}
}

func (n *Network) exchange(ctx context.Context, conn net.Conn) error {
	request, err := io.ReadAll(io.LimitReader(conn, largestRequest))
	if err != nil {
		return err
	}
	answer := n.answer(ctx, request)
	_, err = conn.Write(answer)
	return err
}

// answer is the exit code and the output for a request of the CNI program.
func (n *Network) answer(ctx context.Context, request []byte) []byte {
	call, err := parseCall(request)
	var result any
	if err == nil {
		result, err = n.do(ctx, call)
	}
	if err != nil {
		n.log.Warn("CNI request refused", "command", call.command, "container", call.containerID, "error", err)
		failure := &types.Error{}
		if !errors.As(err, &failure) {
			failure = types.NewError(codeOther, err.Error(), "")
		}
		return output(1, map[string]any{"cniVersion": call.conf.CNIVersion, "code": failure.Code, "msg": failure.Msg})
	}
	if result == nil {
		return []byte{0}
	}
	return output(0, result)
}

func output(code byte, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return append([]byte{1}, fmt.Sprintf(`{"code":%d,"msg":"the result cannot be encoded"}`, codeOther)...)
	}
	return append(append([]byte{code}, data...), '\n')
}

// call is one request of a container runtime.
type call struct {
	command, containerID, netns, ifName string
	pod                                 string // namespace/name, if the runtime says so
	conf                                conf
}

// conf is what the runtime hands over as configuration.
type conf struct {
	CNIVersion    string `json:"cniVersion"`
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
	ValidAttachments []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
}

func parseCall(request []byte) (call, error) {
	c := call{conf: conf{CNIVersion: "1.0.0"}}
	head, body, found := bytes.Cut(request, []byte("\n\n"))
	if !found {
		return c, types.NewError(codeBadInput, "the request has no environment", "")
	}
	env := map[string]string{}
	for _, line := range strings.Split(string(head), "\n") {
		name, value, _ := strings.Cut(line, "=")
		env[name] = value
	}
	c.command, c.containerID, c.netns, c.ifName = env["CNI_COMMAND"], env["CNI_CONTAINERID"], env["CNI_NETNS"], env["CNI_IFNAME"]
	args := map[string]string{}
	for _, arg := range strings.Split(env["CNI_ARGS"], ";") {
		name, value, _ := strings.Cut(arg, "=")
		args[name] = value
	}
	if args["K8S_POD_NAME"] != "" {
		c.pod = args["K8S_POD_NAMESPACE"] + "/" + args["K8S_POD_NAME"]
	}
	if err := json.Unmarshal(body, &c.conf); err != nil {
		return c, types.NewError(codeBadInput, "decode the network configuration: "+err.Error(), "")
	}
	if c.conf.CNIVersion == "" {
		c.conf.CNIVersion = "1.0.0"
	}
	return c, c.check()
}

// check refuses names that could not be those of a sandbox: they become names of files.
func (c call) check() error {
	switch c.command {
	case "ADD", "DEL", "CHECK":
		if c.containerID == "" || len(c.containerID) > 200 || strings.ContainsAny(c.containerID, "/\x00 ") || c.containerID[0] == '.' {
			return types.NewError(codeBadEnvironment, "CNI_CONTAINERID is missing or invalid", "")
		}
		if c.ifName == "" || len(c.ifName) > 15 || strings.ContainsAny(c.ifName, "/: \x00") || c.ifName == "." || c.ifName == ".." {
			return types.NewError(codeBadEnvironment, "CNI_IFNAME is missing or invalid", "")
		}
		if c.command != "DEL" && c.netns == "" {
			return types.NewError(codeBadEnvironment, "CNI_NETNS is missing", "")
		}
	case "STATUS", "GC":
	default:
		return types.NewError(codeBadEnvironment, fmt.Sprintf("CNI_COMMAND %q is not known", c.command), "")
	}
	return nil
}

// do carries out a call. A nil result means that there is nothing to print.
func (n *Network) do(ctx context.Context, c call) (any, error) {
	switch c.command {
	case "ADD":
		result, err := n.attach(ctx, c)
		if err != nil {
			return nil, err
		}
		shown, err := result.GetAsVersion(c.conf.CNIVersion)
		if err != nil {
			return nil, types.NewError(1, err.Error(), "")
		}
		return shown, nil
	case "DEL":
		return nil, n.detach(ctx, key(c.containerID, c.ifName), hostName(c.containerID, c.ifName))
	case "CHECK":
		return nil, n.checkAttachment(c)
	case "GC":
		valid := map[string]bool{}
		for _, a := range c.conf.ValidAttachments {
			valid[key(a.ContainerID, a.IfName)] = true
		}
		return nil, n.keepOnly(ctx, valid)
	default: // STATUS: parseCall lets nothing else through
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.pool.ranges) == 0 {
			return nil, types.NewError(codeUnavailable, errNoRange.Error(), "")
		}
		return nil, nil
	}
}

// writeConf writes the CNI configuration, which tells the runtime that the pod
// network is ready.
func (n *Network) writeConf() error {
	if n.c.ConfDir == "" {
		return nil
	}
	list := map[string]any{
		"cniVersion": n.c.CNIVersion,
		"name":       n.c.Prefix,
		"plugins": []any{map[string]any{
			"type":         n.c.Plugin,
			"socket":       n.c.Socket,
			"capabilities": map[string]bool{"portMappings": true},
		}},
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the CNI configuration: %w", err)
	}
	if err := os.MkdirAll(n.c.ConfDir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the CNI configuration: %w", err)
	}
	return replaceFile(filepath.Join(n.c.ConfDir, n.c.ConfFile), append(data, '\n'), 0o644)
}

// keyLocks lets one call at a time work on an attachment: a runtime that gave up
// on an ADD may send the DEL while the ADD still runs.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock // guarded by mu; those in use
}

type keyLock struct {
	sync.Mutex
	users int // guarded by keyLocks.mu
}

// lock returns the unlock.
func (k *keyLocks) lock(key string) func() {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
