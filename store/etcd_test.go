package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var last int64
	for round := range 4 {
		s, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: dir, Logger: testLogger(t)})
		check(t, err)
		r, err := s.Revision(t.Context())
		check(t, err)
		equal(t, "the revision after a restart", r, max(last, 1))
		w := s.Watch(t.Context(), "/", 0) // history is there too
		for i := range 300 {              // more than etcd keeps in memory without dropping any
			last = put(t, s, "/a", fmt.Sprint(round, i))
		}
		equal(t, "the number of events", len(read(t, w, 0, last)), 300*(round+1))
		check(t, s.Close())
	}
}

func TestDataDir(t *testing.T) {
	t.Parallel()
	open := func(dir string) error {
		s, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: dir, Logger: testLogger(t)})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	says := func(t *testing.T, err error, sentence string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), sentence) {
			t.Fatalf("the error is %v; want one that says %q", err, sentence)
		}
	}
	t.Run("of a newer release", func(t *testing.T) {
		dir := t.TempDir()
		check(t, open(dir))
		check(t, os.WriteFile(filepath.Join(dir, "version"), []byte("2\n"), 0o600))
		says(t, open(dir), "open store "+dir+": its data has version 2, written by a newer release, and this one reads versions up to 1: "+
			"start the newer release, or restore a backup made by this one")
		check(t, os.WriteFile(filepath.Join(dir, "version"), []byte("1\n"), 0o600))
		check(t, open(dir)) // it was not touched
	})
	t.Run("in use", func(t *testing.T) {
		s := openEmbeddedTest(t, t.TempDir())
		says(t, open(filepath.Dir(s.body.(*embedded).etcd.Config().Dir)), "another process is using it")
	})
	t.Run("with a broken version", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, "version"), []byte("one"), 0o600))
		says(t, open(dir), `its version file says "one", which is no version`)
	})
	t.Run("with data, but no version", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.Mkdir(filepath.Join(dir, "etcd"), 0o700))
		says(t, open(dir), "it has data, but its version file is empty")
	})
}

func TestEmbeddedConfig(t *testing.T) {
	for sentence, c := range map[string]EmbeddedConfig{
		"no directory is given":                                                          {},
		"a member of a cluster needs PeerURLs":                                           {Dir: "x", Join: true},
		"peer URLs: http://10.0.0.1:2380 is neither https":                               {Dir: "x", PeerURLs: []string{"http://10.0.0.1:2380"}},
		"peer URLs: https://10.0.0.1:2380 needs TLS files":                               {Dir: "x", PeerURLs: []string{"https://10.0.0.1:2380"}},
		"client URLs: http://0.0.0.0:2379 is neither https, nor http on a loopback addr": {Dir: "x", ClientURLs: []string{"http://0.0.0.0:2379"}},
	} {
		_, err := OpenEmbedded(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), sentence) {
			t.Errorf("the error is %v; want one that says %q", err, sentence)
		}
	}
}

// A store that is full refuses writes, and takes them again after something was
// deleted and compacted.
func TestQuota(t *testing.T) {
	t.Parallel()
	embedded, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: t.TempDir(), Quota: 8 << 20, Logger: testLogger(t)})
	check(t, err)
	for _, s := range []Store{embedded, OpenMemory(MemoryConfig{Quota: 8 << 20})} {
		defer func() { check(t, s.Close()) }()
		value := bytes.Repeat([]byte("v"), 1<<20)
		var keys []string
		for {
			key := fmt.Sprintf("/%d", len(keys))
			_, err := s.Put(t.Context(), key, value, Condition{})
			if errors.Is(err, ErrNoSpace) {
				break
			}
			check(t, err)
			if keys = append(keys, key); len(keys) > 20 {
				t.Fatal("20 MiB fit in a quota of 8")
			}
		}
		if len(keys) < 3 {
			t.Fatalf("only %d MiB fit in a quota of 8", len(keys))
		}
		_, err := s.Put(t.Context(), "/ttl", value, Condition{TTL: time.Hour})
		wantErr(t, err, ErrNoSpace)
		_, err = s.Get(t.Context(), keys[0])
		check(t, err)
		var last int64
		for _, key := range keys {
			last = del(t, s, key)
		}
		check(t, s.Compact(t.Context(), last))
		put(t, s, "/again", string(value))
	}
}

func TestZapBridge(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := zapLogger(slog.New(handler)).With(zap.String("member", "m1"))
	log.Info("what etcd calls information")
	log.Warn("slow", zap.Duration("took", time.Second), zap.Strings("urls", []string{"a", "b"}), zap.Error(errors.New("disk")))
	log.Error("bad", zap.Int("n", 3))
	log.Warn("simple token is not cryptographically signed")
	equal(t, "the log", out.String(), `level=WARN msg=slow member=m1 took=1s urls="[a b]" error=disk
level=ERROR msg=bad member=m1 n=3
`)
}

// authority signs certificates for tests.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	check(t, err)
	a.cert, err = x509.ParseCertificate(der)
	check(t, err)
	a.write(t, "ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// issue makes a certificate for this machine, for servers and clients.
func (a *authority) issue(t *testing.T, name string) *TLSFiles {
	a.next++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1 + a.next), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	check(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	check(t, err)
	return &TLSFiles{Cert: a.write(t, name+".crt", "CERTIFICATE", cert), Key: a.write(t, name+".key", "EC PRIVATE KEY", der), CA: filepath.Join(a.dir, "ca.crt")}
}

func (a *authority) client(t *testing.T, files *TLSFiles) *tls.Config {
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}
}

// freeURLs returns URLs on loopback ports that nobody uses just now.
func freeURLs(t *testing.T, n int) []string {
	var urls []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		defer l.Close()
		urls = append(urls, "https://"+l.Addr().String())
	}
	return urls
}

// trio is a cluster of three members that talk TLS.
type trio struct {
	configs [3]EmbeddedConfig
	members [3]*Etcd
}

func newTrio(t *testing.T, a *authority) *trio {
	var c trio
	urls := freeURLs(t, 6)
	all := map[string][]string{}
	for i := range c.configs {
		name := fmt.Sprint("m", i)
		all[name] = urls[i : i+1]
		// What members say about those that are away is not of interest.
		c.configs[i] = EmbeddedConfig{Dir: t.TempDir(), Name: name, PeerURLs: urls[i : i+1], Members: all,
			PeerTLS: a.issue(t, name), ClientURLs: urls[3+i : 4+i], ClientTLS: a.issue(t, name+"-client")}
	}
	c.open(t, 0, 1, 2)
	return &c
}

// open starts members at once, as they wait for each other.
func (c *trio) open(t *testing.T, members ...int) {
	t.Helper()
	var group sync.WaitGroup
	for _, i := range members {
		group.Go(func() {
			var err error
			if c.members[i], err = OpenEmbedded(t.Context(), c.configs[i]); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func (c *trio) close(t *testing.T, members ...int) {
	t.Helper()
	for _, i := range members {
		check(t, c.members[i].Close()) // one by one, as each hands its leadership over
	}
}

func TestThreeMembers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := newTrio(t, a)
	defer c.close(t, 0, 1, 2)
	w := c.members[2].Watch(t.Context(), "/", 0)
	for i := range 30 {
		s, other := c.members[i%3], c.members[(i+1)%3]
		at := put(t, s, "/a", fmt.Sprint(i))
		// A write that one member acknowledged is seen by all.
		r, err := other.Revision(t.Context())
		check(t, err)
		if r < at {
			t.Fatalf("member %d is at revision %d after member %d acknowledged %d", (i+1)%3, r, i%3, at)
		}
		e, err := other.Get(t.Context(), "/a")
		check(t, err)
		equal(t, "the value elsewhere", string(e.Value), fmt.Sprint(i))
	}
	equal(t, "the number of events", len(read(t, w, 30, 0)), 30)

	// From outside, with and without a certificate.
	urls := append(append([]string{}, c.configs[0].ClientURLs...), c.configs[1].ClientURLs...)
	outside, err := OpenExternal(t.Context(), ExternalConfig{Endpoints: urls, TLS: a.client(t, a.issue(t, "outside"))})
	check(t, err)
	outsideWatch := outside.Watch(t.Context(), "/", 31)
	put(t, outside, "/a", "outside")
	equal(t, "what is seen outside", brief(read(t, outsideWatch, 1, 0)), "/a=outside@32")
	check(t, outside.Close())
	stranger := a.client(t, a.issue(t, "stranger"))
	stranger.Certificates = nil
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err := OpenExternal(ctx, ExternalConfig{Endpoints: urls, TLS: stranger}); err == nil {
		_ = s.Close()
		t.Fatal("a stranger was let in")
	}

	// Without a majority, a write may have happened or not.
	c.close(t, 1, 2)
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = c.members[0].Put(ctx, "/a", []byte("?"), Condition{Revision: Any})
	wantErr(t, err, ErrUnknown)
	_, err = c.members[0].Get(ctx, "/a")
	if err == nil {
		t.Fatal("a member without a majority answered a linearizable read")
	}
	// One after the other: members that start at once wait for each other's hashes,
	// for seven seconds.
	c.open(t, 1)
	c.open(t, 2)
	put(t, c.members[0], "/a", "back")
	e, err := c.members[1].Get(t.Context(), "/a")
	check(t, err)
	equal(t, "the value after the majority came back", string(e.Value), "back")

	// The data of a cluster is not that of a lone member.
	c.close(t, 2)
	_, err = OpenEmbedded(t.Context(), EmbeddedConfig{Dir: c.configs[2].Dir})
	if err == nil || !strings.Contains(err.Error(), "a cluster of 3 members, but no PeerURLs are given") {
		t.Fatalf("a member of three opened alone: %v", err)
	}
	c.open(t, 2)
}

// A cluster grows from one member to two, and shrinks again.
func TestMembers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	urls := freeURLs(t, 2)
	first := EmbeddedConfig{Dir: t.TempDir(), Name: "m0", PeerURLs: urls[:1], PeerTLS: a.issue(t, "m0")}
	s, err := OpenEmbedded(t.Context(), first)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	at := put(t, s, "/a", "1")

	added, err := s.AddMember(t.Context(), urls[1:])
	check(t, err)
	joiner, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: t.TempDir(), Name: "m1", PeerURLs: urls[1:], PeerTLS: a.issue(t, "m1"),
		Members: map[string][]string{"m0": urls[:1], "m1": urls[1:]}, Join: true})
	check(t, err)
	for {
		if err = s.PromoteMember(t.Context(), added.ID); !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			break
		}
		put(t, s, "/b", "more to catch up with")
	}
	check(t, err)
	members, err := joiner.Members(t.Context())
	check(t, err)
	equal(t, "the members", fmt.Sprint(len(members), members[0].Learner || members[1].Learner), "2 false")
	e, err := joiner.Get(t.Context(), "/a")
	check(t, err)
	equal(t, "the revision that the new member has", e.Revision, at)

	w := joiner.Watch(t.Context(), "/none", 0)
	// etcd does not let a member go before it has known it for five seconds.
	for {
		if err = s.RemoveMember(t.Context(), added.ID); !errors.Is(err, rpctypes.ErrUnhealthy) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	check(t, err)
	for range w.C {
	}
	if <-joiner.Done(); joiner.Err() == nil || w.Err() == nil {
		t.Fatalf("the removed member says %v, its watch %v", joiner.Err(), w.Err())
	}
	t.Log(joiner.Err(), w.Err())
	_, err = joiner.Get(t.Context(), "/a")
	if err == nil {
		t.Fatal("the removed member answers")
	}
	check(t, joiner.Close())
	put(t, s, "/a", "alone")
}
