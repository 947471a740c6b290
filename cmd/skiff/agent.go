package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/registry"
)

// nodeFlags are what a user says of a machine as a node.
type nodeFlags struct {
	config         cluster.NodeConfig
	ips            []string
	labels, taints []string
	mirrors        []string
}

func (f *nodeFlags) flags(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.config.Name, "node-name", "", "the node's name (default: the host's)")
	flags.StringSliceVar(&f.ips, "node-ip", nil, "the node's address, or one of each family (default: the one towards the server)")
	flags.StringSliceVar(&f.labels, "node-labels", nil, "labels that the node registers with: KEY=VALUE,…")
	flags.StringSliceVar(&f.taints, "node-taints", nil, "taints that the node registers with: KEY=VALUE:EFFECT,…")
	flags.StringVar(&f.config.Runtime, "runtime", local.Containerd, "what runs pods: containerd, or simulated, which only pretends")
	flags.StringVar(&f.config.RuntimeEndpoint, "runtime-endpoint", "", "a CRI socket that is there already (unix:///run/…: containerd from 1.6 on, CRI-O), instead of a containerd of the node's own")
	flags.StringArrayVar(&f.mirrors, "registry-mirror", nil, "HOST=URL: a registry that is asked first for images of HOST (docker.io, …; *: every one); may be repeated")
	flags.StringVar(&f.config.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "where the runtime of --runtime-endpoint looks for network configurations")
	flags.StringVar(&f.config.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "where it looks for network programs")
}

// complete makes the configuration of the flags.
func (f *nodeFlags) complete() (cluster.NodeConfig, error) {
	c := f.config
	for _, text := range f.ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return c, usage("--node-ip %s is not an address", text)
		}
		c.IPs = append(c.IPs, ip)
	}
	if len(c.IPs) > 2 || len(c.IPs) == 2 && c.IPs[0].Is4() == c.IPs[1].Is4() {
		return c, usage("--node-ip: give one address, or one of each family")
	}
	c.Labels = map[string]string{}
	for _, text := range f.labels {
		key, value, ok := strings.Cut(text, "=")
		if !ok || len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			return c, usage("--node-labels %s is not KEY=VALUE", text)
		}
		c.Labels[key] = value
	}
	for _, text := range f.taints {
		taint, err := parseTaint(text)
		if err != nil {
			return c, err
		}
		c.Taints = append(c.Taints, taint)
	}
	for _, text := range f.mirrors {
		mirror, err := registry.ParseMirror(text)
		if err != nil {
			return c, usage("--registry-mirror: %v", err)
		}
		c.Mirrors = append(c.Mirrors, mirror)
	}
	return c, nil
}

// parseTaint reads KEY=VALUE:EFFECT or KEY:EFFECT.
func parseTaint(text string) (corev1.Taint, error) {
	what, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(what, "=")
	switch corev1.TaintEffect(effect) {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
	default:
		ok = false
	}
	if !ok || len(validation.IsQualifiedName(key)) > 0 || value != "" && len(validation.IsValidLabelValue(value)) > 0 {
		return corev1.Taint{}, usage("--node-taints %s is not KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute", text)
	}
	return corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}, nil
}

func agentCommand() *cobra.Command {
	var config cluster.AgentConfig
	var node nodeFlags
	var dir string
	var end bool
	c := &cobra.Command{
		Use: "agent", GroupID: "run",
		Short: "Run a node's agent in the foreground",
		Long: `Make this machine a node of a cluster, and run its agent in the foreground:

  skiff agent --server https://SERVER:6443 --token TOKEN

The token comes from ` + "`skiff token create`" + ` on a server; it also says by which key the
cluster is known, so that no other can take its place. The node gets a certificate
of its own, which it renews by itself: started again it needs no token, and no
--server. It learns of the cluster's other servers, and goes on to another when one
does not answer.

It ends on SIGTERM; containers run on, and the next agent goes on with them. With
--end it ends the node's containers and takes everything away that it has made on
the machine, but its data.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if dir != "" {
				return localAgent(cmd, dir, node.config.Name, end)
			}
			if config.Node, err = node.complete(); err != nil {
				return err
			}
			config.Logger, config.Token = logger(false), cmp.Or(config.Token, os.Getenv("SKIFF_TOKEN"))
			if end {
				return cluster.EndAgent(cmd.Context(), config)
			}
			config.Ready = func() {
				config.Logger.Info("the node is registered")
				notify("READY=1")
			}
			stopping(cmd.Context())
			return cluster.RunAgent(cmd.Context(), config)
		},
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&config.Servers, "server", nil, "a server of the cluster, https://HOST:PORT; may be given more than once")
	flags.StringVar(&config.Token, "token", "", "what lets the node join, the first time (see skiff token create); default: $SKIFF_TOKEN")
	flags.StringVar(&config.DataDir, "data-dir", machineData, "where the node's keys, containers and state are")
	node.flags(c)
	flags.BoolVar(&end, "end", false, "end the node's containers and what it has made on the machine, instead")
	flags.StringVar(&dir, "local", "", "data directory of a cluster that `skiff up` made")
	flags.MarkHidden("local")
	return c
}

// localAgent is the agent of a node of `skiff up`.
func localAgent(cmd *cobra.Command, dir, name string, end bool) error {
	if name == "" {
		return usage("%s", fmt.Sprintf("--local %s: name the node with --node-name", dir))
	}
	if end {
		return cluster.EndLocalNode(cmd.Context(), dir, name, logger(false))
	}
	return cluster.RunLocalAgent(cmd.Context(), dir, name, logger(false), local.NotifyReady)
}
