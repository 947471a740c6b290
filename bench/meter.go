package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// meter measures one work.
type meter struct {
	kind     kind
	n        int
	watchers int // of works that watch
	limit    time.Duration
	tell     func(Progress)
	procs    processes

	done, wrong atomic.Int64
	bytes       atomic.Int64

	mu        sync.Mutex
	phase     string          // guarded by mu
	since     time.Time       // when phase began; guarded by mu
	latencies []time.Duration // guarded by mu
	errors    map[string]int  // guarded by mu
	out       Result          // guarded by mu
}

func newMeter(k kind, n int, c Config) *meter {
	return &meter{
		kind: k, n: n, limit: c.TimeLimit, tell: c.Progress, procs: c.PIDs, phase: "preparing", since: time.Now(),
		errors: map[string]int{}, out: Result{Work: k.name, What: k.what, N: n, Unit: k.unit},
	}
}

// measure runs f and takes the time that it needs, and what the server spends on
// it. What comes before and after it in a work is not counted. f's context ends
// at the time limit, and that is counted as one error.
func (m *meter) measure(ctx context.Context, f func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, m.limit, errTimeLimit)
	defer cancel()
	defer m.enter("cleaning up")
	sampled := make(chan usage, 1)
	stop := make(chan struct{})
	m.enter("measuring")
	began, before := time.Now(), m.procs.usage()
	go func() { sampled <- m.sample(stop) }()

	err := f(limited)

	took, after := time.Since(began), m.procs.usage()
	close(stop)
	peak := <-sampled
	if err != nil && context.Cause(limited) == errTimeLimit {
		m.failed(errTimeLimit)
		err = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.Seconds = took.Seconds()
	if len(m.procs) > 0 {
		m.out.CPUSeconds = (after.cpu - before.cpu).Seconds()
		m.out.MemoryBefore, m.out.Memory, m.out.PeakMemory = before.resident, after.resident, max(before.resident, peak.resident, after.resident)
	}
	return err
}

// sample looks at the processes ten times a second, for the most memory that they
// had, and tells of progress.
func (m *meter) sample(stop <-chan struct{}) (most usage) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return most
		case <-tick.C:
			most.resident = max(most.resident, m.procs.usage().resident)
			if i%5 == 0 {
				m.progress()
			}
		}
	}
}

func (m *meter) enter(phase string) {
	m.mu.Lock()
	m.phase, m.since = phase, time.Now()
	m.mu.Unlock()
	m.progress()
}

func (m *meter) progress() {
	m.mu.Lock()
	p := Progress{
		Work: m.kind.name, Phase: m.phase, Done: int(m.done.Load()), Total: m.n, Errors: int(m.wrong.Load()), Elapsed: time.Since(m.since),
	}
	m.mu.Unlock()
	m.tell(p)
}

// took records an operation that succeeded.
func (m *meter) took(d time.Duration) {
	m.done.Add(1)
	m.mu.Lock()
	m.latencies = append(m.latencies, d)
	m.mu.Unlock()
}

// failed records one that did not, under its reason.
func (m *meter) failed(err error) {
	m.wrong.Add(1)
	m.mu.Lock()
	m.errors[reasonOf(err)]++
	m.mu.Unlock()
}

// lost records n operations of which nothing was heard.
func (m *meter) lost(n int, reason string) {
	if n <= 0 {
		return
	}
	m.wrong.Add(int64(n))
	m.mu.Lock()
	m.errors[reason] += n
	m.mu.Unlock()
}

// each does n operations, `clients` at once, and records how long each took.
func (m *meter) each(ctx context.Context, clients, n int, operation func(ctx context.Context, i int) error) error {
	return together(ctx, clients, n, func(ctx context.Context, i int) error {
		began := time.Now()
		err := operation(ctx, i)
		switch {
		case err == nil:
			m.took(time.Since(began))
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			m.failed(err)
		}
		return nil
	})
}

// together calls f for 0 … n-1, `clients` at once, until one of them fails.
func together(ctx context.Context, clients, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(clients, n) {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// result is what was measured.
func (m *meter) result() Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.out
	r.Done = int(m.done.Load())
	r.Bytes = m.bytes.Load()
	if len(m.errors) > 0 {
		r.Errors = m.errors
	}
	if r.Seconds > 0 {
		r.PerSecond = float64(r.Done) / r.Seconds
	}
	if r.Done > 0 && len(m.procs) > 0 {
		r.CPUMillisPerOp = 1000 * r.CPUSeconds / float64(r.Done)
	}
	r.Latency = quantiles(m.latencies)
	return r
}

// quantiles sorts the latencies that it is given.
func quantiles(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		// The smallest value that at least this share of all does not exceed.
		i := int(q*float64(len(all))+0.9999999) - 1
		return all[min(max(i, 0), len(all)-1)].Seconds() * 1000
	}
	return Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

// reasonOf names an error shortly enough to be counted.
func reasonOf(err error) string {
	var answer *answerError
	switch {
	case errors.As(err, &answer):
		return answer.reason
	case errors.Is(err, errTimeLimit):
		return "time limit"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	text := err.Error()
	if len(text) > 80 {
		text = text[len(text)-80:]
	}
	return text
}
