package e2e

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The certified suite of this version has 462 specs; upstream's list and its program must agree on them.
func TestSpecs(t *testing.T) {
	specs, err := Specs("..")
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != 462 {
		t.Errorf("%d specs, want 462", len(specs))
	}
	serial := 0
	for _, s := range specs {
		if !strings.Contains(s, "[Conformance]") {
			t.Errorf("not a conformance spec: %s", s)
		}
		if alone(s) {
			serial++
		}
	}
	if serial == 0 || serial > 60 {
		t.Errorf("%d specs must run alone, which cannot be", serial)
	}
}

// The selection that CI runs names specs that there are, and each of them has passed.
func TestSelectionOfCI(t *testing.T) {
	specs, err := Specs("..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../ci.txt")
	if err != nil {
		t.Fatal(err)
	}
	selection, err := Listed(specs, string(text))
	if err != nil {
		t.Fatal(err)
	}
	results, err := ReadResults("../results/v1.37.2.json")
	if err != nil {
		t.Fatal(err)
	}
	if open := results.NotPassed(selection); len(open) > 0 {
		t.Errorf("never passed, so CI would not notice: %q", open)
	}
}

func TestSelected(t *testing.T) {
	specs := []string{"[sig-node] Pods should be told [Conformance]", "[sig-apps] Deployment should roll [Conformance]"}
	for _, c := range []struct{ focus, skip string }{{"Deployment|roll", ""}, {"", "Pods"}, {"should", "told"}} {
		some, err := Selected(specs, c.focus, c.skip)
		if err != nil || !reflect.DeepEqual(some, specs[1:]) {
			t.Errorf("%+v: %q, %v", c, some, err)
		}
	}
	if _, err := Selected(specs, "nothing of the kind", ""); err == nil {
		t.Error("a pattern without a match is no error")
	}
	if _, err := Listed(specs, "# some\n\n"+specs[0]+"\n"); err != nil {
		t.Error(err)
	}
	if _, err := Listed(specs, "[sig-apps] Deployment\n"); err == nil {
		t.Error("a line that names no spec is no error")
	}
}

func TestBatches(t *testing.T) {
	for n := range 20 {
		var specs []string
		for i := range n {
			specs = append(specs, string(rune('a'+i)))
		}
		var all []string
		for _, b := range batches(specs, 3) {
			if len(b) == 0 || len(b) > 3 {
				t.Errorf("%d specs: a batch of %d", n, len(b))
			}
			all = append(all, b...)
		}
		slices.Sort(all)
		if !slices.Equal(all, specs) {
			t.Errorf("%d specs: the batches hold %q", n, all)
		}
	}
}

// A report of ginkgo's, shortened: one spec of each end, one that was not selected, and the suite's own set-up.
func TestReadReport(t *testing.T) {
	data, err := os.ReadFile("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	found, err := readReport(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i].Log = ""
	}
	want := []Outcome{
		{Spec: "[sig-node] Pods should pass [Conformance]", State: Passed, Seconds: 2.5},
		{Spec: "[sig-node] Pods should fail [Conformance]", State: Failed, Reason: "expected 1, got 2", Seconds: 1},
		{Spec: "[sig-node] Pods should panic [Conformance]", State: Failed, Reason: "panic: runtime error: index out of range", Seconds: 1},
		{Spec: "[sig-node] Pods should be skipped by the suite [Conformance]", State: NotRun, Reason: "skipped: Only supported for providers [gce]", Seconds: 0.1},
		{Spec: "[sig-node] Pods should have ended long ago [Conformance]", State: Failed, Reason: "cut off: Interrupted by User", Seconds: 600},
	}
	if !reflect.DeepEqual(found, want) {
		t.Errorf("got\n%+v\nwant\n%+v", found, want)
	}
}

func TestReportOfABrokenSuite(t *testing.T) {
	data := `[{"SpecReports": [
		{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no nodes\nat all"}},
		{"LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped"}]}]`
	found, err := readReport([]byte(data))
	if len(found) > 0 || err == nil || !strings.Contains(err.Error(), "no nodes") {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestMerge(t *testing.T) {
	specs := []string{"d", "c", "b", "a"}
	first := Results{Version: "v1"}.Merge(specs, []Outcome{
		{Spec: "a", State: Passed, Seconds: 1.26}, {Spec: "b", State: Failed, Reason: "no"}, {Spec: "gone", State: Passed}, {Spec: "c", State: NotRun, Reason: "skipped: not here"},
	}, time.Date(2026, 1, 1, 23, 0, 0, 0, time.UTC))
	second := first.Merge(specs, []Outcome{{Spec: "b", State: Passed}, {Spec: "a", State: NotRun}}, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	want := Results{Version: "v1", Passed: 2, Failed: 0, NotRun: 2, Specs: []Result{
		{Name: "a", State: Passed, Seconds: 1.2, Date: "2026-01-01"}, // this run did not come to it
		{Name: "b", State: Passed, Date: "2026-01-02"},
		{Name: "c", State: NotRun, Reason: "skipped: not here", Date: "2026-01-01"},
		{Name: "d", State: NotRun},
	}}
	if !reflect.DeepEqual(second, want) {
		t.Errorf("got\n%+v\nwant\n%+v", second, want)
	}
	if worse := second.Regressions([]Outcome{{Spec: "a", State: Failed}, {Spec: "d", State: Failed}}); !slices.Equal(worse, []string{"a"}) {
		t.Errorf("regressions: %q", worse)
	}
	if open := second.NotPassed(specs); !slices.Equal(open, []string{"d", "c"}) {
		t.Errorf("not passed: %q", open)
	}

	file := filepath.Join(t.TempDir(), "results.json")
	if err := second.Write(file); err != nil {
		t.Fatal(err)
	}
	if read, err := ReadResults(file); err != nil || !reflect.DeepEqual(read, want) {
		t.Errorf("read back %+v, %v", read, err)
	}
}

func TestCountInADocument(t *testing.T) {
	r := Results{Version: "v1", Passed: 1, NotRun: 1, Specs: []Result{{Date: "2026-01-02"}, {}, {Date: "2026-01-01"}}}
	got, err := r.WithCount("Of it " + countBegin + "old" + countEnd + " so far.")
	want := "Of it " + countBegin + "1 of the 3 conformance specs of Kubernetes v1 pass, 1 were not run (2026-01-01 to 2026-01-02)" + countEnd + " so far."
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if again, _ := r.WithCount(got); again != got {
		t.Errorf("written again: %q", again)
	}
	if _, err := r.WithCount("no markers"); err == nil {
		t.Error("a document without markers is no error")
	}
}

func TestFirstLine(t *testing.T) {
	if got := firstLine("\n\n  wrong  \nmore"); got != "wrong" {
		t.Errorf("got %q", got)
	}
	if got := firstLine(strings.Repeat("é", 1000)); len([]rune(got)) != 301 {
		t.Errorf("%d runes", len([]rune(got)))
	}
}
