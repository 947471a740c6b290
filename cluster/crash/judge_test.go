package crash

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// A judge who finds nothing wrong is worth something if he would have.
func TestJudge(t *testing.T) {
	put := func(client int, value string, from, to int64, out answered) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: asked{verb: patch, key: "k", value: value}, Call: from, Return: to, Output: out}
	}
	read := func(from, to int64, out answered) porcupine.Operation {
		return porcupine.Operation{ClientId: 9, Input: asked{verb: get, key: "k"}, Call: from, Return: to, Output: out}
	}
	made := porcupine.Operation{Input: asked{verb: create, key: "k", value: "a"}, Call: 0, Return: 1, Output: answered{done, 5, "a"}}
	for name, c := range map[string]struct {
		ops   []porcupine.Operation
		wrong bool
	}{
		"read after write":           {[]porcupine.Operation{made, read(2, 3, answered{done, 5, "a"})}, false},
		"lost write":                 {[]porcupine.Operation{made, read(2, 3, answered{outcome: notFound})}, true},
		"old state":                  {[]porcupine.Operation{made, put(1, "b", 2, 3, answered{done, 6, "b"}), read(4, 5, answered{done, 5, "a"})}, true},
		"revision went back":         {[]porcupine.Operation{made, put(1, "b", 2, 3, answered{done, 4, "b"})}, true},
		"unknown, it was":            {[]porcupine.Operation{made, put(1, "b", 2, 6, answered{}), read(4, 5, answered{done, 7, "b"})}, false},
		"unknown, it was not":        {[]porcupine.Operation{made, put(1, "b", 2, 6, answered{}), read(4, 5, answered{done, 5, "a"})}, false},
		"unknown, later than it can": {[]porcupine.Operation{made, put(1, "b", 2, 3, answered{}), read(4, 5, answered{done, 5, "a"}), read(6, 7, answered{done, 7, "b"})}, true},
		"an update of what has passed": {[]porcupine.Operation{made, put(1, "b", 2, 3, answered{done, 6, "b"}),
			{ClientId: 2, Input: asked{verb: update, key: "k", value: "c", revision: 5}, Call: 4, Return: 5, Output: answered{done, 7, "c"}}}, true},
	} {
		if got := porcupine.CheckOperations(model, c.ops); got == c.wrong {
			t.Errorf("%s: linearizable is %v", name, got)
		}
	}

	one, two, three := change{1, "k", "a", "ADDED"}, change{2, "k", "b", "MODIFIED"}, change{3, "k", "", "DELETED"}
	whole := stretch{who: "whole", from: 0, to: 3, changes: []change{one, two, three}}
	for name, c := range map[string]struct {
		stretch
		says string
	}{
		"all":         {stretch{from: 1, to: 3, changes: []change{two, three}}, ""},
		"a part":      {stretch{from: 0, to: 2, changes: []change{one, two}}, ""},
		"a gap":       {stretch{from: 0, to: 3, changes: []change{one, three}}, "missing"},
		"the end":     {stretch{from: 0, to: 3, changes: []change{one, two}}, "missing"},
		"twice":       {stretch{from: 0, to: 3, changes: []change{one, two, two, three}}, "after 2"},
		"disorder":    {stretch{from: 0, to: 3, changes: []change{two, one, three}}, "after 2"},
		"other words": {stretch{from: 0, to: 3, changes: []change{one, {2, "k", "c", "MODIFIED"}, three}}, "somebody else"},
	} {
		h := newHistory()
		h.stretches = []stretch{whole, c.stretch}
		said := strings.Join(h.wrongWatches(), "\n")
		if c.says == "" && said != "" || !strings.Contains(said, c.says) {
			t.Errorf("%s: the judge says %q, want %q", name, said, c.says)
		}
	}
	h := newHistory()
	h.stretches = []stretch{{who: "whole", to: 3, changes: whole.changes, base: map[string]change{}}, {who: "list", from: 2, to: 2, base: map[string]change{}}}
	if said := fmt.Sprint(h.wrongLists()); !strings.Contains(said, "list listed") {
		t.Errorf("a list that lacks an object: the judge says %q", said)
	}
}
