package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"skiff/cluster/local"
)

// clusterStatus is what `skiff status -o json` prints.
type clusterStatus struct {
	Name       string                `json:"name"`
	Running    bool                  `json:"running"`
	Server     string                `json:"server"`
	Kubeconfig string                `json:"kubeconfig"`
	Context    string                `json:"context"`
	DataDir    string                `json:"dataDir"`
	Runtime    string                `json:"runtime"`
	Version    string                `json:"version"`
	Supervisor int                   `json:"supervisorPID,omitempty"`
	Nodes      []nodeStatus          `json:"nodes"`
	Processes  []local.ProcessStatus `json:"processes"`
	Registry   string                `json:"registry,omitempty"`
	// Relayed says whose rules drop what is forwarded: the pods' TCP and UDP to the outside is relayed then.
	Relayed string `json:"relayed,omitempty"`
}

type nodeStatus struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Pods    string `json:"pods,omitempty"`
	Stopped bool   `json:"stopped,omitempty"`
}

func statusCommand() *cobra.Command {
	var w which
	var o output
	c := &cobra.Command{
		Use: "status", GroupID: "cluster",
		Short: "Show a cluster's address, nodes and processes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := w.path()
			if err != nil {
				return err
			}
			s, err := readStatus(cmd, dir)
			if err != nil {
				return notThere(err)
			}
			if err := o.print(cmd.OutOrStdout(), s, s.text); err != nil {
				return err
			}
			if !s.Running {
				return notThere(local.ErrStopped)
			}
			return nil
		},
	}
	w.flags(c)
	o.flag(c)
	return c
}

func readStatus(cmd *cobra.Command, dir string) (*clusterStatus, error) {
	spec, err := local.Load(dir)
	if err != nil {
		return nil, err
	}
	path, err := local.KubeconfigPath()
	if err != nil {
		return nil, err
	}
	s := &clusterStatus{
		Name: spec.Name, Server: fmt.Sprintf("https://127.0.0.1:%d", spec.APIPort), Kubeconfig: path, Context: local.ContextName(spec.Name),
		DataDir: dir, Runtime: spec.Runtime, Version: version, Nodes: []nodeStatus{}, Processes: []local.ProcessStatus{},
	}
	if spec.Runtime == local.Containerd {
		s.Registry = fmt.Sprintf("127.0.0.1:%d", spec.RegistryPort)
		if s.Relayed, err = local.ForwardingDropped(cmd.Context()); err != nil {
			return nil, err
		}
	}
	for _, n := range spec.Nodes {
		ns := nodeStatus{Name: n.Name, Stopped: n.Stopped}
		if spec.Runtime == local.Containerd {
			ns.Address, ns.Pods = spec.Ranges().Node(n.Number).String(), spec.Ranges().PodsOf(n.Number).String()
		}
		s.Nodes = append(s.Nodes, ns)
	}
	live, err := local.CommandsOf(dir).Status(cmd.Context())
	switch {
	case errors.Is(err, local.ErrStopped):
	case err != nil:
		return nil, err
	default:
		s.Running, s.Supervisor, s.Processes = true, live.PID, live.Processes
	}
	return s, nil
}

func (s *clusterStatus) text(w io.Writer) {
	state := "stopped"
	if s.Running {
		state = "running"
	}
	fmt.Fprintf(w, "%s is %s\n", s.Name, state)
	fmt.Fprintf(w, "  API        %s (kubectl context %s in %s)\n", s.Server, s.Context, s.Kubeconfig)
	fmt.Fprintf(w, "  data       %s\n", s.DataDir)
	fmt.Fprintf(w, "  version    %s, runtime %s\n", s.Version, s.Runtime)
	if s.Registry != "" {
		fmt.Fprintf(w, "  registry   %s\n", s.Registry)
	}
	if s.Relayed != "" {
		fmt.Fprintf(w, "  outside    %s\n", relayNote(s.Relayed))
	}
	for _, n := range s.Nodes {
		note := ""
		if n.Stopped {
			note = " (stopped)"
		}
		fmt.Fprintf(w, "  node       %s %s%s\n", n.Name, n.Address, note)
	}
	if s.Supervisor != 0 {
		fmt.Fprintf(w, "  process    supervisor %d\n", s.Supervisor)
	}
	for _, p := range s.Processes {
		fmt.Fprintf(w, "  process    %s %d", p.Name, p.PID)
		if p.Restarts > 0 {
			fmt.Fprintf(w, ", started again %d times (%s)", p.Restarts, p.LastEnd)
		}
		fmt.Fprintln(w)
	}
}

// relayNote tells users what the machine's rules mean for their pods.
func relayNote(by string) string {
	return "pods reach it by TCP and UDP through a relay, not by ping: forwarding is dropped by " + by
}
