package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// ExternalConfig says how to reach an etcd that runs elsewhere.
type ExternalConfig struct {
	// Endpoints are the members' client URLs.
	Endpoints []string
	// TLS has the client's certificate and the authority that signed etcd's. nil
	// means no TLS.
	TLS *tls.Config
	// Username and Password are for an etcd with authentication by password.
	Username, Password string
	// Logger gets what the client logs, its information as debugging. nil: nobody
	// does.
	Logger *slog.Logger
}

const (
	// A connection that does not answer is given up after their sum.
	keepAlive, keepAliveTimeout = 30 * time.Second, 10 * time.Second
	dialTimeout                 = 20 * time.Second
	// How long a read of the revision, on behalf of many, may take.
	revisionTimeout = 10 * time.Second
	// revisionKey is read to learn etcd's revision. Nothing is there, and whoever
	// may read what is under it may read it.
	revisionKey = "/registry/"
)

// external is etcd elsewhere.
type external struct {
	client   *clientv3.Client
	revision sharedRead
	watches  atomic.Int64 // that there ever were
}

// OpenExternal connects to an etcd, and returns when it has answered once.
func OpenExternal(ctx context.Context, c ExternalConfig) (*Etcd, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	name := strings.Join(c.Endpoints, ",")
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		Username:             c.Username,
		Password:             c.Password,
		Logger:               zapLogger(c.Logger),
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAliveTimeout,
		PermitWithoutStream:  true,
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd at %s: %w", name, err)
	}
	b := &external{client: client}
	g := newGate()
	b.revision = sharedRead{gate: g, read: b.readRevision}
	e := newEtcd(client, b, g, c.Logger)
	if _, err := b.readRevision(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open etcd at %s: %w", name, err), e.Close())
	}
	// Leases of earlier processes are not taken over: some may be others'.
	g.loop(e.leases.run)
	return e, nil
}

func (b *external) readRevision(ctx context.Context) (int64, error) {
	r, err := b.client.Get(ctx, revisionKey, clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// newest implements body.
func (b *external) newest(ctx context.Context) (int64, error) { return b.revision.do(ctx) }

// run implements body.
func (b *external) run(ctx context.Context, f *follow) error {
	ctx = clientv3.WithRequireLeader(ctx) // a member that is cut off says so
	// What differs in its metadata gets a stream of its own: etcd tells a stream's
	// progress only when every watch on it has caught up, even one that was given
	// up before it began.
	ctx = metadata.AppendToOutgoingContext(ctx, "watch", strconv.FormatInt(b.watches.Add(1), 10))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := f.prefix
	if first == "" {
		first = "\x00"
	}
	responses := b.client.Watch(ctx, first, clientv3.WithRange(afterPrefix(f.prefix)), clientv3.WithRev(f.next),
		clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	// As in embedded: etcd may leave a request for progress unanswered.
	again := time.NewTimer(0)
	<-again.C
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-responses:
			if !ok {
				return errors.New("etcd's client has ended the watch")
			}
			if err := r.Err(); err != nil {
				return err
			}
			batch := batchOf(r.Events, previousOf)
			if r.IsProgressNotify() {
				batch.Revision = r.Header.Revision
			}
			f.send(ctx, batch)
		case <-f.nudge:
			again.Reset(0)
		case <-again.C:
			if f.behind() {
				// An error means that the stream is being made anew: try later.
				_ = b.client.RequestProgress(ctx)
				again.Reset(progressRetry)
			}
		}
	}
}

// reclaim implements body. Another's quota is another's to watch over.
func (b *external) reclaim(context.Context) error { return nil }

// close implements body.
func (b *external) close() error { return b.client.Close() }

// sharedRead lets concurrent callers share a read. A caller never gets the answer
// to a question that was asked before it came.
type sharedRead struct {
	gate *gate
	read func(context.Context) (int64, error)

	mu      sync.Mutex
	reading bool
	next    *answer // of the read that starts when the present one is done
}

type answer struct {
	done  chan struct{}
	value int64
	err   error
}

func (s *sharedRead) do(ctx context.Context) (int64, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &answer{done: make(chan struct{})}
	}
	a := s.next
	if !s.reading {
		if err := s.gate.loop(s.loop); err != nil {
			s.mu.Unlock()
			return 0, err
		}
		s.reading = true
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// loop reads as long as somebody waits.
func (s *sharedRead) loop(ctx context.Context) {
	for {
		s.mu.Lock()
		a := s.next
		s.next = nil
		s.reading = a != nil
		s.mu.Unlock()
		if a == nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
		a.value, a.err = s.read(ctx)
		cancel()
		close(a.done)
	}
}
