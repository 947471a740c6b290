package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "version", GroupID: "tools",
		Short: "Print the versions of this program and of the API that it speaks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := map[string]string{"skiff": version, "kubernetes": "v1.37.2", "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return o.print(cmd.OutOrStdout(), v, func(w io.Writer) {
				fmt.Fprintf(w, "skiff %s, Kubernetes API %s, %s %s\n", v["skiff"], v["kubernetes"], v["go"], v["platform"])
			})
		},
	}
	o.flag(c)
	return c
}
