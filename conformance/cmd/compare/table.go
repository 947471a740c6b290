package main

import (
	"fmt"
	"os"
	"strings"
)

// row is a line of the table.
type row struct {
	key, what, unit string
	target          float64 // at most this of Skiff
}

// rows are in the order of the page.
func rows() []row {
	return []row{
		{"api-ready", "API server ready, empty data", "s", 0.5},
		{"ready", "control plane ready (the default service account exists)", "s", 0.7},
		{"idle-memory", "idle: memory of all processes", "MiB", 90},
		{"idle-cpu", "idle: processor time", "% of a core", 0.8},
		{"create", "create 5,000 pods (JSON, 32 clients)", "ms CPU", 0.55},
		{"get", "GET a pod (JSON)", "ms CPU", 0.10},
		{"patch", "merge-patch a pod", "ms CPU", 0.8},
		{"list-json", "LIST 5,000 pods, JSON, HTTP/2, TLS", "ms CPU", 20},
		{"list-protobuf", "the same, protobuf", "ms CPU", 13},
		{"list-gzip", "the same, JSON with gzip", "ms CPU", 40},
		{"watch-40", "1,000 ConfigMaps (1 KiB) created while 40 watchers read", "s CPU in all", 1.1},
		{"watch-200", "the same with 200 watchers", "s CPU in all", 4},
		{"memory", "memory with 5,000 pods after that work", "MiB", 220},
		{"schedule", "create and schedule 5,000 pods on 1,000 nodes", "ms CPU", 1},
		{"schedule-anti-affinity", "900 pods with required anti-affinity, 1,000 nodes", "ms CPU", 1.5},
		{"schedule-zone-affinity", "1,000 pods with required zone affinity", "ms CPU", 1.5},
		{"schedule-spread", "2,000 pods with hard topology spreading", "ms CPU", 1.5},
		{"start", "a pod's start, one after another, image present", "ms at the median", 250},
		{"start-together", "80 pods at once on one node, until all are Ready", "s", 8},
		{"node-memory", "node, idle: memory of agent, service proxy and DNS", "MiB", 60},
		{"node-memory-92", "the same with 92 pods", "MiB", 90},
		{"node-cpu-92", "node with 92 idle pods: processor time of the same", "% of a core", 1.5},
		{"runtime-cpu-92", "the same: processor time of containerd", "% of a core", 2},
	}
}

// table is the comparison as a Markdown table, with what it was made under.
func (out *outcome) table() string {
	var b strings.Builder
	m := out.Machine
	fmt.Fprintf(&b, "Measured on %s by `%s` at commit %s: %d processors (%s), %s, Linux %s, %s; load before it began: %s. ",
		out.Date.Format("2006-01-02 15:04 UTC"), out.Command, m.Git, m.Processors, m.Model, m.Memory, m.Kernel, m.Go, m.Load)
	fmt.Fprintf(&b, "GOGC=%s, GOMEMLIMIT=%s for both sides. ", orDefault(out.Environment["GOGC"]), orDefault(out.Environment["GOMEMLIMIT"]))
	fmt.Fprintf(&b, "Upstream is %s with etcd, Skiff says %s.\n\n", out.Versions["upstream"], out.Versions["skiff"])
	b.WriteString("| work | upstream | Skiff | upstream / Skiff | asked of Skiff | |\n|---|---|---|---|---|---|\n")
	for _, r := range rows() {
		up, hasUp := out.Upstream[r.key]
		ours, hasOurs := out.Skiff[r.key]
		ratio, verdict := "", ""
		if hasUp && hasOurs && ours.Value > 0 {
			ratio = number(up.Value/ours.Value) + " ×"
		}
		if hasOurs {
			verdict = "**missed**"
			if ours.Value <= r.target {
				verdict = "reached"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | ≤ %s %s | %s |\n", r.what, cell(up, hasUp, r.unit), cell(ours, hasOurs, r.unit), ratio, number(r.target), r.unit, verdict)
	}
	return b.String()
}

func orDefault(v string) string {
	if v == "" {
		return "Go's default"
	}
	return v
}

func cell(m measure, measured bool, unit string) string {
	switch {
	case !measured:
		return "not measured"
	case m.Note != "":
		return fmt.Sprintf("%s %s (%s)", number(m.Value), unit, m.Note)
	}
	return number(m.Value) + " " + unit
}

// number has three digits that mean something.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.0995:
		return fmt.Sprintf("%.3f", v)
	case v < 9.95:
		return fmt.Sprintf("%.2f", v)
	case v < 99.5:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// Between these lines of the page the table stands.
const (
	begin = "<!-- make bench writes from here -->"
	end   = "<!-- make bench writes to here -->"
)

func writePage(path, table string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the lines %q and %q are not there", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n\n"+table+"\n"+end+after), 0o644)
}
