package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// EmbeddedConfig says how etcd runs inside this process.
type EmbeddedConfig struct {
	// Dir is the directory of this store alone; it is made if it is not there.
	Dir string
	// Logger gets what etcd logs, its information as debugging. nil: nobody does.
	Logger *slog.Logger
	// Quota is how large the database may grow, in bytes; beyond it Put answers
	// ErrNoSpace until something is deleted and compacted. 0 means 8 GiB.
	Quota int64

	// Name is this member's in its cluster. "" means "skiff".
	Name string
	// PeerURLs are where this member listens for the other members (https, or
	// http and unix on this machine). None means that it is alone, and listens
	// nowhere.
	PeerURLs []string
	// AdvertisePeerURLs are where the other members find it. None means PeerURLs.
	AdvertisePeerURLs []string
	// Members are the peer URLs of all members by name, this one included, as they
	// are when this one first starts. nil means this one alone.
	Members map[string][]string
	// Join says that the cluster of Members is there already, with this one added
	// to it.
	Join bool
	// PeerTLS is how members know each other. It must be there if a URL is https.
	PeerTLS *TLSFiles

	// ClientURLs are where other processes may use this etcd directly, with all
	// rights. None means nowhere.
	ClientURLs []string
	// ClientTLS is how clients are known. It must be there if a URL is https.
	ClientTLS *TLSFiles
}

// TLSFiles names PEM files. They are read again at each connection, so that a
// renewed certificate needs no restart. Either side must present a certificate
// that CA has signed.
type TLSFiles struct{ Cert, Key, CA string }

const (
	defaultQuota = 8 << 30
	// A lone member needs no heartbeat: it elects itself at once (see elect), and
	// nobody can depose it. Ticks are most of what an idle etcd costs (processor
	// time of an otherwise idle store, and the time until it is ready on empty data;
	// measured side by side on a 2-core machine with other load):
	//
	//	tick/election   idle      ready
	//	10/100 ms       1.8 %     120 ms
	//	50/500 ms       0.7 %     480 ms
	//	100/1000 ms     0.4 %     320–800 ms
	//	500/5000 ms     0.2–0.4 % 9–50 ms, with elect
	//	1000/10000 ms   0.3 %     9–30 ms, with elect
	loneTick, loneElection = 500 * time.Millisecond, 5 * time.Second
	// etcd's own defaults: good for members up to 50 ms apart.
	peerTick, peerElection = 100 * time.Millisecond, time.Second
	// How many entries stay in memory for followers, and how often the write-ahead
	// log is cut. etcd's defaults (10,000 and 5,000) cost 30 MB.
	snapshotCount, catchUpEntries = 1000, 500
	// A start reads all of the last segment of the log, and two of them take room
	// on disk from the beginning. etcd's default is 64 MB.
	segmentSize = 16 << 20
)

// segments sets etcd's segment size, which is the process's, before any etcd of
// this package runs.
var segments sync.Once

// embedded is etcd in this process.
type embedded struct {
	etcd   *embed.Etcd
	server *etcdserver.EtcdServer
	client *clientv3.Client
	dir    *dataDir
	// lone says that there are no other members: this one listens for none.
	lone bool
	// local says that reads of what is applied here are linearizable. That holds
	// in a lone member that nobody else can reach to add another: a write is
	// acknowledged only after it was applied here, nobody else can commit one, and
	// start waits until all that was acknowledged before is applied.
	local bool
}

// OpenEmbedded starts etcd in c.Dir and returns when it is ready: a lone member in
// milliseconds, others when a majority is there. When etcd finds that it can write
// no more (after a failed fsync, say), it ends the process: what was acknowledged
// must be durable, and after such a failure nothing can be said about that.
func OpenEmbedded(ctx context.Context, c EmbeddedConfig) (*Etcd, error) {
	e, err := openEmbedded(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Dir, err)
	}
	return e, nil
}

func openEmbedded(ctx context.Context, c EmbeddedConfig) (_ *Etcd, err error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	config, err := c.etcd()
	if err != nil {
		return nil, err
	}
	b := &embedded{lone: c.lone()}
	b.local = b.lone && len(c.ClientURLs) == 0
	if b.dir, err = openDataDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	segments.Do(func() { wal.SegmentSizeBytes = segmentSize })
	if err = b.start(ctx, config); errors.Is(err, errUnborn) {
		c.Logger.Warn("the store's first start was cut off before there was any data: starting anew", "dir", c.Dir)
		err = b.rebirth(ctx, config)
	}
	if err != nil {
		return nil, err
	}
	b.client = v3client.New(b.server)
	e := newEtcd(b.client, b, newGate(), c.Logger)
	if b.local {
		e.reads = []clientv3.OpOption{clientv3.WithSerializable()}
	}
	e.leases.adopt(ctx)
	e.gate.loop(e.leases.run)
	e.gate.loop(func(ctx context.Context) { b.guard(ctx, e.gate) })
	return e, nil
}

func (c EmbeddedConfig) lone() bool { return len(c.PeerURLs) == 0 }

// etcd returns the configuration in etcd's words.
func (c EmbeddedConfig) etcd() (*embed.Config, error) {
	if c.Dir == "" {
		return nil, errors.New("no directory is given")
	}
	if c.lone() && (len(c.Members) > 1 || c.Join) {
		return nil, errors.New("a member of a cluster needs PeerURLs")
	}
	e := embed.NewConfig()
	e.Name = "skiff"
	if c.Name != "" {
		e.Name = c.Name
	}
	e.Dir = filepath.Join(c.Dir, "etcd")
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(c.Logger))
	e.SnapshotCount, e.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	e.QuotaBackendBytes = defaultQuota
	if c.Quota > 0 {
		e.QuotaBackendBytes = c.Quota
	}
	e.MaxRequestBytes = maxValue + 4096 // of the transaction around the value
	e.EnableGRPCGateway = false
	gates := "LeaseCheckpoint=true" // what is left of leases survives a restart
	e.TickMs, e.ElectionMs = uint(loneTick.Milliseconds()), uint(loneElection.Milliseconds())
	if !c.lone() {
		// Hashes are compared with the other members' at the start and at each
		// compaction.
		gates += ",InitialCorruptCheck=true,CompactHashCheck=true"
		e.TickMs, e.ElectionMs = uint(peerTick.Milliseconds()), uint(peerElection.Milliseconds())
	}
	if err := e.ServerFeatureGate.(featuregate.MutableFeatureGate).Set(gates); err != nil {
		return nil, fmt.Errorf("set etcd's features %s: %w", gates, err)
	}
	return e, c.addresses(e)
}

// addresses fills in where etcd listens and whom it trusts.
func (c EmbeddedConfig) addresses(e *embed.Config) (err error) {
	if e.ListenPeerUrls, err = parseURLs(c.PeerURLs, c.PeerTLS); err != nil {
		return fmt.Errorf("peer URLs: %w", err)
	}
	advertise := c.AdvertisePeerURLs
	if len(advertise) == 0 {
		advertise = c.PeerURLs
	}
	if len(advertise) == 0 {
		advertise = []string{"http://127.0.0.1:0"} // nobody will ask for it
	}
	if e.AdvertisePeerUrls, err = parseURLs(advertise, c.PeerTLS); err != nil {
		return fmt.Errorf("advertised peer URLs: %w", err)
	}
	if e.ListenClientUrls, err = parseURLs(c.ClientURLs, c.ClientTLS); err != nil {
		return fmt.Errorf("client URLs: %w", err)
	}
	e.AdvertiseClientUrls = e.ListenClientUrls
	e.PeerTLSInfo, e.ClientTLSInfo = c.PeerTLS.info(), c.ClientTLS.info()
	if c.Join {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	members := c.Members
	if len(members) == 0 {
		members = map[string][]string{e.Name: advertise}
	}
	var initial []string
	for name, urls := range members {
		for _, u := range urls {
			initial = append(initial, name+"="+u)
		}
	}
	slices.Sort(initial)
	e.InitialCluster = strings.Join(initial, ",")
	return nil
}

// parseURLs refuses addresses that strangers could use.
func parseURLs(list []string, files *TLSFiles) ([]url.URL, error) {
	var urls []url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		local := u.Hostname() == "127.0.0.1" || u.Hostname() == "::1" || u.Hostname() == "localhost"
		switch {
		case u.Scheme == "https" && files == nil:
			return nil, fmt.Errorf("%s needs TLS files", s)
		case u.Scheme == "https", u.Scheme == "unix", u.Scheme == "http" && local:
		default:
			return nil, fmt.Errorf("%s is neither https, nor http on a loopback address, nor a unix socket", s)
		}
		urls = append(urls, *u)
	}
	return urls, nil
}

func (f *TLSFiles) info() transport.TLSInfo {
	if f == nil {
		return transport.TLSInfo{}
	}
	return transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: true}
}

// guard shuts the gate if etcd stops by itself.
func (b *embedded) guard(ctx context.Context, g *gate) {
	select {
	case <-ctx.Done():
	case <-b.server.StopNotify():
		g.close(errors.New("etcd has stopped: this member is not in its cluster any more"))
	case err := <-b.etcd.Err():
		g.close(fmt.Errorf("etcd has stopped: %w", err))
	}
}

// newest implements body.
func (b *embedded) newest(ctx context.Context) (int64, error) {
	if !b.local {
		// Concurrent callers share one round to the leader.
		if err := b.server.LinearizableReadNotify(ctx); err != nil {
			return 0, err
		}
	}
	return b.server.KV().Rev(), nil
}

// reclaim implements body: it makes the file smaller and lifts etcd's ban on
// writes, which otherwise stays until an administrator comes.
func (b *embedded) reclaim(ctx context.Context) error {
	if err := b.server.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	alarms, err := b.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("list alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE || a.MemberID != uint64(b.server.MemberID()) {
			continue
		}
		if _, err := b.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("disarm the alarm: %w", err)
		}
	}
	return nil
}

// close implements body.
func (b *embedded) close() error {
	var err error
	if b.client != nil {
		err = b.client.Close()
		if errors.Is(err, context.Canceled) {
			err = nil // how a client without a connection says that it is closed
		}
	}
	if b.etcd != nil {
		b.etcd.Close()
	}
	return errors.Join(err, b.dir.close())
}
