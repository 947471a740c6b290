package main

import (
	"github.com/spf13/cobra"

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

// machineData is where servers and agents keep their data if the user does not say.
const machineData = "/var/lib/skiff"
