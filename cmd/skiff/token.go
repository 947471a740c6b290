package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/client"
	"skiff/cluster"
)

// adminFlags say with whose rights a command acts: those of a kubeconfig.
type adminFlags struct{ dir, kubeconfig string }

func (f *adminFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "data-dir", machineData, "the data directory of this machine's server, whose administrator acts")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "an administrator's kubeconfig, where no server is on this machine")
}

func (f *adminFlags) config() (*rest.Config, error) {
	path := f.kubeconfig
	if path == "" {
		path = cluster.AdminKubeconfig(f.dir)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("there is no %s: call this on a server, or give --data-dir or --kubeconfig", path), exitCode(3))
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	config.Timeout = 30 * time.Second
	return config, nil
}

// client acts as the administrator; pin is the hash of the cluster's authority.
func (f *adminFlags) client() (c client.Client, pin string, err error) {
	config, err := f.config()
	if err != nil {
		return nil, "", err
	}
	return cluster.AdminClient(config)
}

func tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "token", GroupID: "run",
		Short: "Make, list and delete tokens with which machines join a cluster",
		Long: `Make, list and delete the tokens with which machines join a cluster of several
machines. A token has the form

  ID.SECRET.PIN

ID and SECRET are a Kubernetes bootstrap token (a Secret in kube-system); PIN is the
SHA-256 of the public key of the cluster's authority, so that whoever joins knows
that it is this cluster to which it shows the secret.`,
	}
	c.AddCommand(tokenCreateCommand(), tokenListCommand(), tokenDeleteCommand())
	return c
}

func tokenCreateCommand() *cobra.Command {
	var at adminFlags
	var ttl time.Duration
	var server bool
	c := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl < 0 {
				return usage("--ttl %s: give a time, or 0 for no end", ttl)
			}
			c, pin, err := at.client()
			if err != nil {
				return err
			}
			token, err := cluster.CreateToken(cmd.Context(), c, pin, ttl, server)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good; 0: until it is deleted")
	c.Flags().BoolVar(&server, "server", false, "for a server, which gets the cluster's keys; otherwise for a node")
	at.flags(c)
	return c
}

func tokenListCommand() *cobra.Command {
	var at adminFlags
	var o output
	c := &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := at.client()
			if err != nil {
				return err
			}
			tokens, err := cluster.ListTokens(cmd.Context(), c)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), tokens, table("ID\tFOR\tEXPIRES\tDESCRIPTION", func(row func(...any)) {
				for _, t := range tokens {
					row(t.ID, t.For, expiry(t), t.Description)
				}
			}))
		},
	}
	at.flags(c)
	o.flag(c)
	return c
}

func expiry(t cluster.TokenInfo) string {
	switch {
	case t.Expired:
		return "expired"
	case t.Expires.IsZero():
		return "never"
	}
	return t.Expires.Local().Format(time.RFC3339)
}

func tokenDeleteCommand() *cobra.Command {
	var at adminFlags
	c := &cobra.Command{
		Use: "delete ID", Short: "Delete a token: nobody joins with it any more", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := at.client()
			if err != nil {
				return err
			}
			if err := cluster.DeleteToken(cmd.Context(), c, args[0]); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "token deleted")
			return nil
		},
	}
	at.flags(c)
	return c
}
