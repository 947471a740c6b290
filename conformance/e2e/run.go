package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff/conformance/e2e/images"
)

// Config says what is run, and on what.
type Config struct {
	Root    string        // of the repository; bin/skiff, bin/runtime and bin/kubectl are there
	Specs   []string      // what to run
	Name    string        // of the cluster; "" means conformance
	Nodes   int           // 0 means 2
	Workers int           // processes of the e2e program at a time; 0 means 3
	Batch   int           // specs per process; 0 means 8
	Limit   time.Duration // for one spec; 0 means 15 minutes: the slowest waits for compaction for ten
	Logs    string        // folder for the logs of failed specs; "" means bin/conformance/logs/NAME
	Out     io.Writer     // a line for each spec
}

func (c Config) withDefaults() (Config, error) {
	if c.Root == "" || c.Out == nil || len(c.Specs) == 0 {
		return c, errors.New("run the suite: the repository's folder, specs, and where to write must be given")
	}
	if c.Name == "" {
		c.Name = "conformance"
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.Workers == 0 {
		c.Workers = 3
	}
	if c.Batch == 0 {
		c.Batch = 8
	}
	if c.Limit == 0 {
		c.Limit = 15 * time.Minute
	}
	if c.Logs == "" {
		c.Logs = filepath.Join(c.cache(), "logs", c.Name)
	}
	return c, nil
}

func (c Config) module() string { return filepath.Join(c.Root, "conformance") }
func (c Config) cache() string  { return filepath.Join(c.Root, "bin/conformance") }

// runner is one run.
type runner struct {
	Config
	program string
	dir     string // what the run needs for itself; gone afterwards
	cluster *cluster
	begun   time.Time

	mu       sync.Mutex
	outcomes []Outcome
}

// Run runs the specs and returns what came of each that was tried. It builds what is missing, and leaves no cluster behind; when ctx
// ends it returns what is known so far with ctx's error.
func Run(ctx context.Context, c Config) (_ []Outcome, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.cache(), 0o755); err != nil {
		return nil, err
	}
	release, err := lock(filepath.Join(c.cache(), c.Name+".lock"))
	if err != nil {
		return nil, err
	}
	defer release()
	r := &runner{Config: c}
	if r.dir, err = os.MkdirTemp("", "skiff-conformance-*"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cluster.stop()) }()
	err = r.all(ctx)
	if r.failures() > 0 {
		err = errors.Join(err, r.cluster.logs(c.Logs))
	}
	return r.outcomes, err
}

// prepare builds the program and the images and starts the cluster.
func (r *runner) prepare(ctx context.Context) error {
	start := time.Now()
	var err error
	if r.program, err = BuildProgram(ctx, r.module(), r.cache()); err != nil {
		return err
	}
	layout, err := images.Build(ctx, images.Config{Module: r.module(), Cache: r.cache()})
	if err != nil {
		return err
	}
	built := time.Now()
	if err := os.RemoveAll(r.Logs); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Logs, 0o755); err != nil {
		return err
	}
	if r.cluster, err = startCluster(ctx, r.Config, r.dir, layout); err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "program and images: %.0f s; %d nodes with the images: %.0f s\n", built.Sub(start).Seconds(), r.Nodes, time.Since(built).Seconds())
	r.begun = time.Now()
	return nil
}

// all runs first the specs that may run beside others, then the rest, one process after another.
func (r *runner) all(ctx context.Context) error {
	var together, single []string
	for _, s := range r.Specs {
		if alone(s) {
			single = append(single, s)
		} else {
			together = append(together, s)
		}
	}
	if err := r.several(ctx, batches(together, r.Batch), r.Workers); err != nil {
		return err
	}
	return r.several(ctx, batches(single, r.Batch), 1)
}

// several runs batches, some at a time.
func (r *runner) several(ctx context.Context, groups [][]string, workers int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, specs := range groups {
		group.Go(func() error { return r.untilDone(ctx, specs) })
	}
	return group.Wait()
}

// untilDone runs a batch, and again what a process did not come to because it was cut off. A process that tells nothing of any of
// its specs is repeated with one spec at a time, and then the spec has failed: so this ends.
func (r *runner) untilDone(ctx context.Context, specs []string) error {
	for len(specs) > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		found, why := r.process(ctx, specs)
		if ctx.Err() != nil {
			r.record(passedOf(found)) // what was interrupted with the run is not known to fail
			return ctx.Err()
		}
		switch {
		case len(found) > 0:
			r.record(found)
			specs = without(specs, found)
		case len(specs) == 1:
			r.record([]Outcome{{Spec: specs[0], State: Failed, Reason: why.Error()}})
			return nil
		default:
			for _, s := range specs {
				if err := r.untilDone(ctx, []string{s}); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return nil
}

func passedOf(found []Outcome) (passed []Outcome) {
	for _, o := range found {
		if o.State == Passed {
			passed = append(passed, o)
		}
	}
	return passed
}

func without(specs []string, found []Outcome) (rest []string) {
	done := map[string]bool{}
	for _, o := range found {
		done[o.Spec] = true
	}
	for _, s := range specs {
		if !done[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// record keeps outcomes, prints them, and writes the logs of failed specs.
func (r *runner) record(found []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range found {
		r.outcomes = append(r.outcomes, o)
		fmt.Fprintf(r.Out, "%4d/%d %6.0f s  %-7s %5.1f s  %s\n", len(r.outcomes), len(r.Specs), time.Since(r.begun).Seconds(), o.State, o.Seconds, o.Spec)
		if o.State == Failed {
			fmt.Fprintf(r.Out, "        %s\n", o.Reason)
			if err := r.keepLog(o); err != nil {
				fmt.Fprintf(r.Out, "        its log is lost: %v\n", err)
			}
		}
	}
}

var notInFileNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

func (r *runner) keepLog(o Outcome) error {
	name := strings.Trim(notInFileNames.ReplaceAllString(o.Spec, "-"), "-")
	if len(name) > 150 {
		name = name[:150]
	}
	dir := filepath.Join(r.Logs, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "spec.log"), []byte(o.Spec+"\n"+o.Reason+"\n\n"+o.Log), 0o644)
}

func (r *runner) failures() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, o := range r.outcomes {
		if o.State == Failed {
			n++
		}
	}
	return n
}
