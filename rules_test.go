package skiff

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// arrows say who may see what of this repository. A row holds for the folder and
// all below it, unless a longer row says otherwise; the rows are paths from the
// root, and so is what may be imported. A name that ends in "/..." means a folder
// and all below. What lies below a row's own folder may always be imported by the
// folder, and by what lies beside it there.
var arrows = map[string][]string{
	"api":   {},
	"store": {},
	"cache": {"api", "store"},

	// Only apiserver opens the store; alloc decides by compare-and-swap in it.
	"apiserver":           {"api", "cache", "client", "store"}, // client: it makes the in-process body
	"apiserver/admission": {"api", "client"},                   // client: webhooks and policies are followed as by any component
	"apiserver/alloc":     {"store"},
	"apiserver/authn":     {},
	"apiserver/authz":     {"api"},
	"apiserver/bootstrap": {"api"},
	"apiserver/crd":       {"api"},
	"apiserver/flow":      {},
	"apiserver/openapi":   {},

	"client":    {"api"},
	"scheduler": {"api", "client"},

	// The table of controllers sees each; a controller sees the loop that runs it,
	// what all controllers of pods share, and nothing else of its siblings.
	"controllers":           {"api", "client"},
	"controllers/loop":      {"api", "client"},
	"controllers/workload":  {"api", "client", "controllers/loop"},
	"controllers/rehearsal": {"api", "client", "controllers/loop"},

	// The agent's parts are halves of one thing: they see each other, as the comment of package
	// node lists them; of the network's, none sees another (may).
	"node":    {"api", "client"},
	"network": {"api", "client"},

	"image":    {},
	"registry": {},

	"bench": {}, // the same load for every server

	// pki and local are told what to do by cluster and look at nothing of ours.
	"cluster/local": {},
	"cluster/pki":   {},

	// These see all.
	"cluster":   {"..."},
	"cmd/skiff": {"..."},
	"skifftest": {"..."},

	"cmd/skiff-cni": {}, // small on purpose: a runtime starts it twice for each pod
	"examples":      {},
}

// everyController may be imported by each controller, beside what "controllers" says.
var everyController = []string{"controllers/loop", "controllers/workload", "controllers/rehearsal"}

// testsMaySee lists what the tests of a folder import beyond its arrows.
var testsMaySee = map[string][]string{
	"apiserver":              {"cluster/pki"}, // certificates for real handshakes
	"apiserver/authn":        {"cluster/pki"},
	"bench":                  {"skifftest"},
	"controllers":            {"skifftest", "node/runtime/simulated"}, // stories run against a whole cluster
	"scheduler":              {"skifftest"},
	"controllers/deployment": {"controllers/replicaset"},
}

const module = "skiff"

// listed is what `go list -json` tells of a package.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	Imports         []string
	TestImports     []string
	XTestImports    []string
}

func packages(t *testing.T) (all []listed) {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Env = append(os.Environ(), "GOPROXY=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ours returns a package's path from the root, if it is of this module.
func ours(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

// within: path is folder or lies below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// rowOf is the longest row that path lies in.
func rowOf(path string) (row string, found bool) {
	for r := range arrows {
		if within(path, r) && (!found || len(r) > len(row)) {
			row, found = r, true
		}
	}
	return row, found
}

// may tells whether a package may import another one.
func may(from, to string) bool {
	row, _ := rowOf(from)
	for _, a := range arrows[row] {
		// api is one thing to those outside: its catalogue and the groups below.
		if a == "..." || within(to, a) && (a == "api" || to == a) {
			return true
		}
	}
	switch {
	case row == "controllers" && from == "controllers":
		return within(to, "controllers")
	case row == "controllers":
		return slices.Contains(everyController, to) || within(to, from)
	case row == "network":
		return within(to, from)
	case within(to, row):
		return true
	}
	return false
}

// Arrows point one way.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := ours(p.ImportPath)
		if !ok {
			continue
		}
		if _, ok := rowOf(from); !ok {
			t.Errorf("%s: rules_test.go has no row for it; say what it may see", from)
			continue
		}
		for _, path := range p.Imports {
			if to, ok := ours(path); ok && !may(from, to) {
				t.Errorf("%s must not import %s", from, to)
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			if to, ok := ours(path); ok && to != from && !may(from, to) && !slices.Contains(testsMaySee[from], to) {
				t.Errorf("the tests of %s must not import %s", from, to)
			}
		}
	}
}

// A hole in the rule would be a rule that always holds.
func TestArrowsRefuse(t *testing.T) {
	for from, to := range map[string]string{
		"api":                    "client",
		"api/core":               "store",
		"cache":                  "apiserver",
		"client":                 "store",
		"client/x":               "apiserver",
		"scheduler":              "controllers/loop",
		"scheduler/x":            "cache",
		"controllers/deployment": "controllers/replicaset",
		"controllers/loop":       "controllers/workload",
		"node":                   "network/podnet",
		"node/pod":               "scheduler",
		"network/dns":            "network/proxy",
		"image":                  "registry",
		"registry":               "api",
		"apiserver/admission":    "apiserver/alloc",
		"cluster/local":          "cluster/pki",
	} {
		if may(from, to) {
			t.Errorf("%s may import %s", from, to)
		}
	}
}

// Every package says what it owns, who calls it and what it never does.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests alone
		}
		said := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
				said++
			}
		}
		if said != 1 && p.ImportPath != module {
			t.Errorf("%s has %d package comments; want one", p.ImportPath, said)
		}
	}
}

// files calls f with every file of ours by its path from the root.
func files(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since its folder was read
		} else if err != nil {
			return err
		}
		if d.IsDir() && (path == "bin" || path != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			f(filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// empty are names that say nothing of what is inside.
var empty = []string{"util", "utils", "common", "helper", "helpers", "misc"}

// Files and folders are named for what they hold.
func TestNames(t *testing.T) {
	files(t, func(path string) {
		for part := range strings.SplitSeq(path, "/") {
			name, _, _ := strings.Cut(part, ".")
			for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '_' || r == '-' }) {
				if slices.Contains(empty, strings.ToLower(word)) {
					t.Errorf("%s: %q says nothing of what is inside", path, word)
				}
			}
		}
	})
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?)\s*$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	code    = regexp.MustCompile("`[^`\n]*`")
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchor is what a heading is linked by.
func anchor(heading string) string {
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// Links in the documents lead somewhere.
func TestLinks(t *testing.T) {
	files(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		prose := code.ReplaceAll(fence.ReplaceAll(text, nil), nil)
		for _, m := range link.FindAllSubmatch(prose, -1) {
			checkLink(t, path, string(m[1]))
		}
	})
}

func checkLink(t *testing.T, from, to string) {
	t.Helper()
	if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
		return // elsewhere; no test of ours needs a network
	}
	file, section, _ := strings.Cut(to, "#")
	target := from
	if file != "" {
		target = filepath.Join(filepath.Dir(from), file)
	}
	info, err := os.Stat(target)
	if err != nil {
		t.Errorf("%s: link to %s leads nowhere", from, to)
		return
	}
	if section == "" || info.IsDir() {
		return
	}
	text, err := os.ReadFile(target)
	if err != nil {
		t.Error(err)
		return
	}
	for _, h := range heading.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
		if anchor(string(h[1])) == section {
			return
		}
	}
	t.Errorf("%s: %s has no heading #%s", from, target, section)
}

var (
	path    = regexp.MustCompile("`([a-z][a-z0-9-]*(?:/[a-zA-Z0-9_.-]+)+\\.(?:go|md|sh|yaml|txt))`")
	ourTest = regexp.MustCompile("`(?:[a-z/]+\\.)?((?:Test|Fuzz)[A-Z][A-Za-z]+)`")
)

// Files and tests that the documents name exist: what moves takes its mention along.
func TestMentions(t *testing.T) {
	var sources bytes.Buffer
	files(t, func(p string) {
		if strings.HasSuffix(p, "_test.go") {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Error(err)
			}
			sources.Write(b)
		}
	})
	files(t, func(p string) {
		if filepath.Ext(p) != ".md" {
			return
		}
		text, err := os.ReadFile(p)
		if err != nil {
			t.Error(err)
			return
		}
		for _, m := range path.FindAllSubmatch(text, -1) {
			if named := string(m[1]); !strings.HasPrefix(named, "bin/") && !exists(named) && !exists(filepath.Join(filepath.Dir(p), named)) {
				t.Errorf("%s names %s, which is not there", p, named)
			}
		}
		for _, m := range ourTest.FindAllSubmatch(text, -1) {
			if !bytes.Contains(sources.Bytes(), []byte("func "+string(m[1])+"(")) {
				t.Errorf("%s names %s, which no test is called", p, m[1])
			}
		}
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
