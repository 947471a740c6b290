// Package bench puts load on a Kubernetes API server, Skiff's or any other, and
// measures what comes of it: latencies, rates, errors, lost events, and what the
// server's processes spend on it. cmd/skiff calls it, and what compares two
// servers. It knows nothing of Skiff's own packages, so that the same work is put
// on every server, and it works in a namespace of its own, which it removes.
package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
)

// Config says what is done, to whom.
type Config struct {
	// Server is where the API is, and who asks. Its limits on clients are ignored. Required.
	Server *rest.Config
	// Works are done in this order; ParseWorks makes them. Required.
	Works []Work
	// Clients is how many requests are in flight at once. 0: 32.
	Clients int
	// Watchers is how many read along in works that watch, each over a connection of its own. 0: 40.
	Watchers int
	// Nodes is how many Node objects are made for works that schedule. 0: 1,000.
	Nodes int
	// Objects is how many pods there are while others are read or changed. 0: 5,000.
	Objects int
	// Image is what pods that really start run; they need a command that does not end. Empty: registry.k8s.io/pause:3.10.
	Image string
	// PIDs are the server's processes; what they use is summed. Empty: not measured.
	PIDs []int
	// TimeLimit for each work: what is not done by then is counted as an error. 0: 2 minutes.
	TimeLimit time.Duration
	// Progress is called a few times a second, by one goroutine at a time. Nil: nobody looks.
	Progress func(Progress)
}

// Progress is how far a work is.
type Progress struct {
	Work        string
	Phase       string // "preparing", "measuring", "cleaning up"
	Done, Total int
	Errors      int
	Elapsed     time.Duration // of the phase
}

// Work is one kind of load, so many times.
type Work struct {
	Name string
	N    int
	// Watchers is Config.Watchers for this work alone; 0: as there.
	Watchers int
}

// kind is a row of the table of works.
type kind struct {
	name  string
	group string // several are meant by it
	n     int    // how many, if the user does not say
	unit  string
	what  string
	do    func(r *run, ctx context.Context, m *meter) error
}

// kinds lists all works, in the order in which a group is done.
func kinds() []kind {
	return []kind{
		{"create", "", 5000, "pods", "create pods, JSON", (*run).create},
		{"create-protobuf", "", 5000, "pods", "create pods, protobuf", (*run).createProtobuf},
		{"get", "", 10000, "reads", "get a pod, JSON", get("application/json")},
		{"get-protobuf", "", 10000, "reads", "get a pod, protobuf", get(protobufType)},
		{"patch", "", 2000, "patches", "merge-patch a pod", (*run).mergePatch},
		{"apply", "", 2000, "patches", "server-side apply of a ConfigMap", (*run).apply},
		{"list-json", "list", 30, "lists", "list all pods, JSON", list("application/json", "", "")},
		{"list-protobuf", "list", 30, "lists", "list all pods, protobuf", list(protobufType, "", "")},
		{"list-gzip", "list", 20, "lists", "list all pods, JSON with gzip", list("application/json", "gzip", "")},
		{"list-labels", "list", 200, "lists", "list the pods with a label, 1 of 100, JSON", list("application/json", "", "labelSelector=group%3Dgroup-17")},
		{"list-fields", "list", 200, "lists", "list the pods with a field, 1 of 100, JSON", list("application/json", "", "fieldSelector=spec.schedulerName%3D"+noScheduler+"-17")},
		{"list-table", "list", 20, "lists", "list all pods as kubectl's table", list(tableType, "", "")},
		{"watch", "", 1000, "ConfigMaps", "create ConfigMaps of 1 KiB while watchers read", (*run).watch},
		{"churn", "", 1000, "rounds", "make, patch, read and delete ConfigMaps and Services", (*run).churn},
		{"delete", "", 5000, "pods", "delete pods", (*run).delete},
		{"schedule", "schedule", 5000, "pods", "schedule small pods", schedule(basicPods)},
		{"schedule-node-affinity", "schedule", 2000, "pods", "schedule pods with required node affinity", schedule(nodeAffinePods)},
		{"schedule-zone-affinity", "schedule", 1000, "pods", "schedule pods with required zone affinity", schedule(zoneAffinePods)},
		{"schedule-anti-affinity", "schedule", 900, "pods", "schedule pods with required anti-affinity", schedule(antiAffinePods)},
		{"schedule-spread", "schedule", 2000, "pods", "schedule pods with hard topology spreading", schedule(spreadPods)},
		{"schedule-preempt", "schedule", 200, "pods", "schedule pods that must preempt others", (*run).preempt},
		{"start", "", 10, "pods", "start pods one after another, each until it is Ready", (*run).startOneByOne},
		{"start-together", "", 50, "pods", "start pods at once, until all are Ready", (*run).startTogether},
	}
}

// Help describes every work, a line each.
func Help() string {
	var b strings.Builder
	for _, k := range kinds() {
		fmt.Fprintf(&b, "  %-24s %s (%d %s)\n", k.name, k.what, k.n, k.unit)
	}
	return b.String()
}

// ParseWorks reads names of works, each with "=N" where another number is wanted
// than the usual. "list" means every kind of list.
func ParseWorks(args []string) (works []Work, err error) {
	for _, arg := range args {
		name, number, given := strings.Cut(arg, "=")
		n := 0
		if given {
			if n, err = strconv.Atoi(number); err != nil || n < 1 || n > mostOperations {
				return nil, fmt.Errorf("work %q: give a number from 1 to %d", arg, mostOperations)
			}
		}
		found := false
		for _, k := range kinds() {
			if k.name != name && (k.group != name || k.group == "schedule") {
				continue
			}
			found = true
			works = append(works, Work{Name: k.name, N: cmpOr(n, k.n)})
		}
		if !found {
			return nil, fmt.Errorf("work %q is not known; there are:\n%s", name, Help())
		}
	}
	return works, nil
}

// mostOperations keeps a slip of the finger from filling somebody's cluster.
const mostOperations = 1_000_000

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// Bench is load that waits to be put.
type Bench struct {
	c      Config
	kinds  []kind // of Config.Works, in their order
	target *target
}

// New checks the configuration, and sends nothing yet.
func New(c Config) (*Bench, error) {
	if c.Server == nil || len(c.Works) == 0 {
		return nil, errors.New("bench: Config.Server and Works are required")
	}
	c.Clients, c.Watchers = cmpOr(c.Clients, 32), cmpOr(c.Watchers, 40)
	c.Nodes, c.Objects = cmpOr(c.Nodes, 1000), cmpOr(c.Objects, 5000)
	for _, n := range []int{c.Clients, c.Watchers, c.Nodes, c.Objects} {
		if n < 1 || n > mostOperations {
			return nil, fmt.Errorf("bench: %d is not a sensible number of clients, watchers, nodes or objects", n)
		}
	}
	if c.TimeLimit == 0 {
		c.TimeLimit = 2 * time.Minute
	}
	if c.Image == "" {
		c.Image = "registry.k8s.io/pause:3.10"
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	b := &Bench{c: c}
	for _, w := range c.Works {
		i := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == w.Name })
		if i < 0 {
			return nil, fmt.Errorf("bench: there is no work %q", w.Name)
		}
		b.kinds = append(b.kinds, kinds()[i])
	}
	var err error
	b.target, err = newTarget(c.Server)
	return b, err
}

// run is one Run of a Bench.
type run struct {
	*Bench
	id        string // is part of the names of all that has no namespace
	namespace string
	pods      []string // names of the pods that wait for no scheduler
	made      int      // how many of them there ever were
}

// LeftError says that the works are done, but that what they made is still there.
type LeftError struct {
	Namespace string
	Err       error
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("remove namespace %s and what belongs to it: %v", e.Namespace, e.Err)
}

func (e *LeftError) Unwrap() error { return e.Err }

// Run does the works, one after another, and removes what it made, also when ctx
// ends early. The report has what was done until then.
func (b *Bench) Run(ctx context.Context) (report *Report, err error) {
	id := rand.String(6)
	r := &run{Bench: b, id: id, namespace: "skiff-bench-" + id}
	report = &Report{
		Date: time.Now().UTC().Truncate(time.Second), Server: b.c.Server.Host, CPUs: runtime.NumCPU(),
		Clients: b.c.Clients, Nodes: b.c.Nodes, Watchers: b.c.Watchers, Objects: b.c.Objects,
	}
	if report.Version, err = b.target.version(ctx); err != nil {
		return report, err
	}
	defer func() {
		// Also after an interrupt: nothing may stay.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		b.c.Progress(Progress{Work: "all", Phase: "cleaning up"})
		if cleanErr := r.removeAll(clean); cleanErr != nil {
			err = errors.Join(err, &LeftError{Namespace: r.namespace, Err: cleanErr})
		}
	}()
	if err := r.makeNamespace(ctx); err != nil {
		return report, err
	}
	for i, k := range b.kinds {
		result, err := r.one(ctx, k, b.c.Works[i])
		report.Results = append(report.Results, result)
		if err != nil {
			return report, fmt.Errorf("%s: %w", k.name, err)
		}
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
	}
	return report, nil
}

// one does one work. Only what keeps the next works from being done is an error;
// the rest is counted.
func (r *run) one(ctx context.Context, k kind, w Work) (Result, error) {
	// The limit is for the work itself; what it makes beforehand has the same again.
	limited, cancel := context.WithTimeout(ctx, 2*r.c.TimeLimit)
	defer cancel()
	m := newMeter(k, w.N, r.c)
	m.watchers = cmpOr(w.Watchers, r.c.Watchers)
	err := k.do(r, limited, m)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		m.failed(errTimeLimit)
		err = nil
	}
	return m.result(), err
}

var errTimeLimit = errors.New("time limit")
