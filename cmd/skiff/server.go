package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"skiff/cluster"
	"skiff/cluster/local"
)

// serverFlags are what a user says of a server.
type serverFlags struct {
	local          string
	config         cluster.ServerConfig
	advertise      string
	pods, services string
	node           nodeFlags
}

func serverCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use: "server", GroupID: "run",
		Short: "Run a cluster's server in the foreground",
		Long: `Run a server of a cluster in the foreground: the control plane, and unless
--no-agent is given a node on the same machine.

The first server makes the cluster:

  skiff server
  export KUBECONFIG=/var/lib/skiff/server/admin.kubeconfig
  kubectl get nodes

More nodes join with a token (on the server: skiff token create):

  skiff agent --server https://FIRST:6443 --token TOKEN

More servers, two or four of them, join with a server's token (skiff token create
--server). Then the cluster survives the loss of one of three, or two of five:

  skiff server --join https://FIRST:6443 --token TOKEN

What a server is it remembers in its data directory: started again it needs
neither --join nor --token. It ends on SIGTERM; containers run on. Under systemd
(Type=notify) it says when it is ready; docs/install.md has unit files.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.local != "" {
				return cluster.RunLocalServer(cmd.Context(), f.local, logger(false), local.NotifyReady)
			}
			config, err := f.complete()
			if err != nil {
				return err
			}
			return runServer(cmd, config)
		},
	}
	f.flags(c)
	c.AddCommand(serverListCommand(), serverRemoveCommand())
	return c
}

func (f *serverFlags) flags(c *cobra.Command) {
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.config.DataDir, "data-dir", machineData, "where keys, store and the node's data are")
	flags.StringVar(&f.config.Join, "join", "", "a server of the cluster to join, https://HOST:PORT (only the first time)")
	flags.StringVar(&f.config.Token, "token", "", "a server's token, for --join (see skiff token create --server); default: $SKIFF_TOKEN")
	flags.StringVar(&f.advertise, "advertise-address", "", "the address by which other machines reach this one (default: that of the default route)")
	flags.StringVar(&f.config.Listen, "listen", "", "the address to listen on (default: all)")
	flags.IntVar(&f.config.Settings.Port, "port", 0, "the port of the API, the same on all servers (default 6443)")
	flags.IntVar(&f.config.PeerPort, "peer-port", 2380, "the port at which servers reach this one's etcd")
	flags.StringSliceVar(&f.config.Names, "tls-san", nil, "more host names and addresses that the server's certificate is for")
	flags.StringVar(&f.pods, "pod-cidr", "", "addresses of pods: a range, or one of each family (default 10.244.0.0/16; only for a new cluster)")
	flags.StringVar(&f.services, "service-cidr", "", "addresses of services: a range, or one of each family (default 10.96.0.0/16; only for a new cluster)")
	flags.StringSliceVar(&f.config.Etcd.Endpoints, "etcd-endpoints", nil, "client URLs of an external etcd, instead of the embedded one")
	flags.StringVar(&f.config.Etcd.CA, "etcd-cafile", "", "the authority that signed the external etcd's certificates")
	flags.StringVar(&f.config.Etcd.Cert, "etcd-certfile", "", "certificate for the external etcd")
	flags.StringVar(&f.config.Etcd.Key, "etcd-keyfile", "", "its key")
	flags.DurationVar(&f.config.LeaseLife, "leader-elect-lease-duration", 15*time.Second, "how long a server that leads and is not heard of is waited for, the same on all servers")
	flags.BoolVar(&f.config.NoAgent, "no-agent", false, "run the control plane alone: this machine is no node")
	f.node.flags(c)
	flags.StringVar(&f.local, "local", "", "data directory of a cluster that `skiff up` made")
	flags.MarkHidden("local")
}

// complete makes the configuration of the flags.
func (f *serverFlags) complete() (c cluster.ServerConfig, err error) {
	c = f.config
	c.Token = cmp.Or(c.Token, os.Getenv("SKIFF_TOKEN"))
	if f.advertise != "" {
		if c.Advertise, err = netip.ParseAddr(f.advertise); err != nil {
			return c, usage("--advertise-address %s is not an address", f.advertise)
		}
	}
	if f.pods != "" {
		if c.Settings.PodCIDRs, err = cluster.ParseRanges(f.pods); err != nil {
			return c, usage("--pod-cidr: %w", err)
		}
	}
	if f.services != "" {
		if c.Settings.ServiceCIDRs, err = cluster.ParseRanges(f.services); err != nil {
			return c, usage("--service-cidr: %w", err)
		}
	}
	if c.LeaseLife < 3*time.Second || c.LeaseLife%time.Second != 0 {
		return c, usage("--leader-elect-lease-duration %v: give whole seconds, 3 or more", c.LeaseLife)
	}
	if (c.Etcd.Cert == "") != (c.Etcd.Key == "") {
		return c, usage("--etcd-certfile and --etcd-keyfile go together")
	}
	c.Node, err = f.node.complete()
	return c, err
}

// usage is an error about a call that makes no sense.
func usage(format string, args ...any) error {
	return errors.Join(fmt.Errorf(format, args...), exitCode(2))
}

func runServer(cmd *cobra.Command, config cluster.ServerConfig) error {
	config.Logger = logger(false)
	config.Ready = func(kubeconfig string) {
		config.Logger.Info("the server is ready", "kubeconfig", kubeconfig)
		notify("READY=1")
	}
	stopping(cmd.Context())
	return cluster.RunServer(cmd.Context(), config)
}

func serverListCommand() *cobra.Command {
	var at adminFlags
	var o output
	c := &cobra.Command{
		Use: "list", Short: "List the cluster's servers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := at.config()
			if err != nil {
				return err
			}
			members, err := cluster.ListMembers(cmd.Context(), config)
			if err != nil {
				return fmt.Errorf("list servers: %w", err)
			}
			return o.print(cmd.OutOrStdout(), members, table("NAME\tSTATE\tPEER URL", func(row func(...any)) {
				for _, m := range members {
					row(m.Name, m.State, m.PeerURL)
				}
			}))
		},
	}
	at.flags(c)
	o.flag(c)
	return c
}

func serverRemoveCommand() *cobra.Command {
	var at adminFlags
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a server out of the cluster, for instance one whose machine is lost",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := at.config()
			if err != nil {
				return err
			}
			if err := cluster.RemoveMember(cmd.Context(), config, args[0]); err != nil {
				return fmt.Errorf("remove server %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "server %s removed; it can join again with an empty data directory\n", strings.TrimSpace(args[0]))
			return nil
		},
	}
	at.flags(c)
	return c
}

// table writes rows under a head, aligned.
func table(head string, rows func(row func(...any))) func(w io.Writer) {
	return func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, head)
		rows(func(cells ...any) {
			for i, cell := range cells {
				if i > 0 {
					fmt.Fprint(t, "\t")
				}
				fmt.Fprint(t, cell)
			}
			fmt.Fprintln(t)
		})
		t.Flush()
	}
}
