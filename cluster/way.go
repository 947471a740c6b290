package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"skiff/api"
	"skiff/client"
)

// way is how an agent reaches the API: any of the cluster's servers. It stays with
// one as long as that answers, and goes on to the next when it does not. Which
// there are it learns from the endpoints of the service kubernetes. Safe for
// concurrent use.
type way struct {
	given []string // host:port, as the user named them
	log   *slog.Logger
	conns *connrotation.Dialer

	mu      sync.Mutex
	servers []string // guarded by mu; servers[0] is asked first
	failed  int      // requests in a row that got no answer; guarded by mu
}

// failures are how many requests in a row may get no answer before another
// server is asked.
const failures = 3

// newWay returns the way to servers, which are asked in that order.
func newWay(given, known []string, log *slog.Logger) *way {
	w := &way{given: given, log: log}
	w.servers = unite(given, known)
	w.conns = connrotation.NewDialer(w.dial)
	return w
}

func unite(lists ...[]string) (out []string) {
	for _, s := range slices.Concat(lists...) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// dial connects to the first server that accepts, whatever address is asked for:
// who it is TLS finds out.
func (w *way) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	w.mu.Lock()
	servers := slices.Clone(w.servers)
	w.mu.Unlock()
	var errs []error
	for _, server := range servers {
		d := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
		conn, err := d.DialContext(ctx, network, server)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		w.after(server)
	}
	return nil, errors.Join(errs...)
}

// after moves a server to the end.
func (w *way) after(server string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.servers, server); i >= 0 {
		w.servers = append(slices.Delete(w.servers, i, i+1), server)
	}
}

// answered counts requests that got no answer; after some in a row all
// connections are given up, and the next server is asked.
func (w *way) answered(ok bool) {
	w.mu.Lock()
	if ok {
		w.failed = 0
	} else {
		w.failed++
	}
	leave := w.failed >= failures && len(w.servers) > 1
	var from string
	if leave {
		w.failed, from = 0, w.servers[0]
	}
	w.mu.Unlock()
	if leave {
		w.log.Warn("the server does not answer: going on to another", "server", from)
		w.after(from)
		w.conns.CloseAll()
	}
}

// RoundTrip watches over what the transport does.
type watched struct {
	w    *way
	next http.RoundTripper
}

func (t watched) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	switch {
	case err == nil:
		t.w.answered(resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusGatewayTimeout)
	case !errors.Is(err, context.Canceled):
		t.w.answered(false)
	}
	return resp, err
}

// apiName is a name that the certificates of all servers have.
const apiName = "kubernetes.default.svc"

// config returns how to speak to the API, with the certificate that identity
// gives (nil: none).
func (w *way) config(roots *x509.CertPool, identity func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *rest.Config {
	return &rest.Config{Host: "https://" + apiName, Transport: watched{w, &http.Transport{
		DialContext:         w.conns.DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: apiName, GetClientCertificate: identity, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		// A server whose machine has died says nothing more.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}}}
}

// learn follows who the servers are, and has each new list kept, until ctx ends.
func (w *way) learn(ctx context.Context, c client.Client, keep func([]string)) error {
	view, kept := client.NewView(), false
	feed := c.Follow(ctx, client.Source{
		Resource: api.For[*discoveryv1.EndpointSlice](), Namespace: "default", Fields: fields.OneTermEqualSelector("metadata.name", "kubernetes"),
	})
	for batch := range feed.C {
		view.Apply(batch)
		slice, ok := client.Find[*discoveryv1.EndpointSlice](view, "default", "kubernetes")
		if !ok {
			continue
		}
		if servers := serversOf(slice); len(servers) > 0 && (w.now(servers) || !kept) {
			keep(servers)
			kept = true
		}
	}
	return nil
}

func serversOf(slice *discoveryv1.EndpointSlice) (servers []string) {
	if len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return nil
	}
	for _, e := range slice.Endpoints {
		for _, a := range e.Addresses {
			servers = append(servers, net.JoinHostPort(a, strconv.Itoa(int(*slice.Ports[0].Port))))
		}
	}
	return servers
}

// now takes in who the servers are, keeps the order of those that were known, and
// tells whether anything is new.
func (w *way) now(servers []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := unite(servers, w.given)
	kept := slices.DeleteFunc(slices.Clone(w.servers), func(s string) bool { return !slices.Contains(all, s) })
	next := unite(kept, all)
	changed := !slices.Equal(next, w.servers)
	w.servers = next
	return changed
}

// addressTowards is this machine's address on the way to a server. Nothing is sent.
func addressTowards(server string) (net.IP, error) {
	conn, err := net.Dial("udp", server)
	if err != nil {
		return nil, fmt.Errorf("find this machine's address towards %s: %w", server, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP, nil
}
