package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"skiff/cluster/local"
)

// endTime is how long stopping a cluster may take.
const endTime = 2 * time.Minute

func downCommand() *cobra.Command {
	var w which
	c := &cobra.Command{
		Use: "down", GroupID: "cluster",
		Short: "Stop a cluster and remove all of it, its data too",
		Long: `Stop a cluster and remove all of it, its data too, and take its context out of the
kubeconfig. If that was kubectl's current context, there is none afterwards, also when
other clusters are left: choose one with ` + "`kubectl config use-context`" + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := w.path()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), endTime)
			defer cancel()
			err = local.Down(ctx, dir)
			if errors.Is(err, local.ErrNone) {
				fmt.Printf("There is no cluster %s\n", w.name)
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Printf("Cluster %s is gone\n", w.name)
			return nil
		},
	}
	w.flags(c)
	return c
}

func stopCommand() *cobra.Command {
	var w which
	c := &cobra.Command{
		Use: "stop", GroupID: "cluster",
		Short: "Stop a cluster and keep its data; `skiff up` resumes it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := w.path()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), endTime)
			defer cancel()
			if err := local.Stop(ctx, dir); err != nil {
				return notThere(err)
			}
			fmt.Printf("Cluster %s is stopped\n", w.name)
			return nil
		},
	}
	w.flags(c)
	return c
}
