package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/conformance/upstream"
)

// side is a control plane that runs.
type side struct {
	admin           *rest.Config
	pids            []int // all of its processes that serve
	apiReady, ready time.Duration
	stop            func() error
}

func startUpstream(ctx context.Context, root, dir string) (*side, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	plane, err := upstream.Start(ctx, upstream.Config{Bin: filepath.Join(root, "bin", "upstream"), Dir: dir})
	if err != nil {
		return nil, err
	}
	s := &side{apiReady: plane.APIReady, ready: plane.Ready, stop: func() error { plane.Stop(); return nil }}
	for _, p := range plane.Processes() {
		s.pids = append(s.pids, p.PID())
	}
	if s.admin, err = plane.Admin(); err != nil {
		plane.Stop()
		return nil, err
	}
	return s, nil
}

// skiffCommand runs a command of bin/skiff for the cluster in dir.
type skiffCommand struct{ root, dir, name string }

func (c skiffCommand) run(ctx context.Context, args ...string) ([]byte, error) {
	args = append(args, "--name", c.name, "--data-dir", filepath.Join(c.dir, "data"))
	cmd := exec.CommandContext(ctx, filepath.Join(c.root, "bin", "skiff"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(c.dir, "kubeconfig"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("skiff %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func startSkiff(ctx context.Context, root, dir string) (*side, error) {
	return up(ctx, skiffCommand{root, dir, "compare-" + strconv.Itoa(os.Getpid())}, 0)
}

// up starts a cluster of n nodes.
func up(ctx context.Context, c skiffCommand, n int) (s *side, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	down := func() error {
		// Also after an interrupt: nothing may stay.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, err := c.run(ctx, "down")
		return err
	}
	defer func() {
		if err != nil {
			_ = down() // the first error tells more
		}
	}()
	said, err := c.run(ctx, "up", "--nodes", strconv.Itoa(n))
	if err != nil {
		return nil, err
	}
	s = &side{stop: down}
	// The steps follow one another from the moment at which the command was called.
	for _, step := range stepLine.FindAllSubmatch(said, -1) {
		seconds, err := strconv.ParseFloat(string(step[2]), 64)
		if err != nil {
			return nil, err
		}
		s.ready += time.Duration(seconds * float64(time.Second))
		if string(step[1]) == "API server ready" {
			s.apiReady = s.ready
		}
		if string(step[1]) == "control plane ready" {
			break
		}
	}
	if s.pids, err = c.pids(ctx, "server"); err != nil {
		return nil, err
	}
	s.admin, err = clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "kubeconfig"))
	return s, err
}

var stepLine = regexp.MustCompile(`(?m)^ +(\S.*?) +([0-9.]+) s$`)

// pids finds the cluster's processes of that name.
func (c skiffCommand) pids(ctx context.Context, name string) (pids []int, err error) {
	said, err := c.run(ctx, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Processes []struct {
			Name string `json:"name"`
			PID  int    `json:"pid"`
		} `json:"processes"`
	}
	if err := json.Unmarshal(said, &status); err != nil {
		return nil, fmt.Errorf("skiff status: %w", err)
	}
	for _, p := range status.Processes {
		if p.Name == name {
			pids = append(pids, p.PID)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("skiff status: there is no process %s in %s", name, said)
	}
	return pids, nil
}
