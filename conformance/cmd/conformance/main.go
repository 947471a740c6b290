// Conformance runs upstream's conformance specs on a Skiff cluster of its own, keeps what came of each in conformance/results, and
// prints the count. `make conformance` calls it; what it does is package e2e.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"skiff/conformance/e2e"
)

// version of the suite; it is the one in go.mod, and names the file of results.
const version = "v1.37.2"

type options struct {
	root   string
	focus  string
	skip   string
	list   string
	check  bool
	failed bool
	print  bool
	readme bool
	run    e2e.Config
}

func main() {
	var o options
	flag.StringVar(&o.root, "root", "..", "the repository's folder")
	flag.StringVar(&o.focus, "focus", "", "run only the specs whose names match this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out the specs whose names match this regular expression")
	flag.StringVar(&o.list, "specs", "", "run only the specs that this file names, one per line")
	flag.BoolVar(&o.failed, "failed", false, "run only the specs that did not pass when last tried")
	flag.BoolVar(&o.check, "check", false, "keep no results: fail when a spec fails that passed before")
	flag.BoolVar(&o.print, "list", false, "print the names of the specs, and run none")
	flag.BoolVar(&o.readme, "readme", false, "write the count of the last runs into README.md, and run none")
	flag.StringVar(&o.run.Name, "name", "conformance", "name of the cluster")
	flag.IntVar(&o.run.Nodes, "nodes", 2, "nodes of the cluster")
	flag.IntVar(&o.run.Workers, "workers", 3, "specs that run at a time, where they may")
	flag.IntVar(&o.run.Batch, "batch", 8, "specs per process of the e2e program")
	flag.DurationVar(&o.run.Limit, "limit", 15*time.Minute, "time for one spec")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func (o options) do(ctx context.Context) error {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	o.root, o.run.Root, o.run.Out = root, root, os.Stdout
	results, err := e2e.ReadResults(o.resultsFile())
	if err != nil {
		return err
	}
	if o.readme {
		return o.writeReadme(results)
	}
	all, err := e2e.Specs(filepath.Join(root, "conformance"))
	if err != nil {
		return err
	}
	if o.run.Specs, err = o.selected(all, results); err != nil {
		return err
	}
	if o.print {
		for _, s := range o.run.Specs {
			fmt.Println(s)
		}
		return nil
	}
	return o.runAndKeep(ctx, all, results)
}

func (o options) resultsFile() string {
	return filepath.Join(o.root, "conformance/results", version+".json")
}

// selected is what the flags ask for; all that are given must hold.
func (o options) selected(all []string, results e2e.Results) ([]string, error) {
	some := all
	if o.list != "" {
		text, err := os.ReadFile(o.list)
		if err != nil {
			return nil, err
		}
		if some, err = e2e.Listed(all, string(text)); err != nil {
			return nil, err
		}
	}
	if o.failed {
		some = results.NotPassed(some)
	}
	return e2e.Selected(some, o.focus, o.skip)
}

// runAndKeep runs the specs, keeps and prints what came of them, also when the run was interrupted.
func (o options) runAndKeep(ctx context.Context, all []string, results e2e.Results) error {
	start := time.Now()
	outcomes, err := e2e.Run(ctx, o.run)
	fmt.Printf("%s in %.0f minutes\n", e2e.Summary(outcomes), time.Since(start).Minutes())
	worse := results.Regressions(outcomes)
	if o.check {
		if len(worse) > 0 {
			err = errors.Join(err, fmt.Errorf("%d specs failed that passed before: %q", len(worse), worse))
		}
		return err
	}
	if len(outcomes) == 0 {
		return err
	}
	now, readErr := e2e.ReadResults(o.resultsFile()) // another run may have written meanwhile
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	results = now
	results.Version = version
	results = results.Merge(all, outcomes, start)
	fmt.Println(results.Sentence())
	for _, s := range worse {
		fmt.Println("no longer passes:", s)
	}
	return errors.Join(err, os.MkdirAll(filepath.Dir(o.resultsFile()), 0o755), results.Write(o.resultsFile()), o.writeReadme(results))
}

func (o options) writeReadme(results e2e.Results) error {
	file := filepath.Join(o.root, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	now, err := results.WithCount(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(now), 0o644)
}
