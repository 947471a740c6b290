package flow

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// countKey names what is counted apart; within a level it is the schema.
type countKey struct{ schema string }

// counts are what metrics show of one schema's requests in one level.
type counts struct {
	queued, executing int
	dispatched, waits int64
	waited            time.Duration
	rejected          map[Rejected]int64
}

func (l *level) countsOf(class Class) *counts {
	key := countKey{class.Schema}
	c := l.counts[key]
	if c == nil {
		c = &counts{rejected: map[Rejected]int64{}}
		l.counts[key] = c
	}
	return c
}

// LevelState is what a level is doing.
type LevelState struct {
	Name                        string
	UID                         types.UID
	Exempt, Gone                bool
	Nominal, Least, Most, Taken int // seats
	Executing, Waiting          int // requests
	Queues                      []QueueState
	Schemas                     []SchemaState
}

// QueueState is what a queue is doing.
type QueueState struct {
	Waiting, Seats int
	Virtual        float64
}

// SchemaState is what became of a schema's requests in a level.
type SchemaState struct {
	Name              string
	Waiting           int
	Executing         int
	Dispatched, Waits int64
	Waited            time.Duration // of Waits requests together
	Rejected          map[Rejected]int64
}

// Report returns what all levels are doing, by name.
func (c *Controller) Report() []LevelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var report []LevelState
	for _, l := range c.levels {
		s := LevelState{Name: l.name, UID: l.uid, Exempt: l.exempt, Gone: l.gone, Nominal: l.nominal, Least: l.least, Most: l.most,
			Taken: l.taken, Executing: l.executing, Waiting: l.waiting}
		for _, q := range l.queues {
			s.Queues = append(s.Queues, QueueState{len(q.waiting), q.taken, q.virtual})
		}
		for key, n := range l.counts {
			rejected := map[Rejected]int64{}
			for why, times := range n.rejected {
				rejected[why] = times
			}
			s.Schemas = append(s.Schemas, SchemaState{key.schema, n.queued, n.executing, n.dispatched, n.waits, n.waited, rejected})
		}
		slices.SortFunc(s.Schemas, func(a, b SchemaState) int { return cmp.Compare(a.Name, b.Name) })
		report = append(report, s)
	}
	slices.SortFunc(report, func(a, b LevelState) int { return cmp.Compare(a.Name, b.Name) })
	return report
}
