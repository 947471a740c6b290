package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/cluster"
	"skiff/cluster/local"
)

func kubeconfigCommand() *cobra.Command {
	var w which
	var merge bool
	c := &cobra.Command{
		Use: "kubeconfig", GroupID: "cluster",
		Short: "Print a kubeconfig of the cluster's administrator, or merge it into yours",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := w.path()
			if err != nil {
				return err
			}
			access, err := cluster.AdminAccess(dir)
			if err != nil {
				return notThere(err)
			}
			if merge {
				path, err := local.MergeKubeconfig(w.name, access)
				if err == nil {
					fmt.Printf("Context %s is current in %s\n", local.ContextName(w.name), path)
				}
				return err
			}
			data, err := clientcmd.Write(*access.Kubeconfig(w.name))
			if err != nil {
				return fmt.Errorf("encode kubeconfig: %w", err)
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&merge, "merge", false, "merge it into $KUBECONFIG or ~/.kube/config and make it current")
	return c
}

func logsCommand() *cobra.Command {
	var w which
	c := &cobra.Command{
		Use: "logs [supervisor|server|agent-NODE]", GroupID: "cluster",
		Short: "Print what a cluster's process has logged",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := w.path()
			if err != nil {
				return err
			}
			if _, err := local.Load(dir); err != nil {
				return notThere(err)
			}
			process := "server"
			if len(args) > 0 {
				process = filepath.Base(args[0])
			}
			f, err := os.Open(local.Dirs(dir).Log(process))
			if err != nil {
				return fmt.Errorf("no process %s has logged anything: %w", process, err)
			}
			defer f.Close()
			_, err = io.Copy(cmd.OutOrStdout(), f)
			return err
		},
	}
	w.flags(c)
	return c
}
