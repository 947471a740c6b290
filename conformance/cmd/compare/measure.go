package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"skiff/bench"
)

// measure is what was found for one row, of one side.
type measure struct {
	Value float64 `json:"value"` // in the row's unit
	Note  string  `json:"note,omitempty"`
	// Work is all that the load generator found, where it did the work.
	Work *bench.Result `json:"work,omitempty"`
}

// The times that an idle control plane has to come to rest, and is looked at.
const (
	settle = 15 * time.Second
	idle   = 20 * time.Second
)

// measure does all works of the table on one control plane.
func (s *side) measure(ctx context.Context, scale int) (map[string]measure, string, error) {
	m := map[string]measure{"api-ready": {Value: s.apiReady.Seconds()}, "ready": {Value: s.ready.Seconds()}}
	if err := s.idle(ctx, m); err != nil {
		return nil, "", err
	}
	of := func(n int) int { return max(1, n*scale/100) }
	works := func(c bench.Config, keys []string, works ...bench.Work) (*bench.Report, error) {
		c.Works, c.Nodes, c.Objects = works, of(1000), of(5000)
		for i := range c.Works {
			c.Works[i].N = of(c.Works[i].N)
		}
		report, err := s.bench(ctx, c)
		var left *bench.LeftError
		if errors.As(err, &left) && len(report.Results) == len(works) {
			// The whole cluster goes after the measuring: what is left in it does not matter.
			fmt.Fprintln(os.Stderr, "  ", left)
			err = nil
		}
		if err != nil {
			return nil, err
		}
		for i, r := range report.Results {
			m[keys[i]] = s.worked(keys[i], r)
		}
		return report, nil
	}
	report, err := works(bench.Config{}, []string{"create", "get", "patch", "list-json", "list-protobuf", "list-gzip", "watch-40", "watch-200"},
		bench.Work{Name: "create", N: 5000}, bench.Work{Name: "get", N: 10000}, bench.Work{Name: "patch", N: 2000},
		bench.Work{Name: "list-json", N: 40}, bench.Work{Name: "list-protobuf", N: 40}, bench.Work{Name: "list-gzip", N: 30},
		bench.Work{Name: "watch", N: 1000, Watchers: 40}, bench.Work{Name: "watch", N: 1000, Watchers: 200},
	)
	if err != nil {
		return nil, "", err
	}
	last := report.Results[len(report.Results)-1]
	m["memory"] = measure{Value: mebibytes(last.Memory)}
	_, err = works(bench.Config{}, []string{"schedule", "schedule-anti-affinity", "schedule-zone-affinity", "schedule-spread"},
		bench.Work{Name: "schedule", N: 5000}, bench.Work{Name: "schedule-anti-affinity", N: 900},
		bench.Work{Name: "schedule-zone-affinity", N: 1000}, bench.Work{Name: "schedule-spread", N: 2000},
	)
	return m, report.Version, err
}

// idle measures what a control plane costs that has nothing to do.
func (s *side) idle(ctx context.Context, m map[string]measure) error {
	for _, d := range []time.Duration{settle, idle} {
		before, _ := bench.Used(s.pids...)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
		}
		after, resident := bench.Used(s.pids...)
		m["idle-cpu"] = measure{Value: 100 * (after - before).Seconds() / d.Seconds()}
		m["idle-memory"] = measure{Value: mebibytes(resident)}
	}
	return nil
}

func (s *side) bench(ctx context.Context, c bench.Config) (*bench.Report, error) {
	c.Server, c.PIDs = s.admin, s.pids
	said := time.Time{}
	c.Progress = func(p bench.Progress) {
		if p.Phase == "measuring" && time.Since(said) > 3*time.Second {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "  %-24s %4.0f s  %d/%d  %d failed\n", p.Work, p.Elapsed.Seconds(), p.Done, p.Total, p.Errors)
		}
	}
	b, err := bench.New(c)
	if err != nil {
		return nil, err
	}
	return b.Run(ctx)
}

// worked makes a row's figure of what the load generator found.
func (s *side) worked(key string, r bench.Result) measure {
	m := measure{Value: r.CPUMillisPerOp, Work: &r}
	m.Note = fmt.Sprintf("%s/s, p99 %s ms", number(r.PerSecond), number(r.Latency.P99))
	if strings.HasPrefix(key, "watch") {
		m.Value = r.CPUSeconds
		m.Note = fmt.Sprintf("p99 %s ms", number(r.Latency.P99))
		if r.Lost > 0 {
			m.Note += fmt.Sprintf(", **%d of %d deliveries lost**, %d watches ended", r.Lost, r.Watchers*r.Done, r.EndedWatches)
		} else {
			m.Note += ", none lost"
		}
	}
	if n := r.Failed(); n > 0 {
		m.Note += fmt.Sprintf(", **%d failed**", n)
	}
	return m
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// machine is what the figures were taken on.
type machine struct {
	Processors int    `json:"processors"`
	Model      string `json:"model"`
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	// Load is the mean number of other processes that wanted to run in the minute before.
	Load string `json:"load"`
	Git  string `json:"git"`
}

func thisMachine() machine {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version()}
	m.Model = field("/proc/cpuinfo", "model name")
	m.Memory = field("/proc/meminfo", "MemTotal")
	// What is not known stays empty: it is not what is measured.
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	load, _ := os.ReadFile("/proc/loadavg")
	m.Load, _, _ = strings.Cut(string(load), " ")
	git, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	m.Git = strings.TrimSpace(string(git))
	return m
}

// field finds "name : value" in a file of /proc.
func field(path, name string) string {
	data, _ := os.ReadFile(filepath.Clean(path))
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
