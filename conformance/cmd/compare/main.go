// Command compare does the same work on upstream's control plane and on Skiff's, one after the other on this machine, and writes
// what it measured into docs/benchmarks.md and bench/results/compare.json. `make bench` runs it, with everything built.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := compare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	root   string // of the repository
	only   string // a side
	scale  int    // in percent
	page   bool
	result string
}

// outcome is what is kept of a comparison.
type outcome struct {
	Date        time.Time          `json:"date"`
	Machine     machine            `json:"machine"`
	Command     string             `json:"command"`
	Skiff       map[string]measure `json:"skiff"` // by key of the row
	Upstream    map[string]measure `json:"upstream"`
	Versions    map[string]string  `json:"versions"`
	Environment map[string]string  `json:"environment"` // what of it changes how Go's programs use memory
}

func compare(ctx context.Context) error {
	var o options
	flag.StringVar(&o.root, "root", ".", "the repository's root")
	flag.StringVar(&o.only, "only", "", "measure only this side: upstream or skiff (the other's figures are kept)")
	flag.IntVar(&o.scale, "scale", 100, "how much of each work is done, in percent; below 100 nothing is written")
	flag.BoolVar(&o.page, "page", false, "measure nothing: write the page from the results that there are")
	flag.Parse()
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return err
	}
	o.result = filepath.Join(o.root, "bench", "results", "compare.json")
	out, err := load(o.result)
	if err != nil {
		return err
	}
	if !o.page {
		if err := measureBoth(ctx, o, out); err != nil {
			return err
		}
	}
	table := out.table()
	fmt.Println(table)
	if o.scale != 100 {
		return nil
	}
	if err := out.save(o.result); err != nil {
		return err
	}
	return writePage(filepath.Join(o.root, "docs", "benchmarks.md"), table)
}

func measureBoth(ctx context.Context, o options, out *outcome) error {
	out.Date = time.Now().UTC().Truncate(time.Minute)
	out.Machine = thisMachine()
	out.Command = strings.TrimSpace("make bench " + os.Getenv("BENCHFLAGS"))
	out.Environment = map[string]string{}
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		out.Environment[name] = os.Getenv(name)
	}
	for _, s := range []struct {
		name  string
		start func(context.Context, string, string) (*side, error)
		kept  *map[string]measure
	}{{"upstream", startUpstream, &out.Upstream}, {"skiff", startSkiff, &out.Skiff}} {
		if o.only != "" && o.only != s.name {
			continue
		}
		measured, version, err := measureSide(ctx, o, s.start)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		*s.kept = measured
		out.Versions[s.name] = version
	}
	return nil
}

// measureSide starts one side on empty data, measures it and removes it.
func measureSide(ctx context.Context, o options, start func(ctx context.Context, root, dir string) (*side, error)) (m map[string]measure, version string, err error) {
	dir, err := os.MkdirTemp("", "skiff-compare-*")
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := start(ctx, o.root, dir)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return s.measure(ctx, o.scale)
}

func load(path string) (*outcome, error) {
	out := &outcome{Versions: map[string]string{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, nil
}

func (out *outcome) save(path string) error {
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
