package oracle

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiserviceetcd "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	"skiff/api"
)

// TestTables compares what `kubectl get` and `kubectl get -o wide` print: the columns with their descriptions, and the
// cells of random objects, valid or not.
func TestTables(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))
	t.Logf("ORACLE_SEED=%d ORACLE_N=%d", seed, n)
	generator := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	for _, p := range pairs(t) {
		if !chosen(p.name) {
			continue
		}
		w := newWriter(t, p, seed+7)
		compareColumns(t, generator, p)
		for i := range len(w.seeds) + n {
			text := w.pool[i%len(w.seeds)]
			if i >= len(w.seeds) {
				text = w.changed(text, 1+w.dice.Intn(4))
			}
			compareRow(t, generator, p, text)
		}
	}
	results.report(t, "columns", "rows")
}

// tableOf is upstream's table of one object; nil: upstream has none of this kind, or cannot print the object.
func tableOf(generator *printers.HumanReadableGenerator, p *pair, in runtime.Object) (table *metav1.Table) {
	_ = safely(func() {
		if made, err := generator.GenerateTable(in, printers.GenerateOptions{Wide: true}); err == nil {
			table = made
		} else if p.name == "apiservices.apiregistration.k8s.io" { // the aggregator prints its own
			table, _ = (&apiserviceetcd.REST{}).ConvertToTable(p.context(""), in, nil)
		}
	})
	return table
}

func compareColumns(t *testing.T, generator *printers.HumanReadableGenerator, p *pair) {
	in, err := p.internal(must(t, p.seeds[0]))
	if err != nil {
		t.Fatalf("seed of %s: %v", p.name, err)
	}
	var want, have []string
	if table := tableOf(generator, p, in); table != nil {
		for i, c := range table.ColumnDefinitions {
			want = append(want, fmt.Sprintf("%d %+v", i, c))
		}
	}
	for i, c := range p.row.Kind.Columns {
		have = append(have, fmt.Sprintf("%d %+v", i, c))
	}
	results.count("columns", p.name, sameSets(want, have), func() string { return "any object" })
}

func compareRow(t *testing.T, generator *printers.HumanReadableGenerator, p *pair, text []byte) {
	var in runtime.Object
	var err error
	if safely(func() { in, err = p.internal(text) }) != nil || err != nil {
		return
	}
	table := tableOf(generator, p, in)
	if table == nil || p.row.Kind.Row == nil {
		return
	}
	// Both sides print the same object: what upstream's defaults made of it.
	shown := p.decode(must(t, p.shown(in)))
	var difference string
	for range 3 { // ages count seconds, and one may pass in between
		if difference = sameCells(tableOf(generator, p, in), p.row, shown); difference == "" {
			break
		}
	}
	results.count("rows", p.name, difference, func() string { return string(text) })
}

func sameCells(table *metav1.Table, row *api.Resource, obj api.Object) (difference string) {
	var have []any
	if p := safely(func() { have = row.Kind.Row(obj) }); p != nil {
		return fmt.Sprintf("  skiff panics: %v", p)
	}
	want := table.Rows[0].Cells
	// IPAddresses have a third cell upstream, without a column; clients leave it out.
	want = want[:min(len(want), len(table.ColumnDefinitions))]
	for i := range max(len(want), len(have)) {
		var a, b any
		if i < len(want) {
			a = want[i]
		}
		if i < len(have) {
			b = have[i]
		}
		if short(a) != short(b) { // as JSON: a number's size is not told
			difference += fmt.Sprintf("  %s: upstream %#v, skiff %#v\n", table.ColumnDefinitions[min(i, len(table.ColumnDefinitions)-1)].Name, a, b)
		}
	}
	return difference
}
