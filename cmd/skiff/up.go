package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/client"
	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/registry"
)

func upCommand() *cobra.Command {
	var w which
	var nodes int
	var runtime, endpoint string
	var mirrors []string
	var wait time.Duration
	c := &cobra.Command{
		Use: "up", GroupID: "cluster",
		Short: "Start a cluster on this machine, or resume it",
		Long: `Start a cluster on this machine in the background and return when it is ready.
Run again it resumes the same cluster with its data, also after a reboot. kubectl's
current context becomes skiff-NAME.

With the runtime containerd each node has its own network, mounts and containerd;
that needs root. With the runtime simulated nodes only pretend to run pods, and
anybody can start thousands of them. --nodes 0 is a control plane alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return up(ctx, w, newCluster{nodes, runtime, endpoint, mirrors}, cmd.Flags().Changed("nodes"))
		},
	}
	w.flags(c)
	c.Flags().IntVar(&nodes, "nodes", 1, "how many nodes a new cluster has")
	c.Flags().StringVar(&runtime, "runtime", defaultRuntime(), "what runs the pods of a new cluster: containerd or simulated")
	c.Flags().StringVar(&endpoint, "runtime-endpoint", "", "not for local clusters: see `skiff server --runtime-endpoint`")
	c.Flags().StringArrayVar(&mirrors, "registry-mirror", nil, "HOST=URL: a registry that is asked first for images of HOST (docker.io, …; *: every one); may be repeated; kept with the cluster")
	if err := c.Flags().MarkHidden("runtime-endpoint"); err != nil {
		panic(err) // the flag is defined above
	}
	c.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until the cluster is ready")
	return c
}

func defaultRuntime() string {
	if os.Geteuid() == 0 {
		return local.Containerd
	}
	return local.Simulated
}

// steps prints what was done and how long it took.
type steps struct{ began, last time.Time }

func (s *steps) done(format string, args ...any) {
	now := time.Now()
	fmt.Printf("  %-44s %6.2f s\n", fmt.Sprintf(format, args...), now.Sub(s.last).Seconds())
	s.last = now
}

// newCluster is what flags say of a cluster that is to be made. Of one that is there,
// only the mirrors can be changed, while it is stopped.
type newCluster struct {
	nodes             int
	runtime, endpoint string
	mirrors           []string
}

// remirror gives a cluster that is there other mirrors.
func remirror(ctx context.Context, dir string, spec *local.Spec, mirrors []string) error {
	if len(mirrors) == 0 || slices.Equal(mirrors, spec.Mirrors) {
		return nil
	}
	if err := checkMirrors(mirrors); err != nil {
		return err
	}
	if _, err := local.CommandsOf(dir).Status(ctx); !errors.Is(err, local.ErrStopped) {
		return errors.Join(fmt.Errorf("--registry-mirror: cluster %s runs: `skiff stop` it first", spec.Name), exitCode(2))
	}
	spec.Mirrors = mirrors
	return spec.Save(dir)
}

func checkMirrors(mirrors []string) error {
	for _, text := range mirrors {
		if _, err := registry.ParseMirror(text); err != nil {
			return errors.Join(err, exitCode(2))
		}
	}
	return nil
}

func up(ctx context.Context, w which, wanted newCluster, nodesGiven bool) error {
	dir, err := w.path()
	if err != nil {
		return err
	}
	spec, err := local.Load(dir)
	if errors.Is(err, local.ErrNone) {
		if spec, err = create(dir, w.name, wanted); err == nil {
			fmt.Printf("Making cluster %s (%s, %d nodes)\n", spec.Name, spec.Runtime, len(spec.Nodes))
		}
	} else if err == nil {
		fmt.Printf("Resuming cluster %s (%s, %d nodes)\n", spec.Name, spec.Runtime, len(spec.Nodes))
		if nodesGiven && wanted.nodes != len(spec.Nodes) {
			fmt.Fprintf(os.Stderr, "  it keeps its %d nodes: `skiff node add` and `skiff node remove` change that\n", len(spec.Nodes))
		}
	}
	if err == nil {
		err = remirror(ctx, dir, spec, wanted.mirrors)
	}
	if err != nil {
		return err
	}
	if spec.Runtime == local.Containerd && os.Geteuid() != 0 {
		return errors.Join(errors.New("nodes with containers need root: use sudo, or --runtime simulated"), exitCode(2))
	}
	s := &steps{began: time.Now(), last: time.Now()}
	if _, err := local.Launch(ctx, dir); err != nil {
		return err
	}
	s.done("processes started")
	return finishUp(ctx, dir, spec, s)
}

// create records a new cluster.
func create(dir, name string, wanted newCluster) (*local.Spec, error) {
	if wanted.nodes < 0 {
		return nil, errors.Join(fmt.Errorf("--nodes %d: give 0 or more", wanted.nodes), exitCode(2))
	}
	if err := checkMirrors(wanted.mirrors); err != nil {
		return nil, err
	}
	spec, err := local.New(name, wanted.runtime, wanted.nodes)
	if err != nil {
		return nil, err
	}
	if wanted.endpoint != "" {
		return nil, errors.Join(errors.New("--runtime-endpoint: a runtime that is there already cannot make pods in the network and mounts that `skiff up` gives a node of its own: use `skiff server --runtime-endpoint`, whose node is this machine"), exitCode(2))
	}
	spec.RuntimeEndpoint, spec.Mirrors = wanted.endpoint, wanted.mirrors
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return spec, spec.Save(dir)
}

// finishUp waits until the cluster can be used, and hands it to kubectl.
func finishUp(ctx context.Context, dir string, spec *local.Spec, s *steps) error {
	c, access, err := admin(dir)
	if err != nil {
		return err
	}
	if err := local.CommandsOf(dir).Ready(ctx); err != nil {
		return fmt.Errorf("the server does not come up: %w (see `skiff logs --name %s server`)", err, spec.Name)
	}
	s.done("API server ready")
	if err := waitFor(ctx, c, client.Source{Resource: api.For[*corev1.ServiceAccount](), Namespace: "default"}, func(v *client.View) bool {
		_, ok := client.Find[*corev1.ServiceAccount](v, "default", "default")
		return ok
	}); err != nil {
		return fmt.Errorf("the control plane does not come up: %w (see `skiff logs --name %s server`)", err, spec.Name)
	}
	s.done("control plane ready")
	if want := wantedNodes(spec); want > 0 {
		if err := waitFor(ctx, c, client.Source{Resource: api.For[*corev1.Node]()}, func(v *client.View) bool { return readyNodes(v) >= want }); err != nil {
			return fmt.Errorf("the nodes do not become ready: %w (see `kubectl get nodes`, `skiff logs --name %s agent-NODE`)", err, spec.Name)
		}
		s.done("%d nodes ready", want)
	}
	path, err := local.MergeKubeconfig(spec.Name, access)
	if err != nil {
		return err
	}
	if spec.Kubeconfig != path {
		// `skiff down` takes it out of the same file, whoever calls it.
		if spec, err = local.Load(dir); err != nil {
			return err
		}
		spec.Kubeconfig = path
		if err := spec.Save(dir); err != nil {
			return err
		}
	}
	if spec.Runtime == local.Containerd {
		if by, err := local.ForwardingDropped(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "  warning: %v\n", err)
		} else if by != "" {
			fmt.Printf("  the outside: %s\n", relayNote(by))
		}
	}
	fmt.Printf("Cluster %s is ready after %.2f s: kubectl's context is %s (in %s)\n", spec.Name, time.Since(s.began).Seconds(), local.ContextName(spec.Name), path)
	return nil
}

// admin makes a client of the cluster's administrator, with a new certificate.
func admin(dir string) (client.Client, local.Access, error) {
	access, err := cluster.AdminAccess(dir)
	if err != nil {
		return nil, access, err
	}
	c, err := client.NewRemote(&rest.Config{
		Host:            access.Server,
		TLSClientConfig: rest.TLSClientConfig{CAData: access.CA, CertData: access.Certificate, KeyData: access.Key},
	}, "skiff")
	return c, access, err
}

// waitFor follows a source until it looks as wanted.
func waitFor(ctx context.Context, c client.Client, source client.Source, done func(*client.View) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view := client.NewView()
	for batch := range c.Follow(ctx, source).C {
		if view.Apply(batch); done(view) {
			return nil
		}
	}
	return ctx.Err()
}

// wantedNodes is how many nodes should be ready.
func wantedNodes(spec *local.Spec) (n int) {
	for _, node := range spec.Nodes {
		if !node.Stopped {
			n++
		}
	}
	return n
}

// readyNodes counts the nodes that take pods.
func readyNodes(v *client.View) (n int) {
	for node := range client.All[*corev1.Node](v, "") {
		ready := false
		for _, c := range node.Status.Conditions {
			ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}
		for _, t := range node.Spec.Taints {
			ready = ready && t.Key != corev1.TaintNodeNotReady
		}
		if ready {
			n++
		}
	}
	return n
}
