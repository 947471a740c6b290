package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// fanOut counts what watchers are told of the ConfigMaps that are created
// meanwhile.
type fanOut struct {
	began     time.Time
	sent      []atomic.Int64 // when each was sent, in nanoseconds since began
	delivered atomic.Int64
	ended     atomic.Int64 // watches that ended before they had everything
	all       int64        // deliveries that there should be
	done      chan struct{}
}

// watch creates ConfigMaps while watchers, each over a connection of its own,
// read along. A watch that ends is not begun again: what it misses is lost.
func (r *run) watch(ctx context.Context, m *meter) error {
	collection := r.path("configmaps")
	if err := r.empty(ctx, collection, "", 0); err != nil {
		return err
	}
	revision, err := r.revision(ctx, collection)
	if err != nil {
		return err
	}
	f := &fanOut{began: time.Now(), sent: make([]atomic.Int64, m.n), all: int64(m.n) * int64(m.watchers), done: make(chan struct{})}
	reading, stop := context.WithCancel(ctx)
	watchers, reading := errgroup.WithContext(reading)
	defer func() {
		stop()
		watchers.Wait() // how they ended is counted
	}()
	if err := f.open(reading, r, m, watchers, collection, revision); err != nil {
		return err
	}
	err = m.measure(ctx, func(ctx context.Context) error {
		err := together(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
			f.sent[i].Store(int64(time.Since(f.began)))
			_, err := r.target.do(ctx, request{method: http.MethodPost, path: collection, body: kilobyte(watchedName(i), ""), contentType: jsonType, accept: jsonType})
			if err != nil {
				m.failed(err)
				return nil
			}
			m.done.Add(1)
			return nil
		})
		if err != nil {
			return err
		}
		return f.wait(ctx)
	})
	m.mu.Lock()
	m.out.Watchers = m.watchers
	m.out.Deliveries, m.out.EndedWatches = f.delivered.Load(), f.ended.Load()
	m.out.Lost = int64(m.watchers)*m.done.Load() - m.out.Deliveries
	m.mu.Unlock()
	return err
}

func watchedName(i int) string { return fmt.Sprintf("watched-%08d", i) }

// revision is the resourceVersion of a collection now.
func (r *run) revision(ctx context.Context, collection string) (string, error) {
	body, err := r.target.read(ctx, request{method: http.MethodGet, path: collection + "?limit=1", accept: jsonType})
	if err != nil {
		return "", err
	}
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return "", fmt.Errorf("list %s: %w", collection, err)
	}
	return list.Metadata.ResourceVersion, nil
}

// open begins all watches; each reads on in the group.
func (f *fanOut) open(ctx context.Context, r *run, m *meter, watchers *errgroup.Group, collection, revision string) error {
	return together(ctx, 8, m.watchers, func(_ context.Context, _ int) error {
		connection, err := r.target.connection()
		if err != nil {
			return err
		}
		res, err := r.target.open(ctx, connection, request{
			method: http.MethodGet, accept: jsonType, path: fmt.Sprintf("%s?watch=1&resourceVersion=%s&timeoutSeconds=%d", collection, revision, watchSeconds(r.c)),
		})
		if err != nil {
			return fmt.Errorf("watch %s: %w", collection, err)
		}
		watchers.Go(func() error {
			defer connection.CloseIdleConnections()
			defer res.Body.Close()
			f.follow(bufio.NewReaderSize(res.Body, 32<<10), m)
			return nil
		})
		return nil
	})
}

// watchSeconds is how long a watch of one work may last at most.
func watchSeconds(c Config) int { return int(3*c.TimeLimit/time.Second) + 60 }

// follow reads one watch to its end.
func (f *fanOut) follow(events *bufio.Reader, m *meter) {
	seen := make([]bool, len(f.sent))
	count := 0
	latencies := make([]time.Duration, 0, len(f.sent))
	defer func() {
		m.mu.Lock()
		m.latencies = append(m.latencies, latencies...)
		m.mu.Unlock()
	}()
	for count < len(seen) {
		line, err := readLine(events)
		if err != nil {
			f.ended.Add(1)
			return
		}
		i, ok := watchedIndex(line)
		if !ok || i >= len(seen) || seen[i] {
			continue
		}
		seen[i] = true
		count++
		latencies = append(latencies, time.Since(f.began)-time.Duration(f.sent[i].Load()))
		if f.delivered.Add(1) == f.all {
			close(f.done)
		}
	}
}

// readLine reads a frame of a JSON watch, which is a line. The slice is valid
// until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, err
	}
	whole := append([]byte(nil), line...)
	rest, err := r.ReadBytes('\n')
	return append(whole, rest...), err
}

// watchedIndex finds which ConfigMap an event is about. Decoding each event of
// hundreds of watchers would cost more than the server does.
func watchedIndex(event []byte) (int, bool) {
	const before = `"name":"watched-`
	at := bytes.Index(event, []byte(before))
	if at < 0 || len(event) < at+len(before)+8 {
		return 0, false
	}
	i, err := strconv.Atoi(string(event[at+len(before) : at+len(before)+8]))
	return i, err == nil
}

// wait returns when all is delivered, or when nothing more can be expected.
func (f *fanOut) wait(ctx context.Context) error {
	const quiet = 10 * time.Second
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := f.delivered.Load(), time.Now()
	for {
		select {
		case <-f.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := f.delivered.Load()
		if now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > quiet {
			return nil
		}
	}
}
