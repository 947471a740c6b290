// Package authn finds out who makes a request: by client certificate, service
// account token, bootstrap token or a front proxy's word, else anonymous. The
// HTTP front calls it for each request; it never decides what a user may do.
package authn

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/authentication/user"
)

// tokenTTL is how long a token that was good is taken as good without another
// look at the objects that it is bound to.
const tokenTTL = 10 * time.Second

// Config says whom to believe.
type Config struct {
	// ClientCAs sign the certificates of users and nodes. Asked at each request. Nil: none do.
	ClientCAs func() *x509.CertPool
	// Issuer makes and checks service account tokens. Nil: there are none.
	Issuer *Issuer
	// Objects answers for what tokens are bound to.
	Objects Objects
	// FrontProxyCAs sign the certificates of proxies whose X-Remote-* headers
	// are believed. Nil: none are.
	FrontProxyCAs func() *x509.CertPool
	// FrontProxyNames are the common names that such a proxy may have; empty: any.
	FrontProxyNames []string
	// NoAnonymous refuses requests without credentials.
	NoAnonymous bool
}

// Authenticator tells who makes a request. Safe for concurrent use.
type Authenticator struct {
	request authenticator.Request
	token   authenticator.Token
}

// New builds the chain: certificate, front proxy, bearer token, anonymous.
func New(c Config) (*Authenticator, error) {
	var tokens []authenticator.Token
	if c.Issuer != nil {
		tokens = append(tokens, &serviceAccountTokens{issuer: c.Issuer, objects: c.Objects})
	}
	if c.Objects != nil {
		tokens = append(tokens, &bootstrapTokens{objects: c.Objects})
	}
	a := &Authenticator{token: cache.New(tokenunion.New(tokens...), false, tokenTTL, 0)}

	var requests []authenticator.Request
	if c.FrontProxyCAs != nil {
		verify := func() (x509.VerifyOptions, bool) { return clientOptions(c.FrontProxyCAs()), true }
		proxy, err := headerrequest.New([]string{"X-Remote-User"}, []string{"X-Remote-Uid"}, []string{"X-Remote-Group"}, []string{"X-Remote-Extra-"})
		if err != nil {
			return nil, fmt.Errorf("set up front proxy authentication: %w", err)
		}
		requests = append(requests, requestx509.NewDynamicCAVerifier(verify, proxy, headerrequest.StaticStringSlice(c.FrontProxyNames)))
	}
	if c.ClientCAs != nil {
		requests = append(requests, &certificates{cas: c.ClientCAs, seen: map[[32]byte]seenCertificate{}})
	}
	requests = append(requests, bearertoken.New(a.token), websocket.NewProtocolAuthenticator(a.token))
	known := group.NewAuthenticatedGroupAdder(union.New(requests...))
	if c.NoAnonymous {
		a.request = known
	} else {
		a.request = union.NewFailOnError(known, anonymous.NewAuthenticator(nil))
	}
	return a, nil
}

// AuthenticateRequest implements authenticator.Request.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	return a.request.AuthenticateRequest(r)
}

// AuthenticateToken implements authenticator.Token, for TokenReview.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	resp, ok, err := a.token.AuthenticateToken(ctx, token)
	if ok && !slices.Contains(resp.User.GetGroups(), user.AllAuthenticated) {
		u := resp.User
		resp = &authenticator.Response{Audiences: resp.Audiences, User: &user.DefaultInfo{
			Name: u.GetName(), UID: u.GetUID(), Extra: u.GetExtra(), Groups: append(slices.Clone(u.GetGroups()), user.AllAuthenticated),
		}}
	}
	return resp, ok, err
}

func clientOptions(roots *x509.CertPool) x509.VerifyOptions {
	return x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// certificates authenticates by client certificate: the common name is the user,
// the organizations are the groups. A certificate's signature is checked once,
// not at each request of a connection: checking costs more than serving a GET.
type certificates struct {
	cas func() *x509.CertPool

	mu   sync.Mutex
	pool *x509.CertPool // under which seen was verified
	seen map[[32]byte]seenCertificate
}

type seenCertificate struct {
	response *authenticator.Response
	until    time.Time
}

// mostSeen bounds what certificates remembers; beyond it, it starts anew.
const mostSeen = 4096

func (c *certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	id := sha256.Sum256(leaf.Raw)
	now := time.Now()
	pool := c.cas()

	c.mu.Lock()
	if c.pool != pool || len(c.seen) >= mostSeen {
		c.pool, c.seen = pool, map[[32]byte]seenCertificate{}
	}
	known, ok := c.seen[id]
	c.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.response, true, nil
	}

	resp, ok, err := requestx509.New(verifyAt(pool, now), requestx509.CommonNameUserConversion).AuthenticateRequest(r)
	if err != nil || !ok {
		return nil, false, err
	}
	// Intermediates may end before the leaf: trust the answer for an hour at most.
	until := leaf.NotAfter
	if most := now.Add(time.Hour); until.After(most) {
		until = most
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool == pool {
		c.seen[id] = seenCertificate{resp, until}
	}
	return resp, true, nil
}

// verifyAt fixes the time: in a test it may be virtual.
func verifyAt(pool *x509.CertPool, now time.Time) x509.VerifyOptions {
	o := clientOptions(pool)
	o.CurrentTime = now
	return o
}

var errExpired = errors.New("the token has expired")
