package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run measured. Its JSON form is meant to be kept.
type Report struct {
	Date    time.Time `json:"date"`
	Server  string    `json:"server"`
	Version string    `json:"version"` // as the server says
	CPUs    int       `json:"cpus"`    // of the machine of the load generator
	// What the works were done with.
	Clients  int      `json:"clients"`
	Watchers int      `json:"watchers"`
	Nodes    int      `json:"nodes"`
	Objects  int      `json:"objects"`
	Results  []Result `json:"results"`
}

// Result is what was measured of one work.
type Result struct {
	Work      string         `json:"work"`
	What      string         `json:"what"`
	N         int            `json:"n"` // operations wanted
	Unit      string         `json:"unit"`
	Done      int            `json:"done"` // operations that succeeded
	Errors    map[string]int `json:"errors,omitempty"`
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"perSecond"`
	// Latency of an operation in milliseconds: of requests, until the answer has
	// been read; of pods, from the request to their node or readiness; of watches,
	// from the request that creates an object to its event.
	Latency Latency `json:"latencyMilliseconds"`
	Bytes   int64   `json:"bytes,omitempty"` // of all answers

	// Of the processes that were named: processor time in all and per operation,
	// and resident memory in bytes.
	CPUSeconds     float64 `json:"cpuSeconds,omitempty"`
	CPUMillisPerOp float64 `json:"cpuMillisecondsPerOperation,omitempty"`
	MemoryBefore   int64   `json:"memoryBefore,omitempty"`
	Memory         int64   `json:"memory,omitempty"`
	PeakMemory     int64   `json:"peakMemory,omitempty"`

	Watchers     int   `json:"watchers,omitempty"`
	Deliveries   int64 `json:"deliveries,omitempty"`
	Lost         int64 `json:"lost,omitempty"`
	EndedWatches int64 `json:"endedWatches,omitempty"`
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Failed counts the operations that did not succeed.
func (r Result) Failed() (n int) {
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "%s, %s, %d clients, %d processors shared with the load\n", r.Server, r.Version, r.Clients, r.CPUs)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "WORK\tDONE\tFAILED\tPER SECOND\tP50 ms\tP90\tP99\tMAX\tCPU ms/OP\tCPU s\tMEMORY MiB\tPEAK\t")
	for _, x := range r.Results {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", x.Work, x.Done, x.Failed(), x.PerSecond,
			number(x.Latency.P50), number(x.Latency.P90), number(x.Latency.P99), number(x.Latency.Max),
			number(x.CPUMillisPerOp), number(x.CPUSeconds), mebibytes(x.Memory), mebibytes(x.PeakMemory))
	}
	t.Flush()
	for _, x := range r.Results {
		if x.Watchers > 0 {
			fmt.Fprintf(w, "%s: %d watchers had %d deliveries, %d lost, %d watches ended\n", x.Work, x.Watchers, x.Deliveries, x.Lost, x.EndedWatches)
		}
		if x.Bytes > 0 && x.Done > 0 {
			fmt.Fprintf(w, "%s: %.2f MiB each\n", x.Work, float64(x.Bytes)/float64(x.Done)/(1<<20))
		}
		for _, reason := range slices.Sorted(maps.Keys(x.Errors)) {
			fmt.Fprintf(w, "%s: %d failed: %s\n", x.Work, x.Errors[reason], strings.ReplaceAll(reason, "\n", " "))
		}
	}
}

// number has three digits that mean something, and "-" for what was not measured.
func number(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 1:
		return fmt.Sprintf("%.3f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func mebibytes(bytes int64) string { return number(float64(bytes) / (1 << 20)) }
