package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Results is what came of each conformance spec when it was last tried: the file conformance/results/v1.37.2.json.
type Results struct {
	Version string   `json:"version"` // of the suite
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
	NotRun  int      `json:"notRun"`
	Specs   []Result `json:"specs"` // sorted by name; one for each spec of the suite
}

// Result is one spec's line.
type Result struct {
	Name    string  `json:"name"`
	State   State   `json:"state"`
	Reason  string  `json:"reason,omitempty"` // first line of the error
	Seconds float64 `json:"seconds,omitempty"`
	Date    string  `json:"date,omitempty"` // day when it was last tried
}

// ReadResults reads a file of results; without one there is an empty one.
func ReadResults(file string) (Results, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return Results{}, nil
	}
	if err != nil {
		return Results{}, fmt.Errorf("read results: %w", err)
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		return Results{}, fmt.Errorf("read results in %s: %w", file, err)
	}
	return r, nil
}

// Write replaces the file.
func (r Results) Write(file string) error {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(file+".new", out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return os.Rename(file+".new", file)
}

// Merge returns results for exactly the given specs: of this run where it tried them, else of before. A spec that a run did not
// come to, or that the suite skipped, keeps what an earlier run found.
func (r Results) Merge(specs []string, run []Outcome, day time.Time) Results {
	before := map[string]Result{}
	for _, s := range r.Specs {
		before[s.Name] = s
	}
	for _, o := range run {
		if o.State == NotRun && before[o.Spec].State != "" {
			continue
		}
		before[o.Spec] = Result{Name: o.Spec, State: o.State, Reason: o.Reason, Seconds: float64(int(o.Seconds*10)) / 10, Date: day.UTC().Format(time.DateOnly)}
	}
	merged := Results{Version: r.Version}
	for _, name := range slices.Sorted(slices.Values(specs)) {
		s, tried := before[name]
		if !tried {
			s = Result{Name: name, State: NotRun}
		}
		merged.Specs = append(merged.Specs, s)
		switch s.State {
		case Passed:
			merged.Passed++
		case Failed:
			merged.Failed++
		default:
			merged.NotRun++
		}
	}
	return merged
}

// Summary is the line that a run ends with.
func Summary(run []Outcome) string {
	count := map[State]int{}
	for _, o := range run {
		count[o.State]++
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", count[Passed], count[Failed], count[NotRun])
}

// Regressions names the specs that failed in this run and had passed before.
func (r Results) Regressions(run []Outcome) []string {
	passed := map[string]bool{}
	for _, s := range r.Specs {
		passed[s.Name] = s.State == Passed
	}
	var worse []string
	for _, o := range run {
		if o.State != Passed && passed[o.Spec] {
			worse = append(worse, o.Spec)
		}
	}
	return worse
}

// The count in the README stands between these.
const (
	countBegin = "<!-- conformance -->"
	countEnd   = "<!-- /conformance -->"
)

// Sentence is the count as the README tells it, with the days when specs were last tried.
func (r Results) Sentence() string {
	s := fmt.Sprintf("%d of the %d conformance specs of Kubernetes %s pass", r.Passed, len(r.Specs), r.Version)
	if r.NotRun > 0 {
		s += fmt.Sprintf(", %d were not run", r.NotRun)
	}
	var days []string
	for _, spec := range r.Specs {
		if spec.Date != "" {
			days = append(days, spec.Date)
		}
	}
	if len(days) == 0 {
		return s
	}
	if first, last := slices.Min(days), slices.Max(days); first != last {
		return s + fmt.Sprintf(" (%s to %s)", first, last)
	}
	return s + fmt.Sprintf(" (%s)", days[0])
}

// WithCount returns a document with the count between its markers. Without markers it is an error: somebody has removed them.
func (r Results) WithCount(document string) (string, error) {
	before, rest, ok := strings.Cut(document, countBegin)
	if !ok {
		return "", fmt.Errorf("write the conformance count: the document has no %s", countBegin)
	}
	_, after, ok := strings.Cut(rest, countEnd)
	if !ok {
		return "", fmt.Errorf("write the conformance count: the document has no %s", countEnd)
	}
	return before + countBegin + r.Sentence() + countEnd + after, nil
}

// NotPassed returns those of specs that did not pass when last tried, or were never tried.
func (r Results) NotPassed(specs []string) (some []string) {
	passed := map[string]bool{}
	for _, s := range r.Specs {
		passed[s.Name] = s.State == Passed
	}
	for _, s := range specs {
		if !passed[s] {
			some = append(some, s)
		}
	}
	return some
}
