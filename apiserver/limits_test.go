package apiserver

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/cluster/pki"
)

// A reserved lane: health, leases and an administrator always get through.
func TestLanes(t *testing.T) {
	l := newLimiter(FrontConfig{MaxReads: 2, MaxWrites: 1, MaxLong: 2})
	pods, leases := api.For[*corev1.Pod](), api.For[*coordinationv1.Lease]()
	someone := &user.DefaultInfo{Name: "someone"}
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	node := &user.DefaultInfo{Name: "system:node:n", Groups: []string{user.NodesGroup}}
	ask := func(r Request) (release func(), refused bool) {
		err := l.admit(&r)
		if err != nil {
			if s := statusOf(err); s.Code != http.StatusTooManyRequests || s.Details.RetryAfterSeconds != 1 || s.Message != "Too many requests, please try again later." {
				t.Errorf("refused with %+v", s)
			}
		}
		return r.leave, err != nil
	}
	read := Request{User: someone, Verb: "get", Resource: pods, Name: "p"}
	write := Request{User: someone, Verb: "create", Resource: pods}
	var first func()
	for i, want := range []bool{false, false, true, true} {
		release, refused := ask(read)
		if refused != want {
			t.Errorf("read %d: refused %v", i, refused)
		}
		if i == 0 {
			first = release
		}
	}
	if _, refused := ask(write); refused {
		t.Error("reads took the place of writes")
	}
	if _, refused := ask(write); !refused {
		t.Error("a second write got through")
	}
	for name, r := range map[string]Request{
		"an administrator": {User: admin, Verb: "create", Resource: pods},
		"a node's lease":   {User: node, Verb: "update", Resource: leases, Name: "n"},
		"a node's read":    {User: node, Verb: "list", Resource: pods},
		"health":           {User: someone, Verb: "get", Path: "/readyz"},
		"a watch":          {User: someone, Verb: "watch", Resource: pods},
		"a log":            {User: someone, Verb: "get", Resource: pods, Name: "p", Subresource: "log"},
	} {
		if _, refused := ask(r); refused {
			t.Errorf("%s was refused", name)
		}
	}
	watching := Request{User: someone, Verb: "watch", Resource: pods}
	if _, refused := ask(watching); !refused { // beside the watch and the log above
		t.Error("a third connection that stays got through")
	}
	watching.User = node
	if _, refused := ask(watching); refused {
		t.Error("users' watches took the place of a node's")
	}
	first()
	if _, refused := ask(read); refused {
		t.Error("a place that was given back was not given on")
	}
}

// Who is cut off in the middle of a body gets an answer, and gives the place back.
func TestSlowBody(t *testing.T) {
	l := listen(t, func(c *Config, _ *pki.Authority) { c.Front.RequestTimeout = 50 * time.Millisecond })
	defer l.stop()
	h, err := rest.HTTPClientFor(l.config)
	if err != nil {
		t.Fatal(err)
	}
	never, end := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", l.url+"/api/v1/namespaces/default/configmaps", io.MultiReader(strings.NewReader("{"), never))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req)
	end.Close()
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("a body without end: %s", resp.Status)
		}
	}
	if n := l.limits.writes.taken.Load(); n != 0 {
		t.Errorf("%d writes are still in flight", n)
	}
}
