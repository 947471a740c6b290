//go:build linux

package dns

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// How long answers of upstreams are kept.
const (
	leastKept   = 1 * time.Second
	longestKept = time.Hour
	noTTLKept   = 5 * time.Second
	// An answer that has ended still serves while no upstream answers (RFC 8767).
	staleServes = time.Hour
	staleTTL    = 30 // seconds, as RFC 8767 recommends
)

// mostAtOnce bounds the questions that wait for upstreams.
const mostAtOnce = 512

// forwarder asks upstreams, and remembers what they said.
type forwarder struct {
	upstreams []string
	timeout   time.Duration
	first     atomic.Int32 // the upstream that answered last: it is asked first
	asking    singleflight.Group
	room      chan struct{} // one token per question that waits

	mu    sync.Mutex
	size  int
	kept  map[question]*list.Element // guarded by mu; of *keptAnswer
	order *list.List                 // most recently used first; guarded by mu
}

// question is what an answer depends on.
type question struct {
	name   string // lower case
	kind   uint16
	do, cd bool // DNSSEC records wanted; not to be checked
}

type keptAnswer struct {
	question question
	message  *mdns.Msg // never changed
	at       time.Time
	until    time.Time
}

func newForwarder(upstreams []string, timeout time.Duration, size int) *forwarder {
	return &forwarder{upstreams: upstreams, timeout: timeout, room: make(chan struct{}, mostAtOnce), size: size,
		kept: map[question]*list.Element{}, order: list.New()}
}

// answer fills r with what upstreams say, or with SERVFAIL.
func (f *forwarder) answer(r, q *mdns.Msg) {
	key := question{name: strings.ToLower(q.Question[0].Name), kind: q.Question[0].Qtype, cd: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		key.do = opt.Do()
	}
	kept := f.recall(key)
	now := time.Now()
	if kept == nil || !now.Before(kept.until) {
		fresh, err := f.ask(key)
		switch {
		case err == nil:
			kept = fresh
		case kept == nil || now.After(kept.until.Add(staleServes)):
			r.Rcode = mdns.RcodeServerFailure
			return
		}
	}
	kept.fill(r, q.Question[0].Name, now)
}

// fill copies the answer, as old as it is, under the name as it was asked.
func (k *keptAnswer) fill(r *mdns.Msg, name string, now time.Time) {
	m := k.message.Copy()
	age := uint32(max(0, now.Sub(k.at)) / time.Second)
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			switch {
			case h.Rrtype == mdns.TypeOPT:
			case !now.Before(k.until):
				h.Ttl = staleTTL
			default:
				h.Ttl -= min(h.Ttl, age)
			}
			if strings.EqualFold(h.Name, name) {
				h.Name = name
			}
		}
	}
	r.Rcode, r.Answer, r.Ns, r.AuthenticatedData = m.Rcode, m.Answer, m.Ns, m.AuthenticatedData
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != mdns.TypeOPT {
			r.Extra = append(r.Extra, rr)
		}
	}
}

var (
	errNoUpstream = errors.New("there is no upstream")
	errBusy       = errors.New("too many questions wait for upstreams")
)

// ask asks once for all that wait for the same.
func (f *forwarder) ask(key question) (*keptAnswer, error) {
	got, err, _ := f.asking.Do(fmt.Sprint(key), func() (any, error) {
		select {
		case f.room <- struct{}{}:
			defer func() { <-f.room }()
		default:
			return nil, errBusy
		}
		m, err := f.exchange(key)
		if err != nil {
			return nil, err
		}
		return f.keep(key, m), nil
	})
	if err != nil {
		return nil, err
	}
	return got.(*keptAnswer), nil
}

// exchange asks the upstreams in turn, beginning with the one that answered last.
func (f *forwarder) exchange(key question) (*mdns.Msg, error) {
	err := errNoUpstream
	first := int(f.first.Load())
	for i := range f.upstreams {
		at := (first + i) % len(f.upstreams)
		m, e := f.exchangeWith(f.upstreams[at], key)
		if e == nil && m.Rcode != mdns.RcodeServerFailure && m.Rcode != mdns.RcodeRefused && m.Rcode != mdns.RcodeNotImplemented {
			f.first.Store(int32(at))
			return m, nil
		}
		if e == nil {
			e = fmt.Errorf("upstream %s answers %s", f.upstreams[at], mdns.RcodeToString[m.Rcode])
		}
		err = e
	}
	return nil, err
}

func (f *forwarder) exchangeWith(upstream string, key question) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(key.name, key.kind)
	m.CheckingDisabled = key.cd
	m.SetEdns0(largestUDP, key.do)
	ctx, cancel := context.WithTimeout(context.Background(), f.timeout)
	defer cancel()
	answer, _, err := (&mdns.Client{Net: "udp", Timeout: f.timeout, UDPSize: largestUDP}).ExchangeContext(ctx, m, upstream)
	if err == nil && answer.Truncated {
		answer, _, err = (&mdns.Client{Net: "tcp", Timeout: f.timeout}).ExchangeContext(ctx, m, upstream)
	}
	if err != nil {
		return nil, fmt.Errorf("ask upstream %s: %w", upstream, err)
	}
	if len(answer.Question) != 1 || !strings.EqualFold(answer.Question[0].Name, key.name) || answer.Question[0].Qtype != key.kind {
		return nil, fmt.Errorf("upstream %s answers another question", upstream)
	}
	return answer, nil
}

// recall finds a kept answer, even if its time is over.
func (f *forwarder) recall(key question) *keptAnswer {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.kept[key]
	if e == nil {
		return nil
	}
	f.order.MoveToFront(e)
	return e.Value.(*keptAnswer)
}

// keep remembers an answer, and forgets the one that was not used for longest.
func (f *forwarder) keep(key question, m *mdns.Msg) *keptAnswer {
	now := time.Now()
	k := &keptAnswer{question: key, message: m, at: now, until: now.Add(lifeOf(m))}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.kept[key]; e != nil {
		e.Value = k
		f.order.MoveToFront(e)
		return k
	}
	f.kept[key] = f.order.PushFront(k)
	for f.order.Len() > f.size {
		last := f.order.Remove(f.order.Back()).(*keptAnswer)
		delete(f.kept, last.question)
	}
	return k
}

// lifeOf is the shortest TTL of the answer; of an answer that says "no", what its
// SOA allows (RFC 2308).
func lifeOf(m *mdns.Msg) time.Duration {
	life, found := longestKept, false
	note := func(seconds uint32) {
		life, found = min(life, time.Duration(seconds)*time.Second), true
	}
	for _, rr := range m.Answer {
		note(rr.Header().Ttl)
	}
	if len(m.Answer) == 0 {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*mdns.SOA); ok {
				note(min(soa.Hdr.Ttl, soa.Minttl))
			}
		}
	}
	if !found {
		return noTTLKept
	}
	return max(leastKept, life)
}
