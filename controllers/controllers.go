// Package controllers is the table of who reads and writes what: every control
// loop of the cluster, each a package of its own below this one. cluster runs
// the table on the leader; the package sees only api and client.
package controllers

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/bootstraptoken"
	"skiff/controllers/certificates"
	"skiff/controllers/claims"
	"skiff/controllers/clusterroles"
	"skiff/controllers/cronjob"
	"skiff/controllers/daemonset"
	"skiff/controllers/deployment"
	"skiff/controllers/disruption"
	"skiff/controllers/endpoints"
	"skiff/controllers/garbagecollector"
	"skiff/controllers/job"
	"skiff/controllers/loadbalancer"
	"skiff/controllers/loop"
	"skiff/controllers/namespace"
	"skiff/controllers/nodeipam"
	"skiff/controllers/nodelifecycle"
	"skiff/controllers/podgc"
	"skiff/controllers/replicaset"
	"skiff/controllers/resourcequota"
	"skiff/controllers/rootca"
	"skiff/controllers/serviceaccount"
	"skiff/controllers/servicecidr"
	"skiff/controllers/statefulset"
	"skiff/controllers/storageversion"
	"skiff/controllers/tainteviction"
	"skiff/controllers/ttlafterfinished"
)

// Config is what the controllers stand on.
type Config struct {
	// Manager is the client of system:kube-controller-manager: it follows for all.
	Manager client.Client
	// As returns the client of the service account kube-system/<controller>.
	As func(controller string) client.Client
	// Identity of this candidate for the lead, and how long the others wait for a
	// leader that is not heard of; see client.Leader.
	Identity  string
	LeaseLife time.Duration

	// RootCA is the PEM of the authority behind the API server's certificate,
	// published to every namespace.
	RootCA []byte
	// Resources are all that is served now, custom resources too. Nil: the catalogue.
	Resources func() []*api.Resource
	// Changed is closed when Resources may return others than before the call. Nil:
	// it always returns the same.
	Changed func() <-chan struct{}
	// NodeRanges are what nodes without spec.podCIDRs get theirs from. Empty: they get none.
	NodeRanges []nodeipam.Range
	// Signing is the authority that signs approved certificate requests. Nil: none are signed.
	Signing *Signing

	Logger *slog.Logger // nil: slog.Default()
}

// Signing is an authority's certificate and key.
type Signing struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// table lists the controllers whose form is a pure decision.
func table(c Config) []loop.Controller {
	return []loop.Controller{
		serviceaccount.Controller(),
		loadbalancer.Controller(),
		rootca.Controller(c.RootCA),
		nodelifecycle.Controller(),
		tainteviction.Controller(),
		nodeipam.Controller(c.NodeRanges),
		endpoints.Slices(),
		endpoints.Legacy(),
		endpoints.Mirror(),
		podgc.Controller(),
		certificates.Cleaner(),
		certificates.PodCleaner(),
		claims.Binder(),
		claims.ProtectClaims(),
		claims.ProtectVolumes(),
		claims.ProtectAttributes(),
		claims.DefaultClass(),
		claims.Reclaimer(),
		claims.Ephemeral(),
		disruption.Controller(),
		disruption.Targets(),
		ttlafterfinished.Controller(),
		bootstraptoken.Controller(),
		clusterroles.Controller(),
		replicaset.Controller(),
		replicaset.Replication(),
		deployment.Controller(),
		cronjob.Controller(),
		statefulset.Controller(),
		daemonset.Controller(),
		job.Controller(),
		servicecidr.Controller(),
	}
}

// special is a control loop of its own shape; its package says why.
type special struct {
	name string // its service account
	run  func(ctx context.Context, c client.Client, record *client.Recorder) error
}

// specials lists them.
func specials(c Config) []special {
	return []special{
		{namespace.Name, func(ctx context.Context, cl client.Client, _ *client.Recorder) error {
			return namespace.Run(ctx, namespace.Config{Client: cl, Resources: c.Resources, Logger: c.Logger})
		}},
		{certificates.Name, func(ctx context.Context, cl client.Client, _ *client.Recorder) error {
			config := certificates.Config{Client: cl, Logger: c.Logger}
			if c.Signing != nil {
				config.Certificate, config.Key = c.Signing.Certificate, c.Signing.Key
			}
			return certificates.Run(ctx, config)
		}},
		{garbagecollector.Name, func(ctx context.Context, cl client.Client, _ *client.Recorder) error {
			return garbagecollector.Run(ctx, garbagecollector.Config{Client: cl, Resources: c.Resources, Changed: c.Changed, Logger: c.Logger})
		}},
		{storageversion.Name, func(ctx context.Context, cl client.Client, _ *client.Recorder) error {
			return storageversion.Run(ctx, storageversion.Config{Client: cl, Feed: c.Manager, Resources: c.Resources, Logger: c.Logger})
		}},
		{resourcequota.Name, func(ctx context.Context, cl client.Client, _ *client.Recorder) error {
			return resourcequota.Run(ctx, resourcequota.Config{Client: cl, Resources: c.Resources, Logger: c.Logger})
		}},
	}
}

// Run takes part in the election and runs all controllers while it leads, until
// ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	leader := client.Leader{
		Client: c.Manager, Namespace: "kube-system", Name: "kube-controller-manager",
		Identity: c.Identity, Life: c.LeaseLife, Logger: c.Logger,
	}
	return leader.Run(ctx, func(ctx context.Context, _ client.Client, epoch client.Epoch) error {
		return lead(ctx, c, epoch)
	})
}

// lead runs everything in this epoch.
func lead(ctx context.Context, c Config, epoch client.Epoch) error {
	group, ctx := errgroup.WithContext(ctx)
	as := func(name string) client.Client { return c.As(name).Fenced(epoch) }
	recorders := &recorders{config: c, group: group, ctx: ctx, as: as, made: map[string]*client.Recorder{}}
	rows, err := loop.New(loop.Config{
		Controllers: table(c),
		Client:      c.Manager.Fenced(epoch),
		As:          as,
		Record: func(name string, e loop.Event) {
			recorders.of(name).Event(e.About, e.Type, e.Reason, e.Message)
		},
		Logger: c.Logger,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return rows.Run(ctx) })
	for _, s := range specials(c) {
		group.Go(func() error { return s.run(ctx, as(s.name), recorders.of(s.name)) })
	}
	return group.Wait()
}

// recorders makes one event recorder per controller, when it first tells something.
type recorders struct {
	config Config
	group  *errgroup.Group
	ctx    context.Context
	as     func(name string) client.Client

	mu   sync.Mutex
	made map[string]*client.Recorder // guarded by mu
}

func (r *recorders) of(name string) *client.Recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.made[name]; rec != nil {
		return rec
	}
	rec := client.NewRecorder(client.RecorderConfig{Client: r.as(name), Component: name, Logger: r.config.Logger})
	r.made[name] = rec
	r.group.Go(func() error { return rec.Run(r.ctx) })
	return rec
}
