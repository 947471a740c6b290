package apiserver

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"
)

// limiter keeps the number of requests in flight below the caps, whatever flow
// control (shape.go) lets pass. Nothing waits: a request gets a place or is told to
// come back in a second. Lanes have
// caps of their own, so that users' load cannot shut the cluster's own parts
// out, and what stays not what is soon over; what must always get through has no cap
// (see lane).
type limiter struct {
	reads, writes, system gate
	long, systemLong      gate // what stays: watches, logs, shells
}

func newLimiter(c FrontConfig) *limiter {
	reads, writes := c.MaxReads, c.MaxWrites
	if reads == 0 {
		reads = 400
	}
	if writes == 0 {
		writes = 200
	}
	long := c.MaxLong
	if long == 0 {
		long = 20000
	}
	l := &limiter{}
	l.long.cap, l.systemLong.cap = int64(long), 5*int64(long)
	l.reads.cap, l.writes.cap, l.system.cap = int64(reads), int64(writes), int64(reads+writes)
	return l
}

// gate counts up to a cap.
type gate struct {
	cap   int64
	taken atomic.Int64
}

func (g *gate) enter() bool {
	if g.taken.Add(1) <= g.cap {
		return true
	}
	g.taken.Add(-1)
	return false
}

func (g *gate) leave() { g.taken.Add(-1) }

func nothing() {}

// admit takes a place, which r.leave gives back, or fails with 429.
func (l *limiter) admit(r *Request) error {
	g := l.lane(r)
	if g == nil {
		return nil
	}
	if !g.enter() {
		return tooManyRequests()
	}
	if r.Verb == "watch" {
		r.place = sync.OnceFunc(g.leave) // it stays when the seats of flow control are given back
		return nil
	}
	r.leaves = append(r.leaves, g.leave)
	return nil
}

// lane says which cap counts for a request. None (nil) for what must always get
// through: health, the leases that keep nodes and leaders alive, an
// administrator.
func (l *limiter) lane(r *Request) *gate {
	switch {
	case alwaysServed(r):
		return nil
	case longRunning(r) && ofSystem(r.User):
		return &l.systemLong
	case longRunning(r):
		return &l.long
	case ofSystem(r.User):
		return &l.system
	case mutates(r.Verb):
		return &l.writes
	}
	return &l.reads
}

func alwaysServed(r *Request) bool {
	if r.Resource == nil {
		return strings.HasPrefix(r.Path, "/livez") || strings.HasPrefix(r.Path, "/readyz") || strings.HasPrefix(r.Path, "/healthz")
	}
	if r.User != nil && slices.Contains(r.User.GetGroups(), user.SystemPrivilegedGroup) {
		return true
	}
	return r.Resource.Group == "coordination.k8s.io" && r.Name != "" && ofSystem(r.User)
}

// ofSystem: the user is a part of the cluster itself.
func ofSystem(u user.Info) bool {
	if u == nil {
		return false
	}
	name := u.GetName()
	return strings.HasPrefix(name, "system:kube-") || strings.HasPrefix(name, "system:node:") ||
		strings.HasPrefix(name, "system:serviceaccount:kube-system:")
}

func mutates(verb string) bool {
	switch verb {
	case "get", "list", "watch", "head":
		return false
	}
	return true
}

// longRunning: the request stays as long as its client likes.
func longRunning(r *Request) bool {
	if r.Resource == nil {
		return strings.HasPrefix(r.Path, "/debug/pprof/")
	}
	return r.Verb == "watch" || r.streams()
}
