// Command rules lists the rules of upstream's validation that a run of the oracle did not reach: the lines of its
// source which make an error and were never run. It reads a Go coverage profile and writes text.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	profile := flag.String("profile", "", "the coverage profile")
	flag.Parse()
	if err := run(*profile, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

// A block is a part of a file that runs as a whole.
type block struct {
	from, to position
	times    int
}

type position struct{ line, column int }

func (p position) before(q position) bool {
	return p.line < q.line || p.line == q.line && p.column < q.column
}

func run(profile string, out io.Writer) error {
	blocks, err := read(profile)
	if err != nil {
		return fmt.Errorf("read %s: %w", profile, err)
	}
	var missed []string
	reached := 0
	for _, file := range slices.Sorted(maps.Keys(blocks)) {
		lines, n, err := rulesOf(file, blocks[file])
		if err != nil {
			return fmt.Errorf("look for rules in %s: %w", file, err)
		}
		reached += n
		missed = append(missed, lines...)
	}
	fmt.Fprintf(out, "# Places in upstream's validation that make an error: %d reached by the oracle, %d not (%.1f %% reached).\n", reached, len(missed), 100*float64(reached)/float64(max(1, reached+len(missed))))
	fmt.Fprintln(out, "# Those not reached follow. Many cannot be: they are of kinds and features that v1.37 has off, or guard against what cannot be.")
	fmt.Fprintln(out, "# Written by `make oracle-rules`.")
	for _, line := range missed {
		fmt.Fprintln(out, line)
	}
	return nil
}

func read(profile string) (map[string][]block, error) {
	f, err := os.Open(profile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	blocks := map[string][]block{}
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		file, rest, ok := strings.Cut(scanner.Text(), ".go:")
		if !ok {
			continue // the line of the mode
		}
		var b block
		var statements int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.from.line, &b.from.column, &b.to.line, &b.to.column, &statements, &b.times); err != nil {
			return nil, fmt.Errorf("line %q: %w", scanner.Text(), err)
		}
		blocks[file+".go"] = append(blocks[file+".go"], b)
	}
	return blocks, scanner.Err()
}

// makers are the funcs of package field that make an error.
var makers = []string{"Invalid", "Required", "Forbidden", "NotSupported", "Duplicate", "TooLong", "TooLongCharacters", "TooMany", "TypeInvalid", "NotFound"}

// rulesOf returns the places of a file that were not reached, and how many were.
func rulesOf(file string, blocks []block) (missed []string, reached int, err error) {
	path, err := locate(file)
	if err != nil {
		return nil, 0, err
	}
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		return nil, 0, err
	}
	function := ""
	ast.Inspect(tree, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncDecl:
			function = x.Name.Name
		case *ast.CallExpr:
			sel, ok := x.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, ok := sel.X.(*ast.Ident)
			if !ok || of.Name != "field" || !slices.Contains(makers, sel.Sel.Name) {
				return true
			}
			at := files.Position(x.Pos())
			switch times, known := timesAt(blocks, position{at.Line, at.Column}); {
			case !known:
			case times > 0:
				reached++
			default:
				missed = append(missed, fmt.Sprintf("%s:%d %s %s", file, at.Line, function, sel.Sel.Name))
			}
		}
		return true
	})
	return missed, reached, nil
}

// timesAt is how often what stands at a place was run: as often as the smallest block around it, in any of the runs.
func timesAt(blocks []block, at position) (times int, known bool) {
	var least block
	for _, b := range blocks {
		if at.before(b.from) || b.to.before(at) {
			continue
		}
		switch inside := least.from.before(b.from) || b.to.before(least.to); {
		case !known || inside:
			least, times, known = b, b.times, true
		case b.from == least.from && b.to == least.to:
			times = max(times, b.times)
		}
	}
	return times, known
}

// roots are the folders of modules, asked for once.
var roots = map[string]string{}

// locate finds a source file by its import path.
func locate(file string) (string, error) {
	module := strings.Join(strings.SplitN(file, "/", 3)[:2], "/") // k8s.io/kubernetes, k8s.io/apimachinery
	if roots[module] == "" {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			return "", fmt.Errorf("find module %s: %w", module, err)
		}
		roots[module] = strings.TrimSpace(string(dir))
	}
	return filepath.Join(roots[module], strings.TrimPrefix(file, module)), nil
}
