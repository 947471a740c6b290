package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"skiff/cluster/local"
)

// which are the flags by which all commands find their cluster.
type which struct{ name, dir string }

func (w *which) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.name, "name", "skiff", "name of the cluster")
	c.Flags().StringVar(&w.dir, "data-dir", "", "where the cluster's data is (default /var/lib/skiff/NAME as root, else ~/.local/share/skiff/NAME)")
}

// path is the cluster's data directory.
func (w *which) path() (string, error) {
	if err := local.CheckName(w.name); err != nil {
		return "", err
	}
	if w.dir == "" {
		return local.DefaultDir(w.name)
	}
	return filepath.Abs(w.dir)
}

// notThere gives errors about clusters that are not there or not running their exit code.
func notThere(err error) error {
	if errors.Is(err, local.ErrNone) || errors.Is(err, local.ErrStopped) {
		return errors.Join(err, exitCode(3))
	}
	return err
}

// output is the flag -o.
type output string

func (o *output) flag(c *cobra.Command) {
	c.Flags().StringVarP((*string)(o), "output", "o", "", "json or yaml")
}

// print writes v in the form that was asked for, or as text.
func (o output) print(w io.Writer, v any, text func(io.Writer)) error {
	switch o {
	case "":
		text(w)
		return nil
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	return errors.Join(fmt.Errorf("-o %s: use json or yaml", o), exitCode(2))
}

// logger writes to standard error, which a supervisor keeps as the process's log.
func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose || os.Getenv("SKIFF_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
