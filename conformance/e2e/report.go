package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// State is what came of a spec.
type State string

const (
	Passed State = "passed"
	Failed State = "failed"
	NotRun State = "not run" // never started, or the suite itself skipped it
)

// Outcome is what came of one spec in one run.
type Outcome struct {
	Spec    string
	State   State
	Reason  string // first line of the error, or why it was skipped
	Seconds float64
	Log     string // all that the program wrote about it; "" for a spec that was cut off
}

// ginkgoReport is what we read of the report that ginkgo writes (--ginkgo.json-report), one per suite.
type ginkgoReport struct {
	SpecReports []ginkgoSpec
}

type ginkgoSpec struct {
	ContainerHierarchyTexts    []string
	LeafNodeType               string
	LeafNodeText               string
	State                      string
	RunTime                    time.Duration
	CapturedGinkgoWriterOutput string
	Failure                    struct {
		Message        string
		ForwardedPanic string
		Location       struct {
			FileName   string
			LineNumber int
		}
	}
}

func (s ginkgoSpec) name() string {
	return strings.Join(append(append([]string{}, s.ContainerHierarchyTexts...), s.LeafNodeText), " ")
}

// readReport returns the outcome of each spec in a report that was begun. An error of the suite as a whole, such as nodes that were
// not ready, is returned as such: then no spec was tried.
func readReport(data []byte) ([]Outcome, error) {
	var suites []ginkgoReport
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read ginkgo's report: %w", err)
	}
	var all []Outcome
	var broken error
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.LeafNodeType != "It" {
				if s.State != "passed" && strings.HasPrefix(s.LeafNodeType, "Synchronized") {
					broken = errors.Join(broken, fmt.Errorf("the suite's %s: %s", s.LeafNodeType, firstLine(s.Failure.Message)))
				}
				continue
			}
			if o, ran := outcome(s); ran {
				all = append(all, o)
			}
		}
	}
	if len(all) == 0 {
		return nil, broken
	}
	return all, nil
}

// outcome translates one spec's report; false for a spec that was not selected or not begun.
func outcome(s ginkgoSpec) (Outcome, bool) {
	o := Outcome{Spec: s.name(), Seconds: s.RunTime.Seconds(), Log: s.CapturedGinkgoWriterOutput}
	switch s.State {
	case "passed":
		o.State = Passed
	case "failed", "panicked", "timedout", "aborted", "interrupted":
		o.State = Failed
		o.Reason = reason(s)
		o.Log += fmt.Sprintf("\n%s: %s\n%s\n%s:%d\n", s.State, s.Failure.Message, s.Failure.ForwardedPanic, s.Failure.Location.FileName, s.Failure.Location.LineNumber)
	case "skipped":
		if s.Failure.Message == "" && s.RunTime == 0 {
			return o, false
		}
		o.State, o.Reason = NotRun, "skipped: "+firstLine(s.Failure.Message)
	default: // pending, or not reached
		return o, false
	}
	return o, true
}

// cutOff begins the reason of a spec that was interrupted from outside.
const cutOff = "cut off: "

func reason(s ginkgoSpec) string {
	switch {
	case s.Failure.ForwardedPanic != "":
		return "panic: " + firstLine(s.Failure.ForwardedPanic)
	case s.State == "interrupted" || s.State == "aborted":
		return cutOff + firstLine(s.Failure.Message)
	default:
		return firstLine(s.Failure.Message)
	}
}

// firstLine returns the first line that says something, in a length that fits a table.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			if r := []rune(line); len(r) > 300 {
				line = string(r[:300]) + "…"
			}
			return line
		}
	}
	return ""
}

// readReportFile is readReport of a file; without the file nothing was reported.
func readReportFile(file string) ([]Outcome, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readReport(data)
}
