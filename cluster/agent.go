package cluster

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"skiff/client"
	"skiff/cluster/pki"
)

// AgentConfig is what it takes to make a machine a node of a cluster.
type AgentConfig struct {
	// DataDir holds the node's keys, containers and state below agent/. Required.
	DataDir string
	// Servers are addresses of the cluster's servers: https://HOST:PORT. They are
	// asked in order; the cluster's others are learned from it. Required until the
	// node has joined.
	Servers []string
	// Token lets the node join, the first time; see JoinToken.
	Token string
	Node  NodeConfig
	// Ready is called when the node is registered. Nil: nobody is told.
	Ready  func()
	Logger *slog.Logger // nil: slog.Default()
}

// agent is a machine that joins a cluster as a node.
type agent struct {
	c     AgentConfig
	log   *slog.Logger
	roots *x509.CertPool
	way   *way

	client, serving *signed
}

// AgentDir is where an agent's data is below a data directory.
func AgentDir(dataDir string) string { return filepath.Join(dataDir, "agent") }

func (a *agent) file(name string) string { return filepath.Join(AgentDir(a.c.DataDir), name) }

// RunAgent joins the cluster, if this machine has not joined yet, and runs the node
// until ctx ends. Containers run on then.
func RunAgent(ctx context.Context, c AgentConfig) error {
	if c.DataDir == "" {
		return errors.New("agent: no data directory is given")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Ready == nil {
		c.Ready = func() {}
	}
	if err := c.Node.complete(); err != nil {
		return err
	}
	a := &agent{c: c, log: c.Logger}
	lock, err := lockDir(AgentDir(c.DataDir))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := a.join(ctx); err != nil || ctx.Err() != nil {
		return unlessOver(ctx, err)
	}
	api, err := client.NewRemote(a.way.config(a.roots, a.client.ForClient), "skiff-agent")
	if err != nil {
		return err
	}
	settings, err := a.settings(ctx, api)
	if err != nil {
		return unlessOver(ctx, err)
	}
	m := &machine{
		c: a.c.Node, dir: AgentDir(c.DataDir), settings: settings, api: api,
		serving: a.serving.Get, clients: func() *x509.CertPool { return a.roots }, log: a.log,
	}
	group, ctx := errgroup.WithContext(ctx)
	registered := make(chan struct{})
	group.Go(func() error { return m.run(ctx, func() { close(registered); c.Ready() }) })
	group.Go(func() error { return a.client.keep(ctx, api) })
	group.Go(func() error { return a.way.learn(ctx, api, a.keepServers) })
	group.Go(func() error {
		select { // the node's addresses must be known before its names are signed
		case <-registered:
			return a.serving.keep(ctx, api)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// unlessOver is nil when ctx has ended: then an error is only its consequence.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// EndAgent ends all that runs on a node whose agent has been stopped, and takes
// away what it has made on the machine. Its data stays.
func EndAgent(ctx context.Context, c AgentConfig) error {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := c.Node.complete(); err != nil {
		return err
	}
	dir := AgentDir(c.DataDir)
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	return (&machine{c: c.Node, dir: dir, log: c.Logger}).leave(ctx)
}

// lockDir makes a directory this process's own until the file is closed.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s (does another process use it?): %w", dir, err)
	}
	return f, nil
}

// join gives the agent all that it needs to speak as its node.
func (a *agent) join(ctx context.Context) error {
	servers, err := a.findServers()
	if err != nil {
		return err
	}
	var token *JoinToken
	if a.c.Token != "" {
		t, err := ParseJoinToken(a.c.Token)
		if err != nil {
			return err
		}
		token = &t
	}
	if err := a.findAuthority(ctx, servers, token); err != nil {
		return err
	}
	if len(a.c.Node.IPs) == 0 {
		ip, err := addressTowards(servers[0])
		if err != nil {
			return err
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			a.c.Node.IPs = []netip.Addr{addr.Unmap()}
		}
	}
	a.prepareCertificates()
	if _, err := a.serving.load(time.Now()); err != nil {
		a.log.Warn("the serving certificate is asked for anew", "error", err)
	}
	ok, err := a.client.load(time.Now())
	if err != nil || ok {
		return err
	}
	if token == nil {
		return errors.New("this node has no certificate that is still good: join again with --token (see `skiff token create` on a server)")
	}
	return a.introduce(ctx, *token)
}

// findServers are those that the user names and those that were learned.
func (a *agent) findServers() ([]string, error) {
	var given, known []string
	for _, s := range a.c.Servers {
		at, err := hostPort(s)
		if err != nil {
			return nil, err
		}
		given = append(given, at)
	}
	if _, err := loadJSON(a.file("servers.json"), &known); err != nil {
		return nil, err
	}
	a.way = newWay(given, known, a.log)
	if len(a.way.servers) == 0 {
		return nil, errors.New("name a server of the cluster with --server https://HOST:6443")
	}
	return a.way.servers, nil
}

func (a *agent) keepServers(servers []string) {
	if err := saveJSON(a.file("servers.json"), servers); err != nil {
		a.log.Warn("the servers are not remembered", "error", err)
	}
}

// findAuthority takes the cluster's authority from where it is kept, or from a
// server, if it is the one that the token pins.
func (a *agent) findAuthority(ctx context.Context, servers []string, token *JoinToken) error {
	a.roots = x509.NewCertPool()
	file := a.file("pki/ca.crt")
	data, err := os.ReadFile(file)
	if err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return fmt.Errorf("read %s: it is not PEM", file)
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if token != nil && pki.HashOf(ca) != token.Pin {
			return fmt.Errorf("this node belongs to another cluster than the token: stop its agent, run `skiff agent --end`, and remove %s", AgentDir(a.c.DataDir))
		}
		a.roots.AddCert(ca)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if token == nil {
		return errors.New("this node has not joined a cluster yet: give --token (see `skiff token create` on a server)")
	}
	ca, err := a.awaitAuthority(ctx, servers, token.Pin)
	if err != nil {
		return err
	}
	a.roots.AddCert(ca)
	return writeWhole(file, pki.EncodeCertificate(ca.Raw), 0o644)
}

// awaitAuthority asks the servers in turn until one answers.
func (a *agent) awaitAuthority(ctx context.Context, servers []string, pin string) (*x509.Certificate, error) {
	for {
		for _, server := range servers {
			ca, err := fetchAuthority(ctx, server, pin)
			if err == nil {
				return ca, nil
			}
			if ctx.Err() != nil || mistrusted(err) {
				return nil, err
			}
			a.log.Warn("the server does not answer yet", "server", server, "error", err)
		}
		if !sleep(ctx, 2*time.Second) {
			return nil, ctx.Err()
		}
	}
}

// mistrusted tells an answer that will not get better from none.
func mistrusted(err error) bool {
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	return errors.Is(err, errMistrust) || errors.As(err, &name) || errors.As(err, &invalid) || errors.As(err, &unknown)
}

// prepareCertificates says which certificates the node needs.
func (a *agent) prepareCertificates() {
	subject := pkix.Name{CommonName: "system:node:" + a.c.Node.Name, Organization: []string{"system:nodes"}}
	a.client = &signed{
		file: a.file("pki/client.pem"), signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
		usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		request: &x509.CertificateRequest{Subject: subject}, log: a.log,
		renewed: a.way.conns.CloseAll, // connections show the certificate that they were made with
	}
	serving := &x509.CertificateRequest{Subject: subject, DNSNames: []string{a.c.Node.Name}}
	for _, ip := range a.c.Node.IPs {
		serving.IPAddresses = append(serving.IPAddresses, ip.AsSlice())
	}
	a.serving = &signed{
		file: a.file("pki/serving.pem"), signer: certificatesv1.KubeletServingSignerName,
		usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		request: serving, log: a.log,
	}
}

// introduce gets the node its first certificate, with the token.
func (a *agent) introduce(ctx context.Context, token JoinToken) error {
	config := a.way.config(a.roots, nil)
	config.BearerToken = token.bearer()
	api, err := client.NewRemote(config, "skiff-agent")
	if err != nil {
		return err
	}
	for {
		err := a.client.obtain(ctx, api)
		switch {
		case err == nil:
			a.log.Info("this node has joined the cluster", "node", a.c.Node.Name)
			a.keepServers(a.way.given) // the others are learned
			return nil
		case apierrors.IsUnauthorized(err):
			return fmt.Errorf("the cluster does not know the token %s, or it has expired: make another with `skiff token create` on a server", token.ID)
		case apierrors.IsForbidden(err) || ctx.Err() != nil:
			return err
		}
		a.log.Warn("the node has not joined yet", "error", err)
		if !sleep(ctx, 2*time.Second) {
			return ctx.Err()
		}
	}
}

// settings are read once: they never change, and an agent must start when no
// server is there.
func (a *agent) settings(ctx context.Context, api client.Client) (Settings, error) {
	var s Settings
	if ok, err := loadJSON(a.file("settings.json"), &s); ok || err != nil {
		return s, err
	}
	for {
		s, err := readSettings(ctx, api)
		if err == nil {
			return s, saveJSON(a.file("settings.json"), s)
		}
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		a.log.Warn("the cluster's settings are not known yet", "error", err)
		if !sleep(ctx, time.Second) {
			return s, ctx.Err()
		}
	}
}

// AdminClient acts with the rights of a kubeconfig, and says which authority it
// trusts.
func AdminClient(config *rest.Config) (client.Client, string, error) {
	data := config.CAData
	if len(data) == 0 && config.CAFile != "" {
		var err error
		if data, err = os.ReadFile(config.CAFile); err != nil {
			return nil, "", fmt.Errorf("read the authority of the kubeconfig: %w", err)
		}
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, "", errors.New("the kubeconfig names no authority, so there is nothing that a token could pin")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("read the authority of the kubeconfig: %w", err)
	}
	c, err := client.NewRemote(config, "skiff")
	return c, pki.HashOf(ca), err
}
