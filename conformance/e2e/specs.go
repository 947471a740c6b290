// Package e2e runs upstream's conformance specs on a Skiff cluster and keeps what came of each. It builds upstream's own e2e
// program and the images that it needs (package images), starts a cluster of its own with `skiff up`, gives the specs to several
// processes of the program in small batches, those that must be alone last, and takes everything away again.
//
// The command conformance/cmd/conformance calls it. It never changes a spec, and judges none: passed and failed are what upstream's
// program reports.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"skiff/conformance/e2e/images"
)

// Specs lists the names of all conformance specs of the version in go.mod, sorted: those that upstream's own list names. Module is
// the folder of module skiff/conformance.
func Specs(module string) ([]string, error) {
	source, err := images.Upstream(module)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(source, "test/conformance/testdata/conformance.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read upstream's list of conformance specs: %w", err)
	}
	return codenames(data)
}

func codenames(list []byte) ([]string, error) {
	var rows []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(list, &rows); err != nil {
		return nil, fmt.Errorf("read upstream's list of conformance specs: %w", err)
	}
	var names []string
	for _, row := range rows {
		names = append(names, row.Codename)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Selected returns the specs that focus matches and skip does not. An empty focus matches all, an empty skip none.
func Selected(specs []string, focus, skip string) ([]string, error) {
	want, err := regexp.Compile(focus)
	if err != nil {
		return nil, fmt.Errorf("select specs: %w", err)
	}
	leave, err := regexp.Compile(skip)
	if err != nil {
		return nil, fmt.Errorf("select specs: %w", err)
	}
	var some []string
	for _, s := range specs {
		if want.MatchString(s) && (skip == "" || !leave.MatchString(s)) {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("select specs: none of %d matches", len(specs))
	}
	return some, nil
}

// Listed reads a file with one spec per line; empty lines and those that begin with # do not count. A line that names no spec is an
// error: it would never run.
func Listed(specs []string, file string) ([]string, error) {
	var some []string
	for line := range strings.Lines(file) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !slices.Contains(specs, line) {
			return nil, fmt.Errorf("read the list of specs: there is no spec %q", line)
		}
		some = append(some, line)
	}
	return some, nil
}

// alone tells whether a spec must not run beside others.
func alone(spec string) bool {
	return strings.Contains(spec, "[Serial]") || strings.Contains(spec, "[Disruptive]")
}

// batches cuts specs into groups of at most size, for one process each: the program needs a second to start. Specs of one folder
// are spread out, since those tend to be slow, or to want the same port, together.
func batches(specs []string, size int) [][]string {
	n := (len(specs) + size - 1) / size
	groups := make([][]string, n)
	for i, s := range specs {
		groups[i%n] = append(groups[i%n], s)
	}
	return groups
}
