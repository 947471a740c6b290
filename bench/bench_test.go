package bench_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/bench"
	"skiff/skifftest"
)

// Every work does all that it is told to, loses nothing, and leaves nothing.
func TestWorks(t *testing.T) {
	c := skifftest.New(t)
	works, err := bench.ParseWorks([]string{
		"create=30", "create-protobuf=10", "get=30", "get-protobuf=5", "patch=20", "apply=20", "list=3", "watch=20", "churn=5", "delete=30",
		"schedule=20", "schedule-node-affinity=10", "schedule-zone-affinity=10", "schedule-anti-affinity=10", "schedule-spread=20",
		"start=2", "start-together=5",
	})
	if err != nil {
		t.Fatal(err)
	}
	var seen []bench.Progress
	b, err := bench.New(bench.Config{
		Server: c.RESTConfig(), Works: works, Clients: 4, Watchers: 3, Nodes: 20, Objects: 200, PIDs: []int{os.Getpid()}, TimeLimit: 20 * time.Second,
		Progress: func(p bench.Progress) { seen = append(seen, p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != len(works) || len(seen) < 2*len(works) {
		t.Errorf("%d results and %d signs of progress of %d works", len(report.Results), len(seen), len(works))
	}
	for i, r := range report.Results {
		if r.Work != works[i].Name || r.Done != works[i].N || len(r.Errors) > 0 {
			t.Errorf("%s: %d of %d done, errors %v", r.Work, r.Done, works[i].N, r.Errors)
		}
		if l := r.Latency; l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.Max || l.Max > 1000*r.Seconds*1.5+1000 {
			t.Errorf("%s: latencies %+v in %f s", r.Work, l, r.Seconds)
		}
		if r.Memory < 1<<20 || r.PeakMemory < r.Memory || r.PeakMemory < r.MemoryBefore {
			t.Errorf("%s: memory %d, at most %d", r.Work, r.Memory, r.PeakMemory)
		}
		if r.Work == "watch" && (r.Deliveries != 3*20 || r.Lost != 0 || r.EndedWatches != 0) {
			t.Errorf("watch: %d deliveries, %d lost, %d ended", r.Deliveries, r.Lost, r.EndedWatches)
		}
	}
	nothingLeft(t, kubernetes.NewForConfigOrDie(c.RESTConfig()))
	readable(t, report)
}

func nothingLeft(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	namespaces, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range namespaces.Items {
		if strings.HasPrefix(n.Name, "skiff-bench-") {
			t.Errorf("namespace %s is still there", n.Name)
		}
	}
	nodes, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Errorf("%d nodes instead of the one that there was (%v)", len(nodes.Items), err)
	}
}

func readable(t *testing.T, report *bench.Report) {
	t.Helper()
	var text strings.Builder
	report.Text(&text)
	for _, r := range report.Results {
		if !strings.Contains(text.String(), r.Work+" ") {
			t.Errorf("the table has no line of %s:\n%s", r.Work, text.String())
		}
	}
	encoded, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var again bench.Report
	if err := json.Unmarshal(encoded, &again); err != nil || again.Results[0].Done != 30 {
		t.Errorf("the report in JSON: %v, %s", err, encoded)
	}
}

// What cannot be placed is counted, and ends no later than it was told to.
func TestFailuresAreCounted(t *testing.T) {
	c := skifftest.New(t, skifftest.Config{NoScheduler: true})
	b, err := bench.New(bench.Config{
		Server: c.RESTConfig(), Works: []bench.Work{{Name: "schedule", N: 5}}, Nodes: 2, TimeLimit: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := report.Results[0]
	if r.Done != 0 || r.Errors["no node"] != 5 || r.Seconds > 5 {
		t.Errorf("without a scheduler: %d done, errors %v, after %f s", r.Done, r.Errors, r.Seconds)
	}
	nothingLeft(t, kubernetes.NewForConfigOrDie(c.RESTConfig()))
}

// An interrupt ends the work and still removes what was made.
func TestInterrupt(t *testing.T) {
	c := skifftest.New(t)
	ctx, interrupt := context.WithCancel(t.Context())
	b, err := bench.New(bench.Config{
		Server: c.RESTConfig(), Works: []bench.Work{{Name: "create", N: 100_000}}, Clients: 2,
		Progress: func(p bench.Progress) {
			if p.Done > 0 {
				interrupt()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.Run(ctx)
	if err == nil || len(report.Results) != 1 || report.Results[0].Done == 0 {
		t.Errorf("interrupted: %v, %+v", err, report.Results)
	}
	clients := kubernetes.NewForConfigOrDie(c.RESTConfig())
	nothingLeft(t, clients)
	if _, err := clients.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); apierrors.IsNotFound(err) {
		t.Error("namespace default is gone")
	}
}
