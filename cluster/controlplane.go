// Package cluster puts the pieces together: it makes keys, opens the store,
// starts API server, controllers, scheduler and nodes in order, and keeps many
// nodes on one machine apart. It is the only package, beside cmd, that sees all
// others; it decides nothing that they decide.
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
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/api"
	"skiff/apiserver"
	"skiff/apiserver/authn"
	"skiff/client"
	"skiff/cluster/pki"
	"skiff/controllers"
	"skiff/controllers/nodeipam"
	"skiff/scheduler"
	"skiff/store"
)

// ControlPlaneConfig says what a control plane stands on.
type ControlPlaneConfig struct {
	// Store is opened and closed by the caller. Required.
	Store store.Store
	// Keys are required.
	Keys *Keys
	// Listeners carry HTTPS; Memory plain HTTP within the process.
	Listeners, Memory []net.Listener
	// Names and addresses by which clients know the API server, beside those that
	// every cluster has.
	Names []string
	IPs   []net.IP
	// Advertise is where pods reach the API server.
	Advertise apiserver.Advertise
	// ServiceCIDRs; empty: 10.96.0.0/16.
	ServiceCIDRs []string
	// NodeRanges are what nodes get their pods' ranges from; empty: they bring them.
	NodeRanges []nodeipam.Range
	// Paths are served beside the API; see apiserver.FrontConfig.
	Paths map[string]http.HandlerFunc
	// Nodes reaches node agents and pods; nil: plain TCP.
	Nodes apiserver.NodeDialer
	// Identity of this member for elections; see client.Leader.
	Identity string
	// LeaseLife is how long the others wait for a leader or server that is not heard
	// of, in whole seconds; 0: 15 s. The same on all members.
	LeaseLife time.Duration
	// NoControllers and NoScheduler leave them out, for others to take their place.
	NoControllers, NoScheduler bool
	Logger                     *slog.Logger // nil: slog.Default()
}

// ControlPlane is the API server with controllers and scheduler.
type ControlPlane struct {
	c   ControlPlaneConfig
	api *apiserver.Server
}

// serviceNames are how every cluster's pods know the API server.
var serviceNames = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}

// NewControlPlane checks the configuration and starts nothing.
func NewControlPlane(c ControlPlaneConfig) (*ControlPlane, error) {
	if c.Store == nil || c.Keys == nil {
		return nil, errors.New("cluster: ControlPlaneConfig.Store and Keys are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []string{"10.96.0.0/16"}
	}
	first, err := firstAddress(c.ServiceCIDRs[0])
	if err != nil {
		return nil, err
	}
	issuer, err := authn.NewIssuer("https://kubernetes.default.svc.cluster.local", nil, c.Keys.ServiceAccounts)
	if err != nil {
		return nil, err
	}
	clientCAs, proxyCAs := c.Keys.CA.Pool(), c.Keys.FrontProxyCA.Pool()
	serving := c.Keys.CA.Renewed(pki.Leaf{
		CommonName: "kube-apiserver", Server: true, WithAuthority: true,
		DNSNames: append(serviceNames, c.Names...),
		IPs:      append([]net.IP{first, net.IPv4(127, 0, 0, 1), net.IPv6loopback}, c.IPs...),
	})
	toNodes := c.Keys.CA.Renewed(pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Client: true})
	server, err := apiserver.New(apiserver.Config{
		Store:  c.Store,
		Logger: c.Logger,
		Front: apiserver.FrontConfig{
			Listeners: c.Listeners, Memory: c.Memory,
			Certificate:      func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.ForServer(hello) },
			ClientCAs:        func() *x509.CertPool { return clientCAs },
			Paths:            c.Paths,
			Nodes:            c.Nodes,
			NodeCertificate:  toNodes.Get,
			NodeCAs:          func() *x509.CertPool { return clientCAs },
			ProxyCertificate: c.Keys.FrontProxyCA.Renewed(pki.Leaf{CommonName: "front-proxy-client", Client: true}).Get,
		},
		Auth: apiserver.AuthConfig{
			ClientCAs:       func() *x509.CertPool { return clientCAs },
			FrontProxyCAs:   func() *x509.CertPool { return proxyCAs },
			FrontProxyNames: []string{"front-proxy-client"},
			ClientCA:        c.Keys.CA.PEM(),
			FrontProxyCA:    c.Keys.FrontProxyCA.PEM(),
			Issuer:          issuer,
			ServiceCIDRs:    c.ServiceCIDRs,
			Advertise:       c.Advertise,
			PresenceLife:    c.LeaseLife,
		},
	})
	if err != nil {
		return nil, err
	}
	return &ControlPlane{c: c, api: server}, nil
}

// Run starts the components in order and returns when all have stopped: the API
// server last, since the others write what they have in hand.
func (p *ControlPlane) Run(ctx context.Context) error {
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, ctx := errgroup.WithContext(ctx)
	servers, _ := errgroup.WithContext(context.Background())
	servers.Go(func() error { return p.api.Run(serving) })
	group.Go(func() error { return p.runComponents(ctx) })

	failed := make(chan error, 1)
	go func() { failed <- servers.Wait() }()
	componentsDone := make(chan error, 1)
	go func() { componentsDone <- group.Wait() }()
	select {
	case err := <-failed: // the API server ended by itself: nothing works without it
		return err
	case err := <-componentsDone:
		stopServing()
		return errors.Join(err, <-failed)
	}
}

// runComponents runs what lives off the API server.
func (p *ControlPlane) runComponents(ctx context.Context) error {
	select {
	case <-p.api.Ready():
	case <-ctx.Done():
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	if !p.c.NoControllers {
		group.Go(func() error { return controllers.Run(ctx, p.controllers()) })
	}
	if !p.c.NoScheduler {
		s, err := scheduler.New(scheduler.Config{
			Client:   p.api.Client(&user.DefaultInfo{Name: "system:kube-scheduler", Groups: []string{user.AllAuthenticated}}, "kube-scheduler"),
			Identity: p.c.Identity, LeaseLife: p.c.LeaseLife, Logger: p.c.Logger,
		})
		if err != nil {
			return err
		}
		group.Go(func() error { return s.Run(ctx) })
	}
	group.Go(func() error { <-ctx.Done(); return nil })
	return group.Wait()
}

func (p *ControlPlane) controllers() controllers.Config {
	return controllers.Config{
		Manager:  p.api.Client(&user.DefaultInfo{Name: "system:kube-controller-manager", Groups: []string{user.AllAuthenticated}}, "kube-controller-manager"),
		As:       p.as,
		Identity: p.c.Identity, LeaseLife: p.c.LeaseLife,
		Resources: func() []*api.Resource {
			resources, _ := p.api.Resources()
			return resources
		},
		Changed: func() <-chan struct{} {
			_, changed := p.api.Resources()
			return changed
		},
		RootCA:     p.c.Keys.CA.PEM(),
		NodeRanges: p.c.NodeRanges,
		Signing:    &controllers.Signing{Certificate: p.c.Keys.CA.Certificate, Key: p.c.Keys.CA.Key},
		Logger:     p.c.Logger,
	}
}

// as returns the client of a controller's service account.
func (p *ControlPlane) as(controller string) client.Client {
	u := serviceaccount.UserInfo("kube-system", controller, "")
	groups := append(u.GetGroups(), user.AllAuthenticated)
	return p.api.Client(&user.DefaultInfo{Name: u.GetName(), Groups: groups}, controller)
}

// Ready is closed when the API server answers.
func (p *ControlPlane) Ready() <-chan struct{} { return p.api.Ready() }

// Client returns the API as a user sees it, without a socket; name is the
// component that asks.
func (p *ControlPlane) Client(u user.Info, name string) client.Client { return p.api.Client(u, name) }

// firstAddress of a range of services is the API server's own.
func firstAddress(cidr string) (net.IP, error) {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil, fmt.Errorf("service range: %w", err)
	}
	ip := network.IP
	for i := len(ip) - 1; i >= 0; i-- {
		if ip[i]++; ip[i] != 0 {
			break
		}
	}
	return ip, nil
}
