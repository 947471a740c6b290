package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// bout is a fight: clients against a server that is ended again and again.
type bout struct {
	t       *testing.T
	server  *server
	history *history
	// namespace has the ConfigMaps that all is about.
	namespace string
	seed      uint64
	clients   sync.WaitGroup
	// began is closed when the namespace is there.
	began chan struct{}
}

// fight runs a bout: that many lives of the server, which end in end at random
// moments, and then one in which the clients come to rest. between is called while
// the server is down.
func (b *bout) fight(lives int, end func(*process, *life), between func()) {
	b.start()
	r, usable := b.rand(-1), 0
	for n := range lives {
		if b.server.live(b.t, newLife(n), randomMoment(r), b.history.settle, end) {
			usable++
		}
		between()
	}
	last := newLife(lives)
	p := b.server.start(b.t)
	select {
	case <-p.ready:
	case <-p.ended:
		b.t.Fatalf("the server ended by itself: %v\n%s", p.cmd.ProcessState, tail(p.stderr.String()))
	}
	b.history.settle()
	b.server.set(last)
	<-b.began
	stuck := time.AfterFunc(time.Minute, last.end)
	time.Sleep(rest) // for the clients to do something
	b.server.finish()
	b.clients.Wait()
	if !stuck.Stop() {
		b.t.Error("a client got no answer in a minute")
	}
	b.end(last)
	p.cmd.Process.Kill()
	<-p.ended
	last.end()
	b.t.Logf("%d of %d ends came after the server was ready", usable, lives)
}

// randomMoment is, one time in three, one at which the server may still be
// starting.
func randomMoment(r *rand.Rand) moment {
	return moment{after: time.Duration(r.Int64N(int64(700 * time.Millisecond))), born: r.IntN(3) == 0}
}

// rest is how long the clients go on in the last life.
const rest = 300 * time.Millisecond

// end reads every object once more, when nobody writes.
func (b *bout) end(l *life) {
	c := b.server.client(b.t)
	for k := range keys {
		if _, ok := b.ask(c, l, writers+readers, asked{verb: get, key: fmt.Sprint("k", k)}, 0); !ok {
			b.t.Errorf("k%d cannot be read at the end", k)
		}
	}
}

const (
	writers, readers, watchers = 6, 2, 5
	keys                       = 8
)

// start lets the clients come; they stay until the server's last life is over.
func (b *bout) start() {
	b.began = make(chan struct{})
	b.clients.Go(b.found)
	for i := range writers {
		c := b.server.client(b.t)
		b.clients.Go(func() { b.write(c, i) })
	}
	for i := range readers {
		c := b.server.client(b.t)
		b.clients.Go(func() { b.read(c, writers+i) })
	}
	for i := range watchers {
		c := b.server.client(b.t)
		b.clients.Go(func() { b.watch(c, i) })
	}
}

func (b *bout) rand(client int) *rand.Rand { return rand.New(rand.NewPCG(b.seed, uint64(client))) }

func (b *bout) path(name string) string {
	path := "/api/v1/namespaces/" + b.namespace + "/configmaps"
	if name != "" {
		path += "/" + name
	}
	return path
}

// found makes the namespace, in whichever life that succeeds.
func (b *bout) found() {
	defer close(b.began)
	c := b.server.client(b.t)
	for l := b.server.await(); l != nil; l = b.server.await() {
		code, _, err := c.do(l.ended, "POST", "/api/v1/namespaces", "application/json", `{"metadata":{"name":"`+b.namespace+`"}}`)
		if err == nil && l.known() && (code == http.StatusCreated || code == http.StatusConflict) {
			return
		}
		<-l.ended.Done()
	}
}

// object is what is read of an answer.
type object struct {
	Kind, Reason, Message string
	Code                  int
	Metadata              struct{ Name, ResourceVersion string }
	Data                  map[string]string
}

func (o *object) change(kind string) change {
	revision, _ := strconv.ParseInt(o.Metadata.ResourceVersion, 10, 64)
	return change{revision: revision, key: o.Metadata.Name, value: o.Data["value"], kind: kind}
}

// write does random things to random objects, which all writers share.
func (b *bout) write(c *client, id int) {
	<-b.began
	r := b.rand(id)
	believed := [keys]int64{} // revisions that this writer was told of
	for n := 0; ; n++ {
		l := b.server.await()
		if l == nil {
			return
		}
		k := r.IntN(keys)
		in := asked{key: fmt.Sprint("k", k), value: fmt.Sprintf("%d-%d-%d", l.number, id, n), revision: believed[k]}
		switch p := r.IntN(10); {
		case p < 3:
			in.verb = create
		case p < 7 && believed[k] > 0:
			in.verb = update
		case p < 9:
			in.verb = patch
		default:
			in.verb = remove
		}
		if out, ok := b.ask(c, l, id, in, r.IntN(3000)); ok && out.revision > 0 {
			believed[k] = out.revision
		}
	}
}

// read reads one object, or all of them.
func (b *bout) read(c *client, id int) {
	<-b.began
	r := b.rand(id)
	for l := b.server.await(); l != nil; l = b.server.await() {
		b.ask(c, l, id, asked{verb: get, key: fmt.Sprint("k", r.IntN(keys))}, 0)
	}
}

// ask sends an operation and writes down what came of it; not ok: nothing did.
func (b *bout) ask(c *client, l *life, id int, in asked, padding int) (out answered, ok bool) {
	method, path, contentType, body := in.request(b, padding)
	called := b.history.now()
	code, answer, err := c.do(l.ended, method, path, contentType, body)
	if err == errDown {
		<-l.ended.Done() // it is about to be noticed
		return out, false
	}
	var got object
	if err == nil && json.Unmarshal(answer, &got) != nil {
		b.t.Errorf("%v: %d %q", in, code, answer)
	}
	switch {
	case err != nil || !l.known():
		if l.ended.Err() == nil {
			<-l.ended.Done()
		}
	case code == http.StatusOK || code == http.StatusCreated:
		out = answered{outcome: done}
		if in.verb != remove {
			told := got.change("")
			out.revision, out.value = told.revision, told.value
		}
	case code == http.StatusNotFound:
		out.outcome = notFound
	case got.Reason == "AlreadyExists":
		out.outcome = exists
	case got.Reason == "Conflict":
		out.outcome = conflict
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return out, false
	case code >= 500: // nobody knows
	default:
		b.t.Errorf("%v: %d %s", in, code, got.Message)
	}
	b.history.wrote(id, called, in, out)
	return out, out.outcome != unknown
}

func (in asked) request(b *bout, padding int) (method, path, contentType, body string) {
	data := fmt.Sprintf(`"data":{"value":%q,"padding":%q}`, in.value, strings.Repeat("x", padding))
	switch in.verb {
	case create:
		return "POST", b.path(""), "application/json", fmt.Sprintf(`{"metadata":{"name":%q},%s}`, in.key, data)
	case update:
		return "PUT", b.path(in.key), "application/json", fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"%d"},%s}`, in.key, in.revision, data)
	case patch:
		return "PATCH", b.path(in.key), "application/merge-patch+json", "{" + data + "}"
	case remove:
		return "DELETE", b.path(in.key), "", ""
	}
	return "GET", b.path(in.key), "", ""
}

// watch watches, from where the last watch ended, or now and then from a random
// revision of the past.
func (b *bout) watch(c *client, id int) {
	<-b.began
	r := b.rand(100 + id)
	s := stretch{who: fmt.Sprint("watcher ", id)}
	for l := b.server.await(); l != nil; l = b.server.await() {
		if s.from == 0 {
			if id%2 == 1 && r.IntN(2) == 0 {
				b.history.mu.Lock()
				s.from = max(1, b.history.newest-r.Int64N(500))
				b.history.mu.Unlock()
				s.to = s.from
			} else if !b.list(c, l, &s) {
				continue
			}
		}
		// Some end by themselves, and go on where they were.
		ctx, cancel := l.ended, context.CancelFunc(func() {})
		if r.IntN(2) == 0 {
			ctx, cancel = context.WithTimeout(l.ended, time.Duration(r.IntN(400))*time.Millisecond)
		}
		expired := b.follow(ctx, c, l, &s)
		cancel()
		if expired || r.IntN(10) == 0 {
			b.history.told(s, expired)
			s = stretch{who: s.who}
		}
	}
	if s.from > 0 {
		b.history.told(s, false)
	}
}

// list begins a stretch.
func (b *bout) list(c *client, l *life, s *stretch) bool {
	before := b.history.newestTold()
	code, answer, err := c.do(l.ended, "GET", b.path(""), "", "")
	if err != nil || code != http.StatusOK || !l.known() {
		if l.ended.Err() == nil && err != nil {
			<-l.ended.Done()
		}
		return false
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []object
	}
	if err := json.Unmarshal(answer, &list); err != nil {
		b.t.Errorf("list: %v", err)
		return false
	}
	s.from, _ = strconv.ParseInt(list.Metadata.ResourceVersion, 10, 64)
	if s.from < before {
		b.t.Errorf("life %d: a list is of revision %d; %d had been seen before it began", l.number, s.from, before)
	}
	s.to, s.base = s.from, map[string]change{}
	for i := range list.Items {
		s.base[list.Items[i].Metadata.Name] = list.Items[i].change("")
	}
	return true
}

func (h *history) newestTold() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest
}

// follow adds to the stretch what one watch tells. It returns whether the stretch
// is over, because the past that comes next is forgotten.
func (b *bout) follow(ctx context.Context, c *client, l *life, s *stretch) (expired bool) {
	path := fmt.Sprintf("%s?watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=%d", b.path(""), s.to)
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		b.t.Error(err)
		return false
	}
	resp, err := c.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			<-ctx.Done()
		}
		return false
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil || !l.known() {
			return false
		}
		var event struct {
			Type   string
			Object object
		}
		if err := json.Unmarshal(line, &event); err != nil {
			b.t.Errorf("%s was told %q: %v", s.who, line, err)
			return false
		}
		told := event.Object.change(event.Type)
		switch {
		case event.Type == "ERROR" && event.Object.Code == http.StatusGone:
			return true
		case event.Type == "ERROR":
			b.t.Errorf("%s was told %s", s.who, line)
			return true
		case event.Type == "BOOKMARK" && told.revision < s.to:
			b.t.Errorf("%s: a bookmark at %d after %d", s.who, told.revision, s.to)
		case event.Type == "BOOKMARK":
		case told.revision <= s.to:
			b.t.Errorf("%s from %d: %v after %d", s.who, s.from, told, s.to)
		default:
			s.changes = append(s.changes, told)
		}
		s.to = max(s.to, told.revision)
		b.history.saw(told.revision)
	}
}
