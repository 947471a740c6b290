package oracle

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// A share is how often both sides said the same.
type share struct {
	Same int `json:"same"`
	Of   int `json:"of"`
}

func (s share) part() float64 {
	if s.Of == 0 {
		return 1
	}
	return float64(s.Same) / float64(s.Of)
}

func (s share) String() string { return fmt.Sprintf("%.2f %% of %d", 100*s.part(), s.Of) }

// A tally counts, by what is compared and of which kind, and keeps examples of the differences.
type tally struct {
	mu          sync.Mutex
	shares      map[string]map[string]*share // by what is compared, then by kind
	differences map[string]*difference       // by what is the same about them
}

type difference struct {
	what, kind, text, example string
	times                     int
}

// results are the shares of all tests of this run; TestMain writes them.
var results = &tally{shares: map[string]map[string]*share{}, differences: map[string]*difference{}}

var (
	keyed   = regexp.MustCompile(`\[[^\]]*\]`)
	quoted  = regexp.MustCompile(`"[^"]*"`)
	numeric = regexp.MustCompile(`-?\d+`)
)

// count adds a comparison; difference is "" if both sides said the same, and example is only called otherwise.
func (t *tally) count(what, kind, text string, example func() string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shares[what] == nil {
		t.shares[what] = map[string]*share{}
	}
	s := t.shares[what][kind]
	if s == nil {
		s = &share{}
		t.shares[what][kind] = s
	}
	s.Of++
	if text == "" {
		s.Same++
		return
	}
	key := what + " " + kind + " " + numeric.ReplaceAllString(quoted.ReplaceAllString(text, `""`), "N")
	d := t.differences[key]
	if d == nil {
		d = &difference{what: what, kind: kind, text: text, example: example()}
		t.differences[key] = d
	}
	d.times++
}

// report prints the shares of the named comparisons, and the most frequent differences of each; it fails where a
// share is below the one that is kept.
func (t *tally) report(test *testing.T, whats ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := readKept(test)
	for _, what := range whats {
		all := share{}
		for _, kind := range slices.Sorted(maps.Keys(t.shares[what])) {
			s := *t.shares[what][kind]
			all.Same, all.Of = all.Same+s.Same, all.Of+s.Of
			if s.Same < s.Of || testing.Verbose() {
				test.Logf("%-12s %-60s %s", what, kind, s)
			}
			if floor, ok := kept[what][kind]; ok && s.part() < floor.part()-slack(floor, s) {
				test.Errorf("%s of %s: %s agree, but %s were kept", what, kind, s, floor)
			}
		}
		test.Logf("%-12s %-60s %s", what, "ALL", all)
		t.reportDifferences(test, what)
	}
}

// slack is what chance may take away from a share: of a whole one, a single case that the longer run did not meet.
func slack(kept, now share) float64 {
	if kept.Same == kept.Of {
		return 1.001 / float64(max(1, now.Of))
	}
	return max(0.02, 3/float64(max(1, now.Of)))
}

func (t *tally) reportDifferences(test *testing.T, what string) {
	list := slices.DeleteFunc(slices.Collect(maps.Values(t.differences)), func(d *difference) bool { return d.what != what })
	slices.SortFunc(list, func(a, b *difference) int {
		if a.times != b.times {
			return b.times - a.times
		}
		return strings.Compare(a.kind+a.text, b.kind+b.text)
	})
	shown := int(environment("ORACLE_SHOW", 10))
	for i, d := range list {
		if i == shown {
			test.Logf("… and %d more sorts of difference", len(list)-shown)
			break
		}
		test.Logf("%d × %s of %s:\n%s\n  for %s", d.times, what, d.kind, cut(d.text, 1500), cut(d.example, int(environment("ORACLE_CUT", 1500))))
	}
}

func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:n] + "…"
}

const keptFile = "../results/oracle.json"

// readKept returns the shares that an earlier run reached.
func readKept(t *testing.T) map[string]map[string]share {
	text, err := os.ReadFile(keptFile)
	if os.IsNotExist(err) || os.Getenv("ORACLE_WRITE") != "" {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Shares map[string]map[string]share `json:"shares"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatalf("read %s: %v", keptFile, err)
	}
	return file.Shares
}

// write keeps the shares of this run beside those of comparisons that did not run.
func (t *tally) write() error {
	var file struct {
		Comment string                       `json:"comment"`
		Seed    int64                        `json:"seed"`
		Shares  map[string]map[string]*share `json:"shares"`
	}
	if text, err := os.ReadFile(keptFile); err == nil {
		if err := json.Unmarshal(text, &file); err != nil {
			return err
		}
	}
	file.Comment = "How often Skiff and upstream's code say the same, by what is compared and of which kind: written by `make oracle`."
	file.Seed = environment("ORACLE_SEED", 1)
	if file.Shares == nil {
		file.Shares = map[string]map[string]*share{}
	}
	maps.Copy(file.Shares, t.shares)
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	// One line for each share.
	text = regexp.MustCompile(`\{\s+"same": (\d+),\s+"of": (\d+)\s+\}`).ReplaceAll(text, []byte(`{"same": $1, "of": $2}`))
	return os.WriteFile(keptFile, append(text, '\n'), 0o644)
}

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard()) // upstream logs what its own two sorts of validation disagree about
	code := m.Run()
	if os.Getenv("ORACLE_WRITE") != "" {
		if err := results.write(); err != nil {
			fmt.Println("write results:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// sameTrees says where two JSON values differ, one place a line.
func sameTrees(upstream, ours any) string {
	var lines []string
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		switch x := a.(type) {
		case map[string]any:
			if y, ok := b.(map[string]any); ok {
				keys := maps.Clone(x)
				maps.Copy(keys, y)
				for _, k := range slices.Sorted(maps.Keys(keys)) {
					walk(path+"."+k, x[k], y[k])
				}
				return
			}
		case []any:
			if y, ok := b.([]any); ok && len(x) == len(y) {
				for i := range x {
					walk(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])
				}
				return
			}
		}
		if s, t := short(a), short(b); s != t && !(isNow(a) && isNow(b)) {
			lines = append(lines, fmt.Sprintf("  %s: upstream %s, skiff %s", path, s, t))
		}
	}
	walk("", upstream, ours)
	return strings.Join(lines, "\n")
}

func short(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// sameSets says which lines only one side has.
func sameSets(upstream, ours []string) string {
	count := map[string]int{}
	for _, s := range upstream {
		count[s]++
	}
	for _, s := range ours {
		count[s]--
	}
	var lines []string
	for _, s := range slices.Sorted(maps.Keys(count)) {
		switch {
		case count[s] > 0:
			lines = append(lines, "  upstream: "+s)
		case count[s] < 0:
			lines = append(lines, "  skiff:    "+s)
		}
	}
	return strings.Join(lines, "\n")
}
