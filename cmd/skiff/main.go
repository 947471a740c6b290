// Command skiff is Kubernetes as one program: a cluster on this machine (up), a
// cluster on your machines (server, agent), and the tools around them. Each
// command has a file of its own; it fills a Config from flags and prints, nothing
// else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // cron jobs name time zones, and the machine may have no database of them

	"github.com/spf13/cobra"
)

// version is set when the program is built (make skiff).
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "skiff:", strings.TrimSpace(err.Error()))
	var code exitCode
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	os.Exit(1)
}

// exitCode is an error with an exit code of its own: 2 for a call that makes no
// sense, 3 for a cluster that is not there or not running.
type exitCode int

func (exitCode) Error() string { return "" }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "skiff",
		Short: "Kubernetes as one small program",
		Long: `Skiff is Kubernetes as one small program.

  skiff up                      a cluster on this machine, in seconds; kubectl knows it
  skiff image build … ./app     an image from a Go program, on all nodes, without Docker
  skiff down                    everything of it gone`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddGroup(
		&cobra.Group{ID: "cluster", Title: "A cluster on this machine:"},
		&cobra.Group{ID: "tools", Title: "Tools:"},
		&cobra.Group{ID: "run", Title: "A cluster on several machines:"},
	)
	c.AddCommand(upCommand(), downCommand(), stopCommand(), statusCommand(), nodeCommand(), kubeconfigCommand(), logsCommand())
	c.AddCommand(imageCommand(), benchCommand(), versionCommand())
	c.AddCommand(serverCommand(), agentCommand(), tokenCommand(), superviseCommand())
	return c
}
