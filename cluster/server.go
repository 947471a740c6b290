package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/api"
	"skiff/apiserver"
	"skiff/cluster/local"
	"skiff/cluster/pki"
	"skiff/store"
)

// ServerConfig is what it takes to make a machine a server of a cluster: one that
// runs the control plane, and a node too unless it says otherwise.
type ServerConfig struct {
	// DataDir holds keys, store and state below server/, and the node's below
	// agent/. Required.
	DataDir string
	// Listen is the address to listen on. Empty: all.
	Listen string
	// Advertise is the address by which other machines and pods reach this server.
	// Zero: the one towards the default route, or the machine's only one.
	Advertise netip.Addr
	// Names by which clients know the server beside its addresses and its name:
	// host names and addresses.
	Names []string
	// Settings of a new cluster. What is zero gets a default; a cluster that is
	// there keeps its own and refuses others.
	Settings Settings
	// Name of this server among the others, different from theirs. Empty: the
	// node's.
	Name string

	// Join is an address of a server of the cluster to join, with a server's token.
	// Empty: the cluster is made, or this server is of it already.
	Join, Token string
	// PeerPort is where the embedded etcd talks to the other servers'. 0: 2380.
	PeerPort int
	// Etcd is an external one. No endpoints: etcd is embedded.
	Etcd EtcdConfig

	// LeaseLife is how long the other servers wait for this one when it is not heard
	// of, in whole seconds; 0: 15 s. The same on all servers.
	LeaseLife time.Duration
	// NoAgent leaves the node out.
	NoAgent bool
	Node    NodeConfig
	// Ready is called when the server answers and its node, if it has one, is
	// registered; kubeconfig is the administrator's file. Nil: nobody is told.
	Ready  func(kubeconfig string)
	Logger *slog.Logger // nil: slog.Default()
}

// EtcdConfig is how to reach an etcd that runs elsewhere. The files are PEM.
type EtcdConfig struct {
	Endpoints     []string
	CA, Cert, Key string // files; empty: the system's authorities, no certificate
}

// record is what a server remembers of itself, in server.json.
type record struct {
	Version  int      `json:"version"`
	Name     string   `json:"name"`
	ID       string   `json:"id"` // of its own, for elections
	Settings Settings `json:"settings"`
	External bool     `json:"externalEtcd,omitempty"`
	// Of embedded etcd: where the others find it, and who they were when it started
	// for the first time. Joined: they were there before it.
	PeerURL string              `json:"peerURL,omitempty"`
	Members map[string][]string `json:"members,omitempty"`
	Joined  bool                `json:"joined,omitempty"`
}

const recordVersion = 1

// server is one server of a cluster.
type server struct {
	c      ServerConfig
	log    *slog.Logger
	record record
	keys   *Keys
	peers  *pki.Authority // signs for etcd's members; nil: etcd is external
	etcd   *store.Etcd
}

// ServerDir is where a server's data is below a data directory.
func ServerDir(dataDir string) string { return filepath.Join(dataDir, "server") }

// AdminKubeconfig is the administrator's file of a server.
func AdminKubeconfig(dataDir string) string {
	return filepath.Join(ServerDir(dataDir), "admin.kubeconfig")
}

func (s *server) file(name string) string { return filepath.Join(ServerDir(s.c.DataDir), name) }

// RunServer runs the server until ctx ends: keys, store, control plane, node.
// Containers run on then.
func RunServer(ctx context.Context, c ServerConfig) error {
	s, err := newServer(c)
	if err != nil {
		return err
	}
	lock, err := lockDir(ServerDir(c.DataDir))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := s.found(ctx); err != nil {
		return unlessOver(ctx, err)
	}
	if err := s.openStore(ctx); err != nil {
		return unlessOver(ctx, err)
	}
	defer func() {
		if err := s.etcd.Close(); err != nil {
			s.log.Error("the store did not close", "error", err)
		}
	}()
	if err := s.oneAuthority(ctx); err != nil {
		return unlessOver(ctx, err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(s.c.Listen, strconv.Itoa(s.record.Settings.Port)))
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	plane, err := s.controlPlane(listener)
	if err != nil {
		listener.Close()
		return err
	}
	return s.run(ctx, plane)
}

func newServer(c ServerConfig) (*server, error) {
	if c.DataDir == "" {
		return nil, errors.New("server: no data directory is given")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Ready == nil {
		c.Ready = func(string) {}
	}
	if c.PeerPort == 0 {
		c.PeerPort = 2380
	}
	if c.NoAgent && c.Node.Runtime == "" {
		c.Node.Runtime = local.Simulated // nothing of it runs; it need not be root's
	}
	if err := c.Node.complete(); err != nil {
		return nil, err
	}
	if c.Name == "" {
		c.Name = c.Node.Name
	}
	if !c.Advertise.IsValid() {
		found, err := addressesOf()
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, errors.New("this machine has no address that others could reach: give --advertise-address")
		}
		c.Advertise = found[0]
	}
	if len(c.Node.IPs) == 0 {
		c.Node.IPs = []netip.Addr{c.Advertise}
	}
	return &server{c: c, log: c.Logger}, nil
}

// found makes or finds what the server is: its record and its keys.
func (s *server) found(ctx context.Context) error {
	known, err := loadJSON(s.file("server.json"), &s.record)
	if err != nil {
		return err
	}
	switch {
	case known && s.record.Version > recordVersion:
		return fmt.Errorf("the data in %s was written by a newer skiff (version %d, this one knows %d): use that one", s.c.DataDir, s.record.Version, recordVersion)
	case known:
		err = s.resume()
	case s.c.Join != "":
		err = s.joinCluster(ctx)
	default:
		err = s.create()
	}
	if err != nil {
		return err
	}
	if s.keys, err = LoadKeys(s.file("keys")); err != nil || s.record.External {
		return err
	}
	s.peers, err = pki.LoadAuthority(s.file("keys"), "etcd-ca", "etcd-ca", time.Now())
	return err
}

// create makes a new cluster.
func (s *server) create() error {
	settings := s.wanted(defaultSettings())
	if err := settings.check(); err != nil {
		return err
	}
	id, err := randomText(8)
	if err != nil {
		return err
	}
	s.record = record{Version: recordVersion, Name: s.c.Name, ID: id, Settings: settings, External: len(s.c.Etcd.Endpoints) > 0}
	if !s.record.External {
		s.record.PeerURL = s.peerURL()
		s.record.Members = map[string][]string{s.c.Name: {s.record.PeerURL}}
	}
	return s.saveRecord()
}

func (s *server) saveRecord() error { return saveJSON(s.file("server.json"), s.record) }

// wanted are the settings that the user gives, over others.
func (s *server) wanted(over Settings) Settings {
	if len(s.c.Settings.PodCIDRs) > 0 {
		over.PodCIDRs = s.c.Settings.PodCIDRs
	}
	if len(s.c.Settings.ServiceCIDRs) > 0 {
		over.ServiceCIDRs = s.c.Settings.ServiceCIDRs
	}
	if s.c.Settings.Port != 0 {
		over.Port = s.c.Settings.Port
	}
	return over
}

func (s *server) peerURL() string {
	return "https://" + net.JoinHostPort(s.c.Advertise.String(), strconv.Itoa(s.c.PeerPort))
}

// resume refuses what cannot be changed about a server that is there.
func (s *server) resume() error {
	if err := s.record.Settings.differs(s.wanted(s.record.Settings)); err != nil {
		return err
	}
	switch external := len(s.c.Etcd.Endpoints) > 0; {
	case external && !s.record.External:
		return fmt.Errorf("the data in %s is in an embedded etcd: leave --etcd-endpoints out, or use another --data-dir", s.c.DataDir)
	case !external && s.record.External:
		return errors.New("this server's data is in an external etcd: give --etcd-endpoints")
	case !external && s.record.PeerURL != s.peerURL():
		return fmt.Errorf("the other servers know this one as %s, not as %s: give --advertise-address and --peer-port as they were, or remove this server from the cluster (`skiff server remove %s` on another one), delete %s and join anew",
			s.record.PeerURL, s.peerURL(), s.record.Name, ServerDir(s.c.DataDir))
	case s.record.Name != s.c.Name:
		return fmt.Errorf("this server is %s in its cluster, not %s: give --node-name %s", s.record.Name, s.c.Name, s.record.Name)
	}
	return nil
}

// openStore opens etcd, and gives this member its vote if it has none yet.
func (s *server) openStore(ctx context.Context) (err error) {
	if s.record.External {
		s.etcd, err = s.openExternal(ctx)
		return err
	}
	if err := s.issuePeer(time.Now()); err != nil {
		return err
	}
	files := &store.TLSFiles{Cert: s.file("peer.crt"), Key: s.file("peer.key"), CA: s.file("keys/etcd-ca.crt")}
	listen := "https://" + net.JoinHostPort(s.c.Advertise.String(), strconv.Itoa(s.c.PeerPort))
	if len(s.record.Members) > 1 {
		s.log.Info("waiting for the other servers", "servers", len(s.record.Members))
	}
	s.etcd, err = store.OpenEmbedded(ctx, store.EmbeddedConfig{
		Dir: s.file("store"), Logger: s.log, Name: s.record.Name,
		PeerURLs: []string{listen}, AdvertisePeerURLs: []string{s.record.PeerURL},
		Members: s.record.Members, Join: s.record.Joined, PeerTLS: files,
	})
	if err != nil && s.record.Joined && ctx.Err() == nil {
		return fmt.Errorf("%w (if this server was removed from its cluster, delete %s and join anew)", err, ServerDir(s.c.DataDir))
	}
	if err != nil {
		return err
	}
	if err := s.vote(ctx); err != nil {
		return errors.Join(err, s.etcd.Close())
	}
	return nil
}

func (s *server) openExternal(ctx context.Context) (*store.Etcd, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.c.Etcd.CA != "" {
		data, err := os.ReadFile(s.c.Etcd.CA)
		if err != nil {
			return nil, fmt.Errorf("read etcd's authority: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("read etcd's authority: %s has no certificate", s.c.Etcd.CA)
		}
	}
	if s.c.Etcd.Cert != "" {
		// Read at each connection, so that a renewed one needs no restart.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(s.c.Etcd.Cert, s.c.Etcd.Key)
			return &cert, err
		}
		if _, err := config.GetClientCertificate(nil); err != nil {
			return nil, fmt.Errorf("read the certificate for etcd: %w", err)
		}
	}
	return store.OpenExternal(ctx, store.ExternalConfig{Endpoints: s.c.Etcd.Endpoints, TLS: config, Logger: s.log})
}

// issuePeer writes the certificate with which etcd's members know each other. It
// is of an authority of their own: a node's certificate opens nothing there. etcd
// reads the files at each connection.
func (s *server) issuePeer(now time.Time) error {
	cert, err := s.peers.Issue(pki.Leaf{CommonName: s.record.Name, IPs: []net.IP{s.c.Advertise.AsSlice()}, Client: true, Server: true}, now)
	if err != nil {
		return err
	}
	key, err := pki.EncodeTLSKey(cert)
	if err != nil {
		return err
	}
	if err := writeWhole(s.file("peer.key"), key, 0o600); err != nil {
		return err
	}
	return writeWhole(s.file("peer.crt"), pki.EncodeCertificate(cert.Certificate[0]), 0o644)
}

// oneAuthority refuses a store that belongs to a cluster with other keys: every
// token and certificate of either would be void on the other's servers.
func (s *server) oneAuthority(ctx context.Context) error {
	entry, err := s.etcd.Get(ctx, api.For[*corev1.ConfigMap]().Key("kube-system", settingsName))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whose store it is: %w", err)
	}
	settings, pin, err := parseStoredSettings(entry.Value)
	switch {
	case err != nil:
		return fmt.Errorf("look whose store it is: %w", err)
	case pin != s.keys.CA.Hash():
		return errors.New("the store belongs to a cluster with other keys: join one of its servers with --join https://HOST:6443 --token TOKEN (see `skiff token create --server`), or give another etcd")
	}
	return settings.differs(s.record.Settings)
}

func (s *server) controlPlane(l net.Listener) (*ControlPlane, error) {
	names := []string{s.record.Name}
	ips := []net.IP{s.c.Advertise.AsSlice()}
	for _, ip := range s.c.Node.IPs {
		ips = append(ips, ip.AsSlice())
	}
	if ip := net.ParseIP(s.c.Listen); ip != nil && !ip.IsUnspecified() {
		ips = append(ips, ip)
	}
	for _, name := range s.c.Names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, name)
		}
	}
	return NewControlPlane(ControlPlaneConfig{
		Store: s.etcd, Keys: s.keys, Listeners: []net.Listener{l}, Names: names, IPs: ips,
		Advertise:    apiserver.Advertise{IP: s.c.Advertise.String(), Port: int32(s.record.Settings.Port)},
		ServiceCIDRs: texts(s.record.Settings.ServiceCIDRs), NodeRanges: s.record.Settings.nodeRanges(),
		Paths:    map[string]http.HandlerFunc{joinPath: s.serveJoin, membersPath: s.serveMembers},
		Identity: s.record.Name + "_" + s.record.ID, LeaseLife: s.c.LeaseLife, Logger: s.log,
	})
}

// run runs everything on the open store.
func (s *server) run(ctx context.Context, plane *ControlPlane) error {
	compactor, err := store.NewCompactor(store.CompactorConfig{Store: s.etcd, Logger: s.log})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	// The control plane ends after the node, which writes through it.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	planeEnded := make(chan struct{})
	group.Go(func() error {
		defer close(planeEnded)
		return plane.Run(serving)
	})
	group.Go(func() error { return compactor.Run(ctx) })
	group.Go(func() error { giveBack(ctx, plane.Ready()); return nil })
	group.Go(func() error {
		select {
		case <-s.etcd.Done(): // this server was removed, or etcd cannot go on
			return s.etcd.Err()
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return s.renewFiles(ctx) })
	group.Go(func() error {
		defer stop()
		select {
		case <-plane.Ready():
		case <-planeEnded:
			return nil
		case <-ctx.Done():
			return nil
		}
		if err := s.begin(ctx, plane); err != nil {
			return unlessOver(ctx, err)
		}
		if s.c.NoAgent {
			s.c.Ready(AdminKubeconfig(s.c.DataDir))
			<-ctx.Done()
			return nil
		}
		return s.runNode(ctx, plane)
	})
	return group.Wait()
}

// begin writes what every cluster of machines has, and the administrator's file.
func (s *server) begin(ctx context.Context, plane *ControlPlane) error {
	c := plane.Client(operator, "skiff")
	if err := s.record.Settings.publish(ctx, c, s.keys.CA.Hash()); err != nil {
		return fmt.Errorf("publish the cluster's settings: %w", err)
	}
	if err := ensureNameService(ctx, c, s.record.Settings.dns()...); err != nil {
		return fmt.Errorf("service kube-dns: %w", err)
	}
	return s.writeKubeconfig(time.Now())
}

// runNode makes this machine a node of its own cluster. It has the cluster's keys,
// and issues its own certificate.
func (s *server) runNode(ctx context.Context, plane *ControlPlane) error {
	dir := AgentDir(s.c.DataDir)
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	name := "system:node:" + s.c.Node.Name
	leaf := pki.Leaf{CommonName: name, Organizations: []string{user.NodesGroup}, DNSNames: []string{s.c.Node.Name}, Server: true}
	for _, ip := range s.c.Node.IPs {
		leaf.IPs = append(leaf.IPs, ip.AsSlice())
	}
	clients := s.keys.CA.Pool()
	m := &machine{
		c: s.c.Node, dir: dir, settings: s.record.Settings,
		api:     plane.Client(&user.DefaultInfo{Name: name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}, "skiff-agent"),
		serving: s.keys.CA.Renewed(leaf).Get, clients: func() *x509.CertPool { return clients }, log: s.log,
	}
	return m.run(ctx, func() { s.c.Ready(AdminKubeconfig(s.c.DataDir)) })
}

// filesRenewed is how often the certificates in files, which hold a year, are made
// anew.
const filesRenewed = 60 * 24 * time.Hour

func (s *server) renewFiles(ctx context.Context) error {
	for sleep(ctx, filesRenewed) {
		if s.peers != nil {
			if err := s.issuePeer(time.Now()); err != nil {
				s.log.Error("etcd's certificate is not renewed", "error", err)
			}
		}
		if err := s.writeKubeconfig(time.Now()); err != nil {
			s.log.Error("the administrator's kubeconfig is not renewed", "error", err)
		}
	}
	return nil
}

// writeKubeconfig writes the administrator's file, with a certificate of a year.
func (s *server) writeKubeconfig(now time.Time) error {
	cert, err := s.keys.CA.Issue(pki.Leaf{CommonName: "kubernetes-admin", Organizations: []string{user.SystemPrivilegedGroup}, Client: true}, now)
	if err != nil {
		return err
	}
	key, err := pki.EncodeTLSKey(cert)
	if err != nil {
		return err
	}
	access := local.Access{
		Server: "https://" + net.JoinHostPort(s.c.Advertise.String(), strconv.Itoa(s.record.Settings.Port)),
		CA:     s.keys.CA.PEM(), Certificate: pki.EncodeCertificate(cert.Certificate[0]), Key: key,
	}
	data, err := clientcmd.Write(*access.Kubeconfig("cluster"))
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return writeWhole(AdminKubeconfig(s.c.DataDir), data, 0o600)
}

// parseStoredSettings reads the config map as it lies in the store.
func parseStoredSettings(value []byte) (s Settings, pin string, err error) {
	m := &corev1.ConfigMap{}
	if err := decodeStored(value, m); err != nil {
		return s, "", err
	}
	if err := json.Unmarshal([]byte(m.Data[settingsKey]), &s); err != nil {
		return s, "", fmt.Errorf("config map %s: %w", settingsName, err)
	}
	return s, m.Data[pinKey], nil
}
