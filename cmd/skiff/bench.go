package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/bench"
)

func benchCommand() *cobra.Command {
	var c bench.Config
	var o output
	var kubeconfig, context string
	var quiet bool
	cmd := &cobra.Command{
		Use: "bench WORK[=N]…", GroupID: "tools",
		Short: "Put load on a Kubernetes API server, any, and measure it",
		Long: `Put load on a Kubernetes API server, Skiff's or any other, and measure latencies,
rates, errors and lost events; with --pid also what its processes spend on it.

It works in a namespace of its own, and with Node objects of its own, and removes
both at the end. Works are done one after another, each N times:

` + bench.Help() + `
"list" means all lists. Example, against the cluster of ` + "`skiff up --nodes 0`" + `:

  skiff bench --pid $(pgrep -f 'skiff server') create=1000 get list watch=500 schedule=1000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if c.Works, err = bench.ParseWorks(args); err != nil {
				return errors.Join(err, exitCode(2))
			}
			if len(c.Works) == 0 {
				return errors.Join(errors.New("name the works to do: `skiff bench --help` lists them"), exitCode(2))
			}
			for _, pid := range c.PIDs {
				if err := bench.CheckProcess(pid); err != nil {
					return errors.Join(err, exitCode(2))
				}
			}
			rules := clientcmd.NewDefaultClientConfigLoadingRules()
			rules.ExplicitPath = kubeconfig
			c.Server, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
			if err != nil {
				return fmt.Errorf("find the server: %w", err)
			}
			if !quiet {
				c.Progress = newProgress(os.Stderr).show
			}
			b, err := bench.New(c)
			if err != nil {
				return err
			}
			report, err := b.Run(cmd.Context())
			if !quiet {
				fmt.Fprintln(os.Stderr)
			}
			if len(report.Results) > 0 {
				err = errors.Join(err, o.print(cmd.OutOrStdout(), report, report.Text))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "the server, and who asks (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&context, "context", "", "the context in it (default its current one)")
	f.IntSliceVar(&c.PIDs, "pid", nil, "a process of the server, on this machine, to be measured; may be given again")
	f.IntVar(&c.Clients, "clients", 32, "requests in flight at once")
	f.IntVar(&c.Watchers, "watchers", 40, "watchers, each over a connection of its own")
	f.IntVar(&c.Nodes, "nodes", 1000, "Node objects for pods to be scheduled on")
	f.IntVar(&c.Objects, "objects", 5000, "pods that are there while others are read or changed")
	f.StringVar(&c.Image, "image", "registry.k8s.io/pause:3.10", "what pods that really start run")
	f.DurationVar(&c.TimeLimit, "time-limit", 2*time.Minute, "for each work; what is not done by then has failed")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	o.flag(cmd)
	return cmd
}

// progress shows how far a load is: on a terminal in one line, else a line every few seconds.
type progress struct {
	w        io.Writer
	terminal bool
	last     time.Time
	phase    string
}

func newProgress(f *os.File) *progress {
	info, err := f.Stat()
	return &progress{w: f, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) show(now bench.Progress) {
	phase := now.Work + " " + now.Phase
	if !p.terminal && phase == p.phase && time.Since(p.last) < 5*time.Second {
		return
	}
	line := fmt.Sprintf("%-24s %-11s %5.1f s", now.Work, now.Phase, now.Elapsed.Seconds())
	if now.Total > 0 && now.Phase == "measuring" {
		line += fmt.Sprintf("  %d/%d", now.Done, now.Total)
		if s := now.Elapsed.Seconds(); s > 0 {
			line += fmt.Sprintf("  %.0f/s", float64(now.Done)/s)
		}
	}
	if now.Errors > 0 {
		line += fmt.Sprintf("  %d failed", now.Errors)
	}
	switch {
	case !p.terminal:
		fmt.Fprintln(p.w, line)
	case phase != p.phase && p.phase != "":
		fmt.Fprintf(p.w, "\n%s", line)
	default:
		fmt.Fprintf(p.w, "\r\033[K%s", line)
	}
	p.last, p.phase = time.Now(), phase
}
