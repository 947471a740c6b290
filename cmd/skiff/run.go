package main

import (
	"errors"

	"github.com/spf13/cobra"

	"skiff/cluster"
	"skiff/cluster/local"
)

func superviseCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "supervise", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return local.Supervise(cmd.Context(), dir, logger(false))
		},
	}
	c.Flags().StringVar(&dir, "data-dir", "", "the cluster's data")
	return c
}

// errLocalOnly is what server and agent answer without --local.
var errLocalOnly = errors.Join(errors.New("only processes of `skiff up` can be run yet: give --local DIR, the data directory of a cluster"), exitCode(2))

func serverCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "server", GroupID: "run",
		Short: "Run a cluster's control plane in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return errLocalOnly
			}
			return cluster.RunLocalServer(cmd.Context(), dir, logger(false), local.NotifyReady)
		},
	}
	c.Flags().StringVar(&dir, "local", "", "data directory of a cluster that `skiff up` made")
	return c
}

func agentCommand() *cobra.Command {
	var dir, name string
	var end bool
	c := &cobra.Command{
		Use: "agent", GroupID: "run",
		Short: "Run a node's agent in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return errLocalOnly
			}
			if end {
				return cluster.EndLocalNode(cmd.Context(), dir, name, logger(false))
			}
			return cluster.RunLocalAgent(cmd.Context(), dir, name, logger(false), local.NotifyReady)
		},
	}
	c.Flags().StringVar(&dir, "local", "", "data directory of a cluster that `skiff up` made")
	c.Flags().StringVar(&name, "node-name", "", "the node")
	c.Flags().BoolVar(&end, "end", false, "end the node's containers and its runtime instead")
	c.Flags().MarkHidden("end")
	return c
}
